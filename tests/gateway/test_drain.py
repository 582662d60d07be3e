"""Stopping: what is under way finishes, new jobs are refused, and it leaves with code 0."""

from __future__ import annotations

import asyncio
import signal

import pytest
from aiohttp import ClientSession

from .client import Client, eventually, exchange, job_request

SIGNALS = [signal.SIGTERM, signal.SIGINT]
AT_ONCE = 3.0  # seconds, of which most are the interpreter's on a machine that is busy
NEVER = ("--", "--never", "1.0")


async def ended(client: Client, within: float = AT_ONCE) -> int:
    """Wait until the gateway has ended, and return its exit code."""
    return await asyncio.to_thread(client.gateway.wait, within)


async def draining(client: Client) -> None:
    """Wait until the gateway says that it is not ready any more."""

    async def is_not_ready() -> bool:
        return (await client.get("/readyz")).status == 503

    await eventually(is_not_ready, "not ready")


@pytest.mark.parametrize("number", SIGNALS)
async def test_what_is_under_way_finishes_and_new_jobs_are_refused(own, upstream, number):
    client = own("--upstream", upstream.url, "--timeout", "20", "--drain", "20")
    polled = (await client.job({"n": 1}, Prefer="respond-async")).headers["Location"]
    polled_url = await upstream.job_taken()
    async with client.waiting(1) as (task,):
        waited_url = await upstream.job_taken(2)
        client.gateway.signal(number)
        await draining(client)
        assert (await client.get("/readyz")).is_problem(503)
        assert (await client.get("/healthz")).status == 200
        before = await client.counters()
        assert before["pending"] == 2
        for headers in ({}, {"Prefer": "respond-async"}, {"Prefer": "wait=5"}):
            assert (await client.job({}, **headers)).is_problem(503)
        assert await client.counters() == before | {"refused": before["refused"] + 3}
        assert (await client.get(polled)).status == 202
        assert await upstream.call_back(polled_url, b'"polled"') == 204
        assert (await client.get(polled)).json == "polled"
        assert await upstream.call_back(waited_url, b'"waited"') == 204
        assert (await task).json == "waited"
    assert await ended(client) == 0


async def test_who_polls_as_told_gets_his_result_though_nothing_is_pending_any_more(own, upstream):
    client = own("--upstream", upstream.url, "--timeout", "20", "--drain", "20")
    asks, leaves = [
        (await client.job({"n": n}, Prefer="respond-async")).headers["Location"] for n in range(2)
    ]
    urls = [await upstream.job_taken(count) for count in (1, 2)]
    client.gateway.signal(signal.SIGTERM)
    await draining(client)
    for url in urls:
        assert await upstream.call_back(url, b'"polled"') == 204
    await asyncio.sleep(1.0)  # really: it is another process, and tells to ask after that
    assert (await client.get(asks)).json == "polled"
    assert await ended(client, within=3.0 + AT_ONCE) == 0, f"nobody asks for {leaves}"


async def test_a_result_that_was_told_holds_nothing_up(own):
    client = own("--", "--delay", "0.01", "--distribution", "fixed")
    assert (await client.job({}, Prefer="wait=5")).status == 200
    location = (await client.job({}, Prefer="respond-async")).headers["Location"]

    async def has_ended() -> bool:
        return (await client.get(location)).status == 200

    await eventually(has_ended, "the job ended")
    client.gateway.signal(signal.SIGTERM)
    assert await ended(client) == 0


@pytest.mark.parametrize("number", SIGNALS)
async def test_an_idle_gateway_stops_at_once(own, number):
    client = own()
    assert (await client.job({})).status == 200  # and its connection stays open
    client.gateway.signal(number)
    assert await ended(client) == 0


@pytest.mark.parametrize(("first", "second"), [SIGNALS, SIGNALS[::-1], SIGNALS[:1] * 2])
async def test_a_second_signal_stops_at_once(own, first, second):
    client = own("--timeout", "30", "--drain", "30", *NEVER)
    async with client.waiting(3) as tasks:
        client.gateway.signal(first)
        await draining(client)
        assert client.gateway.running
        client.gateway.signal(second)
        assert await ended(client) == 0
        for answer in await asyncio.gather(*tasks):
            assert answer.is_problem(503)


async def test_draining_takes_no_longer_than_it_may(own):
    client = own("--timeout", "30", "--drain", "0.3", *NEVER)
    async with client.waiting(3) as tasks:
        client.gateway.signal(signal.SIGTERM)
        assert await ended(client) == 0
        for answer in await asyncio.gather(*tasks):
            assert answer.is_problem(503)


async def test_a_job_that_times_out_while_it_drains_is_still_a_504(own):
    client = own("--timeout", "0.5", "--drain", "20", *NEVER)
    async with client.waiting(1) as (task,):
        client.gateway.signal(signal.SIGTERM)
        assert (await task).is_problem(504)
    assert await ended(client) == 0


async def test_a_client_that_leaves_while_it_drains_is_waited_for_no_longer(own):
    client = own("--timeout", "30", "--drain", "30", *NEVER)
    async with client.waiting(2):
        client.gateway.signal(signal.SIGTERM)
        await draining(client)
    assert await ended(client) == 0


async def test_a_client_that_never_sends_its_body_does_not_keep_it_from_stopping(own):
    client = own("--drain", "30")
    gateway = client.gateway
    _, writer = await asyncio.open_connection(gateway.host, gateway.port)
    try:
        writer.write(job_request(b"", b"Content-Length: 10", sized=False))
        await client.get("/healthz")  # by when the gateway has read what came before
        gateway.signal(signal.SIGTERM)
        gateway.signal(signal.SIGINT)
        assert await ended(client, within=10) == 0  # of 30 s that draining may take
    finally:
        writer.transport.abort()


async def test_it_says_in_its_log_that_it_drains(own):
    client = own("--timeout", "30", "--drain", "0.3", *NEVER)
    async with client.waiting(2):
        client.gateway.signal(signal.SIGTERM)
        assert await ended(client) == 0
    told = [
        (each["event"], each.get("signal"), each["pending"])
        for each in client.gateway.log
        if each["event"] in ("draining", "stopping")
    ]
    assert told == [("draining", "SIGTERM", 2), ("stopping", None, 2)]


async def test_it_takes_no_connections_once_it_has_stopped(own):
    client = own()
    client.gateway.signal(signal.SIGTERM)
    assert await ended(client) == 0
    with pytest.raises(ConnectionRefusedError):
        await exchange(client.gateway, job_request())


async def test_many_jobs_under_way_all_finish(own):
    client = own(
        "--timeout", "20", "--drain", "20", "--", "--delay", "1", "--distribution", "fixed"
    )
    async with client.waiting(100) as tasks:
        client.gateway.signal(signal.SIGTERM)
        answers = await asyncio.gather(*tasks)
    assert [answer.json for answer in answers] == [{"result": {"n": n}} for n in range(100)]
    assert await ended(client) == 0


async def test_a_gateway_that_stopped_leaves_its_port_to_the_next(own, session: ClientSession):
    client = own()
    client.gateway.signal(signal.SIGTERM)
    assert await ended(client) == 0
    again = own("--port", str(client.gateway.port))
    assert again.gateway.port == client.gateway.port
    assert (await again.job({})).status == 200
