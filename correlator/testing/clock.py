"""VirtualClock: a clock for a loop that leaps to the next timer, where another would wait for it.

An hour passes in no time, and a deadline can be hit to the microsecond. It is put on one of
asyncio's own loops, by way of what these look at the clock and wait with: `time` and the selector.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["VirtualClock", "virtual_time"]

_FINEST = 1e-10  # seconds: a finer clock than this needs no help
_THREADS_MAY_TAKE = 30.0  # real seconds: only a thread that hangs takes as long


class VirtualClock:
    """The clock of one loop.

    Args:
        loop: one of asyncio's own, of any class whose selector is in ``_selector``; not uvloop's.
        start: where the clock stands at first, in seconds; by default where the loop's does.

    Attributes:
        now: seconds on it.
        leaps: how often it leapt, which is how often the loop would have woken up.

    Raises:
        TypeError: the loop is of another kind.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, start: float | None = None) -> None:
        if not isinstance(loop, asyncio.BaseEventLoop) or not hasattr(loop, "_selector"):
            raise TypeError(
                f"loop must be one of asyncio's own, with a selector, not {loop!r:.100}"
            )
        self.now = loop.time() if start is None else start
        self.leaps = 0
        self._loop: Any = loop
        self._selector = self._loop._selector
        self._run_in_executor = loop.run_in_executor
        self._shut_executor = loop.shutdown_default_executor
        self._in_threads = 0  # calls in executors that it waits for; meanwhile it stands

    def install(self) -> None:
        """Let the loop go by this clock."""
        self._loop._selector = self
        self._loop.time = self.time
        self._loop.run_in_executor = self._run_in_thread
        self._loop.shutdown_default_executor = self._shut_down_executor

    def remove(self) -> None:
        """Let the loop go by its own clock again."""
        self._loop._selector = self._selector
        for name in ("time", "run_in_executor", "shutdown_default_executor"):
            delattr(self._loop, name)

    def time(self) -> float:
        """Return `now`."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass as if the code at hand had held the loop for so long."""
        self.now += seconds
        if math.ulp(self.now) > _FINEST:
            # asyncio runs a timer once the clock has passed it by a margin of a nanosecond, which
            # is lost in rounding when the clock stands so high: it would turn for ever.
            self.now = math.nextafter(self.now, math.inf)

    # -- what the loop takes for its selector ----------------------------------------------------

    def select(self, timeout: float | None = None) -> Any:
        """Return what is ready; if nothing is, leap to where the loop would have waited to."""
        events = self._selector.select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if self._in_threads:
            # What a thread does takes real time, and none on this clock.
            events = self._selector.select(_THREADS_MAY_TAKE)
            if not events:
                raise RuntimeError(f"a thread has not answered in {_THREADS_MAY_TAKE} real seconds")
            return events
        if timeout is None:
            raise RuntimeError(
                "deadlock: nothing is ready, no timer is set, no thread is at work; waiting are: "
                + ", ".join(sorted(map(repr, asyncio.all_tasks(self._loop))))
            )
        self.advance(timeout)
        self.leaps += 1
        return []

    def __getattr__(self, name: str) -> Any:
        """All else is the selector's own."""
        return getattr(self._selector, name)

    # -- threads -----------------------------------------------------------------------------------

    def _run_in_thread(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        future = self._run_in_executor(executor, func, *args)
        self._in_threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _future: asyncio.Future[Any]) -> None:
        self._in_threads -= 1

    async def _shut_down_executor(self, *args: Any, **kwargs: Any) -> None:
        self._in_threads += 1
        try:
            await self._shut_executor(*args, **kwargs)
        finally:
            self._in_threads -= 1


@contextmanager
def virtual_time() -> Iterator[VirtualClock]:
    """Let the running loop's time leap, for the length of the block: nothing really waits.

    ``await asyncio.sleep(3600)`` takes no time in it. What comes from outside does not fit in: with
    a network or another process on the other side, time leaps past what is still under way.

    Raises:
        RuntimeError: no loop is running.
        TypeError: the running loop is not one of asyncio's own.
    """
    clock = VirtualClock(asyncio.get_running_loop())
    clock.install()
    try:
        yield clock
    finally:
        clock.remove()
