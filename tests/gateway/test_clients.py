"""Clients that leave, at any point: what they had pending goes with them."""

from __future__ import annotations

import asyncio
import random

import pytest
from aiohttp import web

from .client import Client, chunk, eventually, job_request

NEVER = ("--timeout", "30", "--", "--never", "1.0")
SOON = 1.0  # seconds until nothing is pending any more

WHOLE = job_request(b'{"order": 42}')
HEAD = WHOLE.removesuffix(b'{"order": 42}')
BEFORE_THE_BODY_IS_THERE = {
    "after connecting": b"",
    "in the first line": WHOLE[:9],
    "in the headers": WHOLE[:40],
    "before the body": HEAD,
    "in the body": WHOLE[:-5],
    "in a chunk": job_request(b"", b"Transfer-Encoding: chunked", sized=False) + b'd\r\n{"order',
    "between chunks": job_request(b"", b"Transfer-Encoding: chunked", sized=False) + chunk(b"{"),
    "asking to go on": job_request(b"", b"Expect: 100-continue", b"Content-Length: 2", sized=False),
}
WHILE_IT_WAITS = {
    "while waiting": WHOLE,
    "with Prefer: wait": job_request(b"{}", b"Prefer: wait=20"),
    "with both preferences": job_request(b"{}", b"Prefer: respond-async, wait=20"),
    "with a deadline": job_request(b"{}", b"X-Envoy-Expected-Rq-Timeout-Ms: 20000"),
    "after an ill-formed second request": WHOLE + b"GET /stats HTT",
    "after asking twice": WHOLE + WHOLE,
}
LEAVING = {"by closing": False, "by aborting": True}


async def connect(client: Client, data: bytes) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection(client.gateway.host, client.gateway.port)
    writer.write(data)
    await writer.drain()
    return writer


async def leave(writer: asyncio.StreamWriter, *, abort: bool) -> None:
    """End a connection: with a FIN, or with an RST where something is unread."""
    if abort:
        writer.transport.abort()
    else:
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def client(client_of):
    return client_of(*NEVER)


@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("when", BEFORE_THE_BODY_IS_THERE)
async def test_a_client_that_leaves_before_its_job_is_there_registers_nothing(client, when, how):
    before = await client.counters()
    writer = await connect(client, BEFORE_THE_BODY_IS_THERE[when])
    await client.get("/healthz")  # by when the gateway has read what came before
    await leave(writer, abort=LEAVING[how])
    await client.get("/healthz")
    assert await client.counters() == before


@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("when", WHILE_IT_WAITS)
async def test_a_client_that_leaves_while_it_waits_takes_its_pending_with_it(client, when, how):
    before = await client.counters()
    writer = await connect(client, WHILE_IT_WAITS[when])
    await client.pending(1)
    await leave(writer, abort=LEAVING[how])
    await client.idle(SOON)
    after = await client.counters()
    assert after["cancelled"] - before["cancelled"] == after["registered"] - before["registered"]


async def test_a_client_that_leaves_at_once_after_its_job_leaves_nothing(client):
    for _ in range(20):
        await leave(await connect(client, WHOLE), abort=True)
    await client.idle(SOON)


async def test_a_client_that_has_its_202_may_leave_and_the_job_goes_on(scripted, upstream):
    writer = await connect(scripted, job_request(b"{}", b"Prefer: respond-async"))
    url = await upstream.job_taken()
    await leave(writer, abort=True)
    assert (await scripted.stats())["pending"] == 1
    assert await upstream.call_back(url) == 204


async def test_a_client_that_leaves_while_the_upstream_is_asked_leaves_nothing(scripted, upstream):
    asked = asyncio.Event()
    left = asyncio.Event()

    async def never(request):
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    upstream.answer = never
    for fields in ((), (b"Prefer: wait=20",)):
        asked.clear()
        left.clear()
        writer = await connect(scripted, job_request(b"{}", *fields))
        async with asyncio.timeout(5):
            await asked.wait()
        await leave(writer, abort=True)
        await scripted.idle(SOON)


async def test_a_reply_for_a_client_that_has_left_is_late(scripted, upstream):
    before = await scripted.counters()
    writer = await connect(scripted, WHOLE)
    url = await upstream.job_taken()
    await leave(writer, abort=False)
    await scripted.idle(SOON)
    assert await upstream.call_back(url) == 410
    assert (await scripted.counters())["late"] == before["late"] + 1


async def test_a_client_that_leaves_in_the_middle_of_the_result_harms_nobody(scripted, upstream):
    async def at_once(request):
        return web.Response(body=b"x" * 1_000_000)

    upstream.answer = at_once
    for read in (1, 100, 100_000):
        before = await scripted.counters()
        gateway = scripted.gateway
        reader, writer = await asyncio.open_connection(gateway.host, gateway.port, limit=1_024)
        writer.write(WHOLE)
        await reader.readexactly(read)
        writer.transport.abort()
        await scripted.idle(SOON)
        assert (await scripted.counters())["resolved"] == before["resolved"] + 1


async def test_a_client_that_does_not_read_its_result_holds_up_nobody(scripted, upstream):
    async def at_once(request):
        return web.Response(body=b"x" * 1_000_000)

    upstream.answer = at_once
    writers = [await connect(scripted, WHOLE * 5) for _ in range(5)]
    assert (await scripted.job({})).status == 200
    for writer in writers:
        writer.transport.abort()
    await scripted.idle(SOON)


async def test_clients_that_leave_at_random_points_leave_nothing(client):
    chance = random.Random(1)
    requests = list(WHILE_IT_WAITS.values())

    async def come_and_go() -> None:
        request = chance.choice(requests)
        cut = chance.choice([len(request), chance.randrange(len(request))])
        writer = await connect(client, request[:cut])
        await asyncio.sleep(chance.uniform(0, 0.2))  # as people do; which point it hits is chance's
        await leave(writer, abort=chance.random() < 0.5)

    await asyncio.gather(*(come_and_go() for _ in range(200)))
    await client.idle(SOON)
    stats = await client.stats()
    assert stats["registered"] == stats["cancelled"] > 0


async def test_connections_of_clients_that_left_are_closed(client):
    async def none_is_open() -> bool:
        established = await asyncio.to_thread(client.gateway.connections)
        return established <= 1  # that of `client` itself

    writers = [await connect(client, WHOLE) for _ in range(20)]
    for writer in writers:
        await leave(writer, abort=True)
    await client.idle(SOON)
    await eventually(none_is_open, "the connections closed")
