"""Virtual time on a loop that runs already."""

import asyncio
import time

import pytest
import uvloop

from correlator.testing import VirtualClock, virtual_time


def in_asyncios(main):
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(main())


def test_time_leaps_in_the_block_and_is_real_again_after_it():
    async def main():
        loop = asyncio.get_running_loop()
        real = time.monotonic()
        with virtual_time() as clock:
            began = loop.time()
            await asyncio.sleep(3_600)
            assert loop.time() - began == pytest.approx(3_600)
            clock.advance(10.0)
            assert loop.time() - began == pytest.approx(3_610)
            assert clock.leaps == 1
        assert time.monotonic() - real < 60
        assert abs(loop.time() - time.monotonic()) < 1
        await asyncio.sleep(0.01)  # really

    in_asyncios(main)


def test_timers_go_off_in_their_order():
    async def main():
        seen = []
        with virtual_time():
            loop = asyncio.get_running_loop()
            for seconds in (3.0, 1.0, 2.0):
                loop.call_later(seconds, seen.append, seconds)
            await asyncio.sleep(5.0)
        assert seen == [1.0, 2.0, 3.0]

    in_asyncios(main)


def test_a_thread_takes_no_virtual_time():
    async def main():
        with virtual_time():
            loop = asyncio.get_running_loop()
            before = loop.time()
            assert await asyncio.to_thread(lambda: time.sleep(0.05) or "done") == "done"
            assert loop.time() == before

    in_asyncios(main)


def test_where_nothing_can_happen_any_more_it_says_so():
    async def main():
        with virtual_time():
            await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="deadlock: nothing is ready"):
        in_asyncios(main)


def test_sockets_within_the_process_work():
    async def main():
        async def echo(reader, writer):
            writer.write(await reader.readline())
            writer.close()

        with virtual_time():
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            host, port = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            writer.close()
            server.close()

    in_asyncios(main)


def test_a_loop_of_another_kind_is_refused():
    loop = uvloop.new_event_loop()
    try:
        with pytest.raises(TypeError, match="loop must be one of asyncio's own"):
            VirtualClock(loop)
    finally:
        loop.close()
