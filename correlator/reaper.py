"""Reaper: wakes when something is due, and only then.

A task, which does the work, and at most one timer, which wakes it. With nothing to wait for there
is no timer; with half a million entries there is still one, set to when the first of them is due.
The task may be killed (by whoever cancels all tasks of a loop, say): it is started again, and finds
what it has to do in the store.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable

__all__ = ["Reaper"]

_log = logging.getLogger("correlator")

_NEVER = float("inf")
_AWAKE = float("-inf")


class Reaper:
    """Calls `expire` once a turn of the loop while something is due.

    Args:
        name: names it in logs and in the task's name.
        resolution: seconds by which it may be late; it is not started more often than this.
        next_due: when the first entry is due, on the loop's clock, or None.
        expire: ends some of what is due. What it leaves is asked for again in the next turn.
        context: what the reaper runs in. A task or a timer would otherwise keep the context of
            the request that happened to start it.

    Attributes:
        alarm_at: when it looks again. Whoever adds an entry due before that calls `advance`.
        restarts: how often it died and was started again.
    """

    def __init__(
        self,
        *,
        name: str,
        resolution: float,
        next_due: Callable[[], float | None],
        expire: Callable[[], None],
        context: contextvars.Context,
    ) -> None:
        self._name = name
        self._resolution = resolution
        self._next_due = next_due
        self._expire = expire
        self._context = context
        self._stopped = False
        self._task: asyncio.Task[None] | None = None  # none before `start`
        self._sleep: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.alarm_at = _NEVER
        self.restarts = 0

    def start(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        """Start it on the loop whose clock it goes by."""
        self._time = clock
        self._loop = loop
        self._start()

    def advance(self) -> None:
        """Look earlier than planned: what is due first has changed."""
        due = self._next_due()
        if due != self.alarm_at:
            self._set_alarm(due)

    def stop(self) -> None:
        """Stop for good. Its task ends in the next turn of the loop."""
        self._stopped = True
        self.alarm_at = _AWAKE
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    async def wait_stopped(self) -> None:
        """Wait until its task has ended."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    def _start(self) -> None:
        if self._stopped:
            return
        self._started_at = self._time()
        self._task = self._context.copy().run(
            self._loop.create_task, self._run(), name=f"correlator-reaper-{self._name}"
        )
        self._task.add_done_callback(self._died, context=self._context)

    async def _run(self) -> None:
        while True:
            due = self._next_due()
            if due is None or due > self._time():
                self._sleep = self._loop.create_future()
                self._set_alarm(due)
                await self._sleep
            else:
                self.alarm_at = _AWAKE
                self._expire()
                await asyncio.sleep(0)  # others first, the rest in the next turn

    def _set_alarm(self, due: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.alarm_at = _NEVER if due is None else due
        if due is not None:
            self._timer = self._loop.call_at(due, self._ring, context=self._context)

    def _ring(self) -> None:
        self._timer = None
        due = self._next_due()
        now = self._time()
        if due is not None and due <= now:
            self.alarm_at = _AWAKE
            if self._sleep is not None and not self._sleep.done():
                self._sleep.set_result(None)
        elif due is not None:
            # What was due has settled; or the loop's timer, whose grain is coarser than its
            # clock's, fired a moment early: then asking for the same moment again could spin.
            self._set_alarm(max(due, now + self._resolution / 20))
        else:
            self.alarm_at = _NEVER

    def _died(self, task: asyncio.Task[None]) -> None:
        if self._stopped:
            return
        self.restarts += 1
        cause = (
            "was cancelled" if task.cancelled() else f"died of {type(task.exception()).__name__}"
        )
        _log.error("the reaper of correlator %r %s; starting it again", self._name, cause)
        again_at = max(self._time(), self._started_at + self._resolution)
        self._loop.call_at(again_at, self._start, context=self._context)
