"""Virtual time on a loop that runs already."""

import asyncio
import time

import pytest
import uvloop

from correlator import Correlator, RequestTimeout
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


def test_virtual_time_is_refused_on_a_loop_of_another_kind():
    async def main():
        with virtual_time():
            pass

    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        pytest.raises(
            TypeError, match="one of asyncio's own, .* only their time can leap; not .*uvl"
        ),
    ):
        runner.run(main())


def test_a_block_in_another_shares_its_clock_and_time_does_not_go_back():
    async def main():
        loop = asyncio.get_running_loop()
        with virtual_time() as outer:
            began = loop.time()
            with virtual_time() as inner:
                assert inner is outer
                await asyncio.sleep(3_600)
            assert loop.time() - began == pytest.approx(3_600)
            await asyncio.sleep(3_600)
            assert loop.time() - began == pytest.approx(7_200)
        assert abs(loop.time() - time.monotonic()) < 1

    in_asyncios(main)


def test_time_leaps_until_the_last_of_several_blocks_is_left():
    async def main():
        async def sleep(seconds):
            with virtual_time():
                await asyncio.sleep(seconds)

        loop = asyncio.get_running_loop()
        real = time.monotonic()
        await asyncio.gather(sleep(10.0), sleep(20.0))
        assert time.monotonic() - real < 9
        assert abs(loop.time() - time.monotonic()) < 1

    in_asyncios(main)


def test_a_clock_over_another_puts_back_what_it_found():
    async def main():
        loop = asyncio.get_running_loop()
        names = ("_selector", "time", "run_in_executor", "shutdown_default_executor")
        before = {name: vars(loop).get(name) for name in names}
        outer, inner = VirtualClock(loop, start=100), VirtualClock(loop, start=0)
        outer.install()
        inner.install()
        await asyncio.sleep(5.0)
        await asyncio.to_thread(lambda: None)
        assert loop.time() == pytest.approx(5.0)
        with pytest.raises(RuntimeError, match="another clock was installed after this one"):
            outer.remove()
        inner.remove()
        assert loop.time() == 100.0
        await asyncio.sleep(5.0)
        assert loop.time() == pytest.approx(105.0)
        outer.remove()
        assert {name: vars(loop).get(name) for name in names} == before
        with pytest.raises(RuntimeError, match="this clock is not installed"):
            outer.remove()

    in_asyncios(main)


@pytest.mark.parametrize(
    ("start", "error"),
    [
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (-1.0, ValueError),
        ("noon", TypeError),
        (True, TypeError),
    ],
)
def test_a_clock_starts_at_a_finite_number_of_seconds(start, error):
    async def main():
        with pytest.raises(error, match=f"start must be .*{start}"):
            VirtualClock(asyncio.get_running_loop(), start=start)

    in_asyncios(main)


def test_time_advances_only():
    async def main():
        with virtual_time() as clock:
            now = clock.now
            for seconds, error in (
                (-1.0, ValueError),
                (float("nan"), ValueError),
                ("1", TypeError),
            ):
                with pytest.raises(error, match=f"seconds must be .*{seconds}"):
                    clock.advance(seconds)
            assert clock.now == now

    in_asyncios(main)


def test_a_loop_that_is_closed_is_refused():
    loop = asyncio.SelectorEventLoop()
    loop.close()
    with pytest.raises(TypeError, match="and open"):
        VirtualClock(loop)


def test_to_a_correlator_that_was_entered_before_a_timeout_is_a_real_one():
    async def main():
        async with Correlator() as correlator:
            real = time.monotonic()
            with virtual_time(), pytest.raises(RequestTimeout):
                await correlator.correlate(timeout=0.05)  # really: this is what is documented
            assert time.monotonic() - real >= 0.05

    in_asyncios(main)
