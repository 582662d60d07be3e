"""The Prefer header (RFC 7240): how it is read, and what the gateway does about it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.gateway.prefer import Preferences, parse_prefer

from .client import exchange, job_request

ALL_LATE = ("--timeout", "0.3", "--", "--never", "1.0")

READINGS = [
    ([], Preferences()),
    (["respond-async"], Preferences(respond_async=True)),
    (["Respond-Async"], Preferences(respond_async=True)),
    (["respond-async; foo=bar"], Preferences(respond_async=True)),
    (["wait=10"], Preferences(wait=10)),
    (["WAIT = 10"], Preferences(wait=10)),
    (['wait="10"'], Preferences(wait=10)),
    (["wait=0"], Preferences(wait=0)),
    (["respond-async, wait=10"], Preferences(respond_async=True, wait=10)),
    (["wait=10", "respond-async"], Preferences(respond_async=True, wait=10)),
    (["wait=1, wait=2"], Preferences(wait=1)),
    (["wait=1", "wait=2"], Preferences(wait=1)),
    (["return=minimal; foo, ,, handling=lenient, respond-async"], Preferences(respond_async=True)),
]
IGNORED = [
    "",
    ",;=",
    "wait",
    "wait=",
    "wait=-1",
    "wait=+1",
    "wait=1.5",
    "wait=1e3",
    "wait=soon",
    "wait=1 0",
    "wait=0x10",
    "wait=9999999999",
    "wait=\u0663",
    'wait="1',
    'wait=1"',
    "respond async",
    "x-respond-async",
    "respond-asynchronously",
    # In a quoted string a comma and a semicolon are like any other character.
    'foo="a, respond-async, b"',
    'foo="a, wait=1, b"',
]


@pytest.mark.parametrize(("fields", "preferences"), READINGS)
def test_what_is_preferred_is_understood(fields, preferences):
    assert parse_prefer(fields) == preferences


@pytest.mark.parametrize("field", IGNORED)
def test_what_is_malformed_or_unknown_is_ignored(field):
    assert parse_prefer([field]) == Preferences()


@given(st.lists(st.text() | st.text("respond-async, wait=\"0123456789';")))
@settings(max_examples=300, deadline=None)
def test_nothing_that_a_client_may_send_breaks_the_parser(fields):
    preferences = parse_prefer(fields)
    assert preferences.patience is None or 0 <= preferences.patience < 1e9


async def test_a_result_that_comes_while_the_client_waits_is_given_at_once(client):
    answer = await client.job({"n": 1}, Prefer="wait=5")
    assert (answer.status, answer.json) == (200, {"result": {"n": 1}})
    assert answer.headers["Preference-Applied"] == "wait=5"
    assert "Location" not in answer.headers


async def test_both_preferences_are_applied_and_named(client):
    answer = await client.job({"n": 1}, Prefer="respond-async, wait=5")
    assert (answer.status, answer.json) == (200, {"result": {"n": 1}})
    assert answer.headers["Preference-Applied"] == "respond-async, wait=5"


async def test_a_client_that_has_waited_long_enough_is_told_where_to_ask(scripted, upstream):
    started = asyncio.get_running_loop().time()
    answer = await scripted.job({}, Prefer="wait=1")
    assert asyncio.get_running_loop().time() - started >= 1
    assert answer.status == 202
    assert answer.headers["Preference-Applied"] == "wait=1"
    assert (await scripted.get(answer.headers["Location"])).status == 202
    assert await upstream.call_back(await upstream.job_taken(), b'"done"') == 204
    assert (await scripted.get(answer.headers["Location"])).json == "done"


async def test_nobody_waits_longer_than_a_job_may_take(client_of):
    answer = await client_of(*ALL_LATE).job({}, Prefer="wait=3600")
    assert answer.status in (202, 504)
    assert answer.headers["Preference-Applied"] == "wait=3600"


async def test_a_caller_s_deadline_shortens_the_wait_for_a_202(client_of, upstream):
    client = client_of("--timeout", "20", "--upstream", upstream.url)
    async with asyncio.timeout(6):
        answer = await client.job({}, Prefer="wait=15", X_Envoy_Expected_Rq_Timeout_Ms="300")
    assert answer.status == 202
    assert await upstream.call_back(await upstream.job_taken()) == 204
    assert (await client.get(answer.headers["Location"])).status == 200


@pytest.mark.parametrize("prefer", [b"wait=soon", b",;=\xff", b"wait=9999999999999", b"\xd9\xa3"])
async def test_a_client_whose_preference_makes_no_sense_gets_its_result(client, prefer):
    answer = await exchange(client.gateway, job_request(b'{"n": 1}', b"Prefer: " + prefer))
    assert (answer.status, answer.json) == (200, {"result": {"n": 1}})
    assert "Preference-Applied" not in answer.headers


async def test_a_bad_job_is_refused_whatever_is_preferred(client):
    before = await client.counters()
    for prefer in (b"respond-async", b"wait=5"):
        answer = await exchange(client.gateway, job_request(b"[]", b"Prefer: " + prefer))
        assert answer.is_problem(422)
    assert await client.counters() == before
