"""Whatever goes wrong between replicas and their broker, the laws hold."""

from __future__ import annotations

import logging

import pytest

from .faults import WITHOUT_LOSS, Faults

REQUESTS = 30_000
FAULTS = 50

# What is tested is on the wire: one loop will do.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])


@pytest.fixture
def server(request, broker):
    """A broker of the test's own: it is killed."""
    return request.getfixturevalue(f"start_{broker}_server")()


@pytest.fixture(autouse=True)
def quiet():
    """What is logged of thousands of faults is not looked at here, nor kept by pytest."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("broker", ["nats", "valkey", "rabbitmq"])
async def test_the_laws_hold_through_fifty_faults_of_every_kind(server):
    report = await Faults(server, requests=REQUESTS, faults=FAULTS, seed=1).run()
    assert not report.violations, report.table()
    assert report.requests >= REQUESTS
    assert report.faults.total() >= FAULTS
    assert len(report.faults) == 9, "each kind of fault has struck"
    # While the broker is down, those that are told to fail do so at once, again and again: how many
    # they are says how long it was down in all, and nothing else.
    tried = report.requests - report.outcomes["CorrelatorClosed"]
    assert report.outcomes["reply"] > tried / 2, report.table()


@pytest.mark.parametrize("broker", ["valkey", "rabbitmq"])
async def test_no_reply_to_a_live_owner_is_lost_when_connections_are(server):
    faults = Faults(server, requests=REQUESTS, faults=FAULTS, seed=2, only=WITHOUT_LOSS)
    report = await faults.run()
    assert not report.violations, report.table()
    assert report.answered > report.requests / 2
    assert report.lost == 0, report.table()


@pytest.mark.parametrize("broker", ["nats"])
async def test_each_reply_that_is_lost_is_one_whose_request_got_none(server):
    faults = Faults(server, requests=REQUESTS, faults=FAULTS, seed=2, only=WITHOUT_LOSS)
    report = await faults.run()
    assert not report.violations, report.table()
    assert report.lost == report.lost_and_told, report.table()
