"""What it costs when very many fall due at once, and what it costs when nothing happens."""

from __future__ import annotations

import asyncio
import gc
import selectors
import time

from correlator import Correlator, RequestTimeout, new_request_id

_FAR = 3600.0  # seconds: beyond the measurement


class Ticker:
    """Runs in every turn of the loop, and knows how long the longest took.

    By the clock on the wall, and in CPU time: on a machine that others use too, the first shows
    how long the kernel let somebody else run.
    """

    def __init__(self, left):
        self._left = left  # how much is still to be done
        self._all = left()
        self._loop = asyncio.get_running_loop()
        self._wall = time.perf_counter()
        self._cpu = self._began = self._ended = time.process_time()
        self._longest_wall = self._longest_cpu = 0.0
        self.done = self._loop.create_future()
        self._tick()

    def _tick(self):
        wall, cpu, left = time.perf_counter(), time.process_time(), self._left()
        self._longest_wall = max(self._longest_wall, wall - self._wall)
        self._longest_cpu = max(self._longest_cpu, cpu - self._cpu)
        self._wall, self._cpu = wall, cpu
        if left == self._all:
            self._began = cpu
        if left:
            self._loop.call_soon(self._tick)
        else:
            self._ended = cpu
            self.done.set_result(None)

    def result(self, count):
        return {
            "held_cpu_ms": self._longest_cpu * 1e3,
            "held_wall_ms": self._longest_wall * 1e3,
            "each_us": (self._ended - self._began) / count * 1e6,
        }


def _lead(count, awaited):
    """Seconds enough to register them all on a slow machine, before the first falls due."""
    return 0.5 + count * (30e-6 if awaited else 8e-6)


async def expiry_of_ours(count, awaited):
    """Let `count` pendings fall due in the same moment; `awaited`, each with a task that waits."""
    ids = [new_request_id() for _ in range(count)]
    gc.disable()
    timed_out = 0

    async with Correlator(max_pending=count) as correlator:
        time_of_loop = asyncio.get_running_loop().time
        due = time_of_loop() + _lead(count, awaited)

        async def request(request_id):
            nonlocal timed_out
            try:
                await correlator.correlate(request_id, timeout=due - time_of_loop())
            except RequestTimeout:
                timed_out += 1

        if awaited:
            tasks = [asyncio.create_task(request(request_id)) for request_id in ids]
            await asyncio.sleep(0)
            ticker = Ticker(lambda: len(correlator) + count - timed_out)
        else:
            for request_id in ids:
                correlator.register(request_id, timeout=due - time_of_loop())
            ticker = Ticker(correlator.__len__)
        assert len(correlator) == count, "the machine was too slow: some fell due too early"
        await ticker.done
        assert correlator.stats().timed_out == count
        if awaited:
            await asyncio.gather(*tasks)
    return ticker.result(count)


async def expiry_of_a_sweep(count, awaited):
    """Do the same with a dict and a task that looks through all of it, as written by hand."""
    ids = [new_request_id() for _ in range(count)]
    gc.disable()
    loop = asyncio.get_running_loop()
    pending = {}
    timed_out = 0

    async def sweep():
        while True:
            await asyncio.sleep(0.05)
            now = loop.time()
            for request_id in [key for key, (_, due) in pending.items() if due <= now]:
                future, _ = pending.pop(request_id)
                if not future.done():
                    future.set_exception(TimeoutError())

    async def request(request_id):
        nonlocal timed_out
        future = loop.create_future()
        pending[request_id] = future, due
        try:
            await future
        except TimeoutError:
            timed_out += 1

    due = loop.time() + _lead(count, awaited)
    if awaited:
        tasks = [asyncio.create_task(request(request_id)) for request_id in ids]
        await asyncio.sleep(0)
        ticker = Ticker(lambda: len(pending) + count - timed_out)
    else:
        for request_id in ids:
            pending[request_id] = loop.create_future(), due
        futures = [future for future, _ in pending.values()]
        ticker = Ticker(pending.__len__)
    sweeper = asyncio.create_task(sweep())
    await ticker.done
    sweeper.cancel()
    if awaited:
        await asyncio.gather(*tasks)
    else:
        for future in futures:
            future.exception()  # or each would log that nobody asked
    return ticker.result(count)


class CountingSelector(selectors.DefaultSelector):
    """Counts the turns of the loop: each asks it once."""

    turns = 0

    def select(self, timeout=None):
        self.turns += 1
        return super().select(timeout)


def idle(pending, seconds):
    """Measure CPU and turns of the loop while nothing happens, with so many pending.

    `turns` is how many more than with no correlator at all: each is a wake-up of ours. With
    nothing pending, a correlator is measured that has had requests before.
    """
    selector = CountingSelector()

    async def sleep():
        gc.collect()
        turns, start = selector.turns, time.process_time()
        await asyncio.sleep(seconds)
        return selector.turns - turns, (time.process_time() - start) * 1e3 / seconds

    async def measure():
        bare_turns, bare_cpu = await sleep()
        async with Correlator(max_pending=max(pending, 1000)) as correlator:
            for _ in range(1000):
                correlator.resolve(correlator.register(timeout=0.01).request_id, None)
            await asyncio.sleep(0.2)  # until the last alarm that was set for them is over
            for _ in range(pending):
                correlator.register(timeout=_FAR)
            await asyncio.sleep(0)
            turns, cpu = await sleep()
            assert len(correlator) == pending
        return {"turns": turns - bare_turns, "cpu_ms": cpu, "bare_cpu_ms": bare_cpu}

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        return runner.run(measure())
