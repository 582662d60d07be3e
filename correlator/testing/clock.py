"""VirtualClock: a clock for a loop that leaps to the next timer, where another would wait for it.

An hour passes in no time, and a deadline can be hit to the microsecond. It is put on one of
asyncio's own loops, by way of what these look at the clock and wait with: `time` and the selector.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..checks import check_seconds
from ..errors import shown

__all__ = ["VirtualClock", "virtual_time"]

_TAKEN_OVER = ("_selector", "time", "run_in_executor", "shutdown_default_executor")
_FINEST = 1e-10  # seconds: a finer clock than this needs no help
_THREADS_MAY_TAKE = 30.0  # real seconds: only a thread that hangs takes as long


class VirtualClock:
    """The clock of one loop.

    Args:
        loop: one of asyncio's own, of any class whose selector is in ``_selector``; not uvloop's.
        start: where the clock stands at first, in seconds from 0 to 1e9; by default where the
            loop's does.

    Attributes:
        now: seconds on it.
        leaps: how often it leapt, which is how often the loop would have woken up.

    Raises:
        TypeError: the loop is of another kind, or closed; or `start` is no number.
        ValueError: `start` is out of range, infinite or not a number (NaN).
    """

    # Set by `install`.
    _run_in_executor: Callable[..., asyncio.Future[Any]]
    _shut_executor: Callable[..., Awaitable[None]]

    def __init__(self, loop: asyncio.AbstractEventLoop, *, start: float | None = None) -> None:
        selector = getattr(loop, "_selector", None)
        if not isinstance(loop, asyncio.BaseEventLoop) or selector is None:
            raise TypeError(
                "loop must be one of asyncio's own, with a selector, and open, since only their "
                f"time can leap; not {shown(loop)}"
            )
        if start is None:
            start = loop.time()
        elif start != 0:  # which a clock may well start at
            start = check_seconds("start", start)
        self.now = float(start)
        self.leaps = 0
        self._loop: Any = loop
        self._installed = 0  # how often, less how often removed
        self._found: dict[str, Any] = {}  # what the loop had in place of what is taken over
        self._selector = selector
        self._in_threads = 0  # calls in executors that it waits for; meanwhile it stands

    def install(self) -> None:
        """Let the loop go by this clock, until it has been removed as often as installed."""
        self._installed += 1
        if self._installed > 1:
            return
        loop = self._loop
        # What it goes by is looked up now: since this clock was made, another may have come.
        self._selector = loop._selector
        self._run_in_executor = loop.run_in_executor
        self._shut_executor = loop.shutdown_default_executor
        # Only what the loop itself has: what is its class's is there when nothing hides it.
        self._found = {name: vars(loop)[name] for name in _TAKEN_OVER if name in vars(loop)}
        loop._selector = self
        loop.time = self.time
        loop.run_in_executor = self._run_in_thread
        loop.shutdown_default_executor = self._shut_down_executor

    def remove(self) -> None:
        """Let the loop go by what it went by before: its own clock, or another of this kind.

        Raises:
            RuntimeError: it is not installed, or another was installed after it and is still there.
        """
        if self._installed == 1:
            if self._loop._selector not in (self, None):  # None: it is closed
                raise RuntimeError("another clock was installed after this one: remove that first")
            for name in _TAKEN_OVER:
                delattr(self._loop, name)
            vars(self._loop).update(self._found)
        elif not self._installed:
            raise RuntimeError("this clock is not installed")
        self._installed -= 1

    def time(self) -> float:
        """Return `now`."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass as if the code at hand had held the loop for so many seconds.

        It is not the way to wait for so long, which is ``await asyncio.sleep(seconds)``: here
        nothing that falls due meanwhile gets its turn before the code at hand gives it one.

        Raises:
            TypeError: `seconds` is no number.
            ValueError: it is not above 0 and at most 1e9.
        """
        self.now += check_seconds("seconds", seconds)
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
    a network, another process, or a thread that the loop did not start on the other side, time
    leaps past what is still under way.

    Blocks on one loop, one in another or side by side, share one clock: it goes when the last of
    them is left. Then the loop's time is the real one again, so it goes back by what it leapt, and
    what was set to a time in the block and is still waiting really waits for it.

    A `Correlator` goes by the clock that its loop has when it is entered, so enter and leave it in
    the block. One that was entered before ends its requests by the real clock: the block's time
    leaps to a deadline and stands there, with a processor busy, until real time has got there. One
    that is still open after the block has a clock that stands still: in it nothing times out.

    Raises:
        RuntimeError: no loop is running.
        TypeError: the running loop is not one of asyncio's own: uvloop's, for one.
    """
    loop = asyncio.get_running_loop()
    found = getattr(loop, "_selector", None)
    clock = found if isinstance(found, VirtualClock) else VirtualClock(loop)
    clock.install()
    try:
        yield clock
    finally:
        clock.remove()
