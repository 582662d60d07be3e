"""Virtual time: an event loop whose clock leaps to the next timer instead of waiting for it.

An hour passes in no time, and a deadline can be hit to the microsecond. Nothing here really sleeps.
"""

from __future__ import annotations

import asyncio
import gc
import math
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["VirtualLoop", "elapse", "run_virtual", "turns"]

T = TypeVar("T")

START = 1_000.0  # no clock starts at 0 by right; code that assumes so should fail
FINEST = 1e-10  # seconds: a finer clock than this needs no help
THREADS_MAY_TAKE = 30.0  # real seconds: only a thread that hangs takes as long


class _LeapingSelector(selectors.DefaultSelector):
    """Moves the loop's clock where another selector would wait."""

    loop: VirtualLoop

    def select(self, timeout=None):
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if self.loop.in_threads:
            # What a thread does takes real time, and none on the virtual clock.
            events = super().select(THREADS_MAY_TAKE)
            if not events:
                raise RuntimeError(f"a thread has not answered in {THREADS_MAY_TAKE} real seconds")
            return events
        if timeout is None:
            raise RuntimeError(
                "deadlock: nothing is ready, no timer is set, no thread is at work; waiting are: "
                + ", ".join(sorted(map(repr, asyncio.all_tasks(self.loop))))
            )
        self.loop.leap(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop on a virtual clock.

    Attributes:
        leaps: how often the clock leapt, which is how often the loop would have woken up.
        in_threads: how many calls in executors it waits for; meanwhile the clock stands.
    """

    def __init__(self) -> None:
        self.now = START
        self.leaps = 0
        self.in_threads = 0
        selector = _LeapingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def leap(self, seconds: float) -> None:
        self.stall(seconds)
        self.leaps += 1

    def stall(self, seconds: float) -> None:
        """Let time pass as if the code at hand had held the loop for so long."""
        self.now += seconds
        if math.ulp(self.now) > FINEST:
            # asyncio runs a timer once the clock has passed it by a margin of a nanosecond, which
            # is lost in rounding when the clock stands so high: it would turn for ever.
            self.now = math.nextafter(self.now, math.inf)

    def run_in_executor(self, executor, func, *args):
        self.in_threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _future: asyncio.Future[Any]) -> None:
        self.in_threads -= 1

    async def shutdown_default_executor(self, *args, **kwargs):
        self.in_threads += 1
        try:
            await super().shutdown_default_executor(*args, **kwargs)
        finally:
            self.in_threads -= 1


def run_virtual(coro: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run `coro` in a virtual loop of its own, and return its result.

    Raises:
        AssertionError: the loop had something to report: an exception that was never retrieved, a
            task that was destroyed pending, a callback that raised.
    """
    reports: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=VirtualLoop, debug=debug) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: reports.append(context))
        result = runner.run(coro)
    gc.collect()
    assert not reports, f"the loop reported {reports}"
    return result


async def elapse(seconds: float) -> None:
    """Let that much virtual time pass; in real time none does."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "this would really sleep: mark the test `virtual_time`"
    await asyncio.sleep(seconds)


async def turns(count: int = 1) -> None:
    """Let the loop go round so many times."""
    for _ in range(count):
        await asyncio.sleep(0)
