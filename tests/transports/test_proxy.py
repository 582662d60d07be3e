"""The proxy passes everything on, and has exactly the faults that it is told to have."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from .proxy import Proxy

PATIENCE = 10.0  # seconds for what comes at once
SILENCE = 0.1  # seconds in which nothing may come: it cannot be waited for but really


@pytest.fixture
async def echo():
    """The port of a server that sends back what it gets, and ends when the client does."""
    tasks = set()

    async def answer(reader, writer):
        try:
            while chunk := await reader.read(1 << 16):
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def accept(reader, writer):
        task = asyncio.get_running_loop().create_task(answer(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*tasks)
        await server.wait_closed()


@pytest.fixture
async def proxy(echo):
    async with Proxy(echo) as proxy:
        yield proxy


@asynccontextmanager
async def connected(proxy, **options):
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, **options)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        # `wait_closed` would raise what the connection ended with, which the test has seen.
        await asyncio.sleep(0)


async def echoes(connection, data=b"ping"):
    reader, writer = connection
    writer.write(data)
    assert await reader.readexactly(len(data)) == data


async def silent(reader):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), SILENCE)


async def test_what_comes_is_passed_on_both_ways(proxy):
    async with connected(proxy) as one, connected(proxy) as other:
        await echoes(one, b"one")
        await echoes(other, bytes(300_000))
        assert len(proxy) == 2


async def test_each_side_may_end_and_still_get_what_the_other_sends(proxy):
    async with connected(proxy) as (reader, writer):
        writer.write(bytes(1_000_000))
        writer.write_eof()
        assert len(await reader.read()) == 1_000_000
    async with asyncio.timeout(PATIENCE):
        while len(proxy):  # noqa: ASYNC110  # it offers no event, for this test alone
            await asyncio.sleep(0)


async def test_clients_may_speak_tls_to_it(echo, certificates):
    async with (
        Proxy(echo, ssl=certificates.server()) as proxy,
        connected(proxy, ssl=certificates.client()) as connection,
    ):
        await echoes(connection, bytes(100_000))
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await connection[0].read()


async def test_a_cut_resets_all_connections_and_lets_new_ones_through(proxy):
    async with connected(proxy) as one, connected(proxy) as other:
        await echoes(one)
        await echoes(other)
        proxy.cut()
        for reader, _ in (one, other):
            with pytest.raises(ConnectionResetError):
                await reader.read()
    async with connected(proxy) as connection:
        await echoes(connection)


@pytest.mark.parametrize("way", [None, "down"])
async def test_a_cut_comes_after_exactly_so_many_bytes(proxy, way):
    async with connected(proxy) as (reader, writer):
        await echoes((reader, writer), b"before")
        proxy.cut_after(5, way)
        writer.write(b"abc")
        assert await reader.readexactly(3) == b"abc"
        writer.write(b"defg")
        got = bytearray()
        with pytest.raises(ConnectionResetError):
            while True:
                got += await reader.readexactly(1)
        if way == "down":
            assert got == b"de"
        else:  # what went up was cut before it could come back
            assert b"de".startswith(got)
    async with connected(proxy) as connection:
        await echoes(connection, b"it cuts once")


async def test_a_cut_may_count_what_goes_up_alone(proxy):
    async with connected(proxy) as (reader, writer):
        proxy.cut_after(4, "up")
        await echoes((reader, writer), b"abc")
        writer.write(b"d")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(2)


async def test_a_delay_is_added_each_way_whatever_is_sent_meanwhile(proxy):
    loop = asyncio.get_running_loop()
    async with connected(proxy) as (reader, writer):
        await echoes((reader, writer))
        proxy.delay(0.05)
        start = loop.time()
        for _ in range(5):
            writer.write(b"x")
            await asyncio.sleep(0.02)  # so that each is read on its own
        assert await reader.readexactly(5) == b"xxxxx"
        assert loop.time() - start >= 0.1 + 0.02 * 4
        proxy.delay(0)
        await echoes((reader, writer))


async def test_delays_do_not_add_up(proxy):
    """Ten that are sent one after another take no ten delays. Here the loop's clock may be late."""
    loop = asyncio.get_running_loop()
    async with connected(proxy) as (reader, writer):
        await echoes((reader, writer))
        proxy.delay(0.5)
        start = loop.time()
        for _ in range(10):
            writer.write(b"x")
            await asyncio.sleep(0.005)
        await reader.readexactly(10)
        assert 1 <= loop.time() - start < 5


async def test_frozen_it_is_silent_and_thawed_it_goes_on(proxy):
    async with connected(proxy) as old:
        await echoes(old)
        proxy.freeze()
        async with connected(proxy) as new:
            for reader, writer in (old, new):
                writer.write(b"late")
                await silent(reader)
            proxy.thaw()
            for reader, _ in (old, new):
                assert await reader.readexactly(4) == b"late"


async def test_frozen_it_does_not_tell_that_a_side_is_gone(proxy):
    async with connected(proxy) as (reader, writer):
        await echoes((reader, writer))
        proxy.freeze()
        writer.write_eof()
        await silent(reader)
        proxy.thaw()
        assert await reader.read() == b""


async def test_refusing_it_resets_new_connections_and_keeps_old_ones(proxy):
    async with connected(proxy) as old:
        await echoes(old)
        proxy.refuse()
        async with connected(proxy) as (reader, _):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        await echoes(old)
        proxy.accept()
        async with connected(proxy) as new:
            await echoes(new)


async def test_where_there_is_no_server_it_resets(unused_tcp_port):
    async with Proxy(unused_tcp_port) as proxy, connected(proxy) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_it_may_be_left_in_any_state(echo):
    async with Proxy(echo) as proxy, connected(proxy) as one, connected(proxy) as other:
        await echoes(one)
        other[1].write(bytes(10_000_000))
        proxy.freeze()
        proxy.delay(100)
        await asyncio.sleep(0)
    assert len(proxy) == 0
