"""The httpx hook: an id and what is left of the time, on every hop at home and on none abroad."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from correlator import RequestTimeout, request_scope
from correlator.httpx import propagation_hook

from .aiohttp.serving import origin

HEADER = "X-Request-ID"
BUDGET = "X-Envoy-Expected-Rq-Timeout-Ms"


@pytest.fixture
async def home():
    async with origin() as made:
        yield made


@pytest.fixture
async def abroad():
    async with origin() as made:
        yield made


@pytest.fixture
async def client():
    hooks = {"request": [propagation_hook()]}
    async with httpx.AsyncClient(event_hooks=hooks, follow_redirects=True) as client:
        yield client


def ids(origin):
    return [seen.headers.get(HEADER) for seen in origin.seen]


async def test_the_id_and_what_is_left_go_along(home, client):
    with request_scope("my-id", timeout=2.0):
        await asyncio.sleep(0.05)  # really: something is to be gone
        await client.get(str(home.url()))
    (seen,) = home.seen
    assert seen.headers[HEADER] == "my-id"
    assert 1_000 < int(seen.headers[BUDGET]) <= 1_950


async def test_outside_of_a_scope_nothing_is_added(home, client):
    await client.get(str(home.url()))
    (seen,) = home.seen
    assert HEADER not in seen.headers
    assert BUDGET not in seen.headers


@pytest.mark.parametrize(
    "scope", [{}, {"request_id": "my-id"}, {"request_id": "my-id", "timeout": 2.0}]
)
async def test_headers_of_the_requests_own_stay_whatever_is_ambient(home, client, scope):
    with request_scope(**scope):
        await client.get(str(home.url()), headers={HEADER: "own", BUDGET: "7"})
    (seen,) = home.seen
    assert (seen.headers[HEADER], seen.headers[BUDGET]) == ("own", "7")


async def test_two_hooks_of_different_headers_do_not_mind_each_other(home):
    hooks = [propagation_hook(), propagation_hook(header="X-Other", deadline_header=None)]
    async with httpx.AsyncClient(event_hooks={"request": hooks}) as client:
        with request_scope("my-id"):
            await client.get(str(home.url()), headers={"X-Other": "own"})
    (seen,) = home.seen
    assert (seen.headers[HEADER], seen.headers["X-Other"]) == ("my-id", "own")


async def test_a_redirect_at_home_carries_them_with_what_is_left_then(home, client):
    async def slow(_request):
        await asyncio.sleep(0.1)  # really: sockets know no other clock
        return await redirect(_request)

    home.redirect("/from", "/to")
    redirect = home.answers["/from"]
    home.answers["/from"] = slow
    with request_scope("my-id", timeout=2.0):
        await client.get(str(home.url("/from")))
    first, second = home.seen
    assert ids(home) == ["my-id", "my-id"]
    assert int(second.headers[BUDGET]) <= int(first.headers[BUDGET]) - 90


async def test_a_redirect_abroad_carries_neither_and_nor_does_the_way_back(home, abroad, client):
    home.redirect("/from", abroad.url("/via"))
    abroad.redirect("/via", home.url("/to"))
    with request_scope("my-id", timeout=2.0):
        await client.get(str(home.url("/from")))
    assert ids(home) == ["my-id", None]
    assert ids(abroad) == [None]
    assert BUDGET not in abroad.seen[0].headers
    assert BUDGET not in home.seen[1].headers


async def test_a_request_that_was_led_away_and_is_sent_once_more_starts_afresh(
    home, abroad, client
):
    home.redirect("/from", abroad.url("/to"))
    request = client.build_request("GET", str(home.url("/from")))
    for request_id in ("first", "second"):
        with request_scope(request_id, timeout=2.0):
            await client.send(request)
    assert ids(home) == ["first", "second"]
    assert ids(abroad) == [None, None]
    assert BUDGET in home.seen[1].headers


async def test_the_next_request_starts_afresh(home, abroad, client):
    home.redirect("/from", abroad.url("/to"))
    with request_scope("my-id"):
        await client.get(str(home.url("/from")))
        await client.get(str(abroad.url("/direct")))
    assert ids(abroad) == [None, "my-id"]


async def test_once_the_deadline_has_passed_nothing_is_sent(home, client):
    with request_scope("my-id", timeout=0.01):
        await asyncio.sleep(0.02)  # really: until that has passed
        with pytest.raises(RequestTimeout):
            await client.get(str(home.url()))
    assert not home.seen


async def test_an_id_that_is_not_valid_is_not_passed_on(home, client):
    with request_scope("not\r\nvalid"):
        await client.get(str(home.url()))
    assert ids(home) == [None]


async def test_the_deadline_may_be_left_out_and_names_are_checked(home):
    hooks = {"request": [propagation_hook(header="X-Trace", deadline_header=None)]}
    async with httpx.AsyncClient(event_hooks=hooks) as client:
        with request_scope("my-id", timeout=2.0):
            await client.get(str(home.url()))
    (seen,) = home.seen
    assert seen.headers["X-Trace"] == "my-id"
    assert BUDGET not in seen.headers
    with pytest.raises(ValueError, match="header must be the name"):
        propagation_hook(header="a b")
