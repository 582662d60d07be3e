"""The stream of an inspector: however it is cut, and however long it takes."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from aiohttp import web

from correlator.top.source import Failure, Source, events_of

from ..aiohttp.serving import serving
from .telling import snapshot

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])  # the program has a loop of its own


async def dribbled(write, piece):
    """Write a hundred pieces a second, for many times the timeouts here, but not for ever."""
    for _ in range(500):
        await write(piece)
        # Really: a program with a loop and a clock of its own reads.
        await asyncio.sleep(0.01)


async def told_by(handler, timeout):
    """Yield what a source tells of a stream."""
    app = web.Application()
    app.router.add_get("/events", handler)
    async with serving(app) as served:
        source = Source(str(served.url()), (), timeout=timeout)
        async with (
            source.session() as session,
            contextlib.aclosing(source.snapshots(session)) as told,
        ):
            async for each in told:
                yield each


async def test_who_dribbles_a_body_holds_it_no_longer_than_the_timeout(top):
    async def dribble(request):
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            await dribbled(response.write, b" ")
            await response.write(json.dumps(snapshot()).encode())
        return response

    app = web.Application()
    app.router.add_get("/snapshot", dribble)
    async with serving(app) as served:
        status, _, complaint = await top(str(served.url()), "--once", "--timeout", "0.5")
        assert status == 1
        assert "it does not answer within 0.5 s; a snapshot takes up to a second" in complaint
        _, _, complaint = await top(str(served.url()), "--once", "--timeout", "1.5")
        assert complaint.endswith("it does not answer within 1.5 s\n")


@pytest.mark.parametrize("options", [(), ("--once",)])
async def test_who_dribbles_headers_holds_it_no_longer_either(options, top):
    is_over = asyncio.Event()

    async def dribble(_reader, writer):
        async def write(piece):
            writer.write(piece)
            await writer.drain()

        try:
            await write(b"HTTP/1.1 200 OK\r\nX: ")
            await dribbled(write, b"x")
        except ConnectionError:  # the client has gone
            pass
        finally:
            writer.close()
            is_over.set()

    async with await asyncio.start_server(dribble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        status, _, complaint = await top(f"http://127.0.0.1:{port}", *options, "--timeout", "0.5")
        await is_over.wait()
    assert status == 1
    assert "it does not answer within 0.5 s" in complaint


@pytest.mark.parametrize("count", [0, 1])
async def test_comments_and_other_events_are_no_sign_of_life(count):
    async def events(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        data = json.dumps(snapshot())
        with contextlib.suppress(ConnectionError):
            await response.write(f"event: snapshot\ndata: {data}\n\n".encode() * count)
            await dribbled(response.write, b": ping\n\nevent: ping\ndata: 1\n\n")
        return response

    async with contextlib.aclosing(told_by(events, timeout=0.5)) as told:
        for _ in range(count):
            assert (await anext(told))["name"] == "gateway"
        if count:
            assert "it does not answer within 0.5 s" in str(await anext(told))
        else:
            with pytest.raises(Failure, match=r"it does not answer within 0\.5 s"):
                await anext(told)


async def test_a_stream_that_tells_nonsense_is_stale_and_asked_again():
    answers = iter([snapshot(), snapshot(stats=[]), snapshot(name="again")])

    async def events(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for told in answers:
            await response.write(f"event: snapshot\ndata: {json.dumps(told)}\n\n".encode())
            if told["stats"] == []:
                break
        return response

    async with contextlib.aclosing(told_by(events, timeout=5.0)) as told:
        assert (await anext(told))["name"] == "gateway"
        assert "it tells nonsense" in str(await anext(told))
        assert (await anext(told))["name"] == "again"
        assert "the stream has ended" in str(await anext(told))


async def events_in(*parts):
    async def stream():
        for part in parts:
            yield part

    return [event async for event in events_of(stream())]


async def test_a_stream_is_read_however_it_is_cut():
    stream = (
        b": a comment\n\nevent: snapshot\ndata: one\ndata: two\n\n"
        b"data:three\r\n\r\nevent: other\r\ndata: four\r\n\r\nid: 7\nretry: 1\nevent: none\n\n"
        b"event: mac\rdata: five\r\revent\ndata: six\r\n\n\revent: end\ndata\r\n\r\r\n"
    )
    told = [
        *(("snapshot", b"one\ntwo"), ("message", b"three"), ("other", b"four")),
        *(("mac", b"five"), ("message", b"six"), ("end", b"")),
    ]
    for size in range(1, len(stream) + 1):
        parts = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert await events_in(*parts) == told


async def test_an_event_is_told_as_soon_as_it_has_ended():
    heard = []

    async def stream():
        yield b"data: one\r\r"
        heard.append("the rest")
        yield b"\ndata: two\n\n"

    async for _, data in events_of(stream()):
        heard.append(data)
    assert heard == [b"one", "the rest", b"two"]


@pytest.mark.parametrize(
    "part",
    [b"data\n" * 10_000, b"data:\r" * 10_000, b"data: x\n" * 9_000, b"x" * 60_000, b":" * 60_000],
)
async def test_what_never_ends_is_refused(part):
    with pytest.raises(Failure, match="more than a megabyte"):
        await events_in(*[part] * 200)
    with pytest.raises(Failure, match="more than a megabyte"):
        await events_in(part * 200 + b"\n\n")


async def test_a_long_stream_of_short_events_is_no_long_event():
    parts = [b": ping\n\ndata: " + b"x" * 60_000 + b"\n\n"] * 100
    assert len(await events_in(*parts)) == 100
