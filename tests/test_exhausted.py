"""Where memory or the stack ends in the middle of a step: nobody hangs, and nothing is left."""

from __future__ import annotations

import asyncio

import pytest

from correlator import Correlator, Disposition, Outcome
from correlator.labels import Labels
from correlator.memory import RememberedIds
from correlator.store import ExpiringStore

from .clock import turns
from .conftest import balanced

pytestmark = pytest.mark.virtual_time

ERRORS = pytest.mark.parametrize("error", [MemoryError, RecursionError])


def failing(monkeypatch, where, name, error):
    """Let a step fail as it does when there is no room for it."""

    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(where, name, fail)


@ERRORS
@pytest.mark.parametrize("step", [(RememberedIds, "remember"), (Labels, "settled")])
async def test_a_response_reaches_its_caller_though_settling_fails(monkeypatch, step, error):
    async with Correlator(max_pending_bytes=100) as correlator:
        waiting = asyncio.create_task(correlator.correlate("a", label="bank", size=7))
        await turns(2)
        with monkeypatch.context() as patch:
            failing(patch, *step, error)
            with pytest.raises(error):
                correlator.resolve("a", "response")
        assert await waiting == "response"
        assert (len(correlator), correlator.stats().pending_bytes) == (0, 0)
    balanced(correlator)


@ERRORS
@pytest.mark.parametrize("ambient", [False, True])
async def test_registering_leaves_nothing_when_it_fails(monkeypatch, error, ambient):
    async with Correlator(max_pending_bytes=100) as correlator:
        group = correlator.group("g")
        with monkeypatch.context() as patch:
            failing(patch, Labels, "registered", error)
            with pytest.raises(error):
                if ambient:
                    await group.correlate("a", label="bank", size=7)
                else:
                    group.register("a", label="bank", size=7)
        assert (len(correlator), len(group), correlator.stats().pending_bytes) == (0, 0, 0)
        assert correlator.stats_by_label() == {}
    balanced(correlator)
    assert correlator.stats().cancelled == 1


@ERRORS
async def test_room_that_cannot_be_given_back_is_no_error(monkeypatch, error):
    async with Correlator() as correlator:
        pendings = [correlator.register(timeout=10.0) for _ in range(1_000)]
        failing(monkeypatch, ExpiringStore, "_shrink", error)
        for pending in pendings:
            assert correlator.resolve(pending.request_id, None) is Disposition.MATCHED
        assert {pending.outcome for pending in pendings} == {Outcome.RESOLVED}
        assert len(correlator) == 0


async def test_who_waits_for_a_place_does_not_hang_when_there_is_no_memory(monkeypatch):
    async with Correlator(when_full="wait", max_pending=1) as correlator:
        first = correlator.register("first")
        waiting = asyncio.create_task(correlator.correlate("a", label="bank"))
        await turns(2)
        failing(monkeypatch, Labels, "registered", MemoryError)
        first.cancel()
        with pytest.raises(MemoryError):
            await waiting
        assert (len(correlator), correlator.stats().waiting) == (0, 0)
    balanced(correlator)
