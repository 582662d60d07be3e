"""Responder: the other side of requests, which does what its script says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from ..context import current_pending
from ..core import Correlator
from ..pending import Disposition

__all__ = ["Responder", "Step", "delay", "drop", "duplicate", "error", "late", "reply"]


@dataclass(frozen=True, slots=True)
class Step:
    """What a responder does with one request. Made by `reply`, `drop` and the like.

    Attributes:
        value: the response, or the error.
        times: how often it is sent.
        after: seconds from the request until then.
        is_error: whether the value is an error.
        is_late: whether `after` counts from the request's deadline on.
    """

    value: Any = None
    times: int = 1
    after: float = 0.0
    is_error: bool = False
    is_late: bool = False


def reply(value: Any = None) -> Step:
    """Answer with that."""
    return Step(value)


def error(value: Exception) -> Step:
    """Answer with that error."""
    return Step(value, is_error=True)


def drop() -> Step:
    """Do not answer."""
    return Step(times=0)


def duplicate(value: Any = None, times: int = 2) -> Step:
    """Answer so many times."""
    return Step(value, times)


def late(value: Any = None, by: float = 1.0) -> Step:
    """Answer so many seconds after the request's deadline."""
    return Step(value, after=by, is_late=True)


def delay(seconds: float, step: Step) -> Step:
    """Do that, so many seconds later."""
    return replace(step, after=step.after + seconds)


class Responder:
    """Stands in for whoever answers, and does with each request what the next step says.

    Give its `send` to `Correlator.correlate`::

        responder = Responder(correlator, reply("shipped"), drop(), delay(0.5, reply("at last")))
        await correlator.correlate(send=responder.send)

    As a context manager it forgets, when it is left, what it would still have answered.

    Args:
        correlator: gets the answers.
        *steps: one for each request.
        then: for all requests after those; by default they are a mistake.

    Attributes:
        asked: the ids of the requests that came, in order.
        dispositions: what became of its answers, in order.
    """

    def __init__(
        self, correlator: Correlator[Any, Any], *steps: Step, then: Step | None = None
    ) -> None:
        for step in (*steps, *(() if then is None else (then,))):
            if not isinstance(step, Step):
                raise TypeError(f"steps must be made by reply(), drop() …, not {step!r:.100}")
        self._correlator = correlator
        self._script: Iterator[Step] = iter(steps)
        self._length = len(steps)
        self._then = then
        self._timers: set[asyncio.TimerHandle] = set()
        self.asked: list[Any] = []
        self.dispositions: list[Disposition] = []

    async def send(self, request_id: Any) -> None:
        """Take a request.

        Raises:
            AssertionError: the script is at its end.
            RuntimeError: the step is `late`, and no pending is at hand to be late for.
        """
        self.asked.append(request_id)
        step = next(self._script, self._then)
        if step is None:
            raise AssertionError(
                f"the script has {self._length} steps, and this is request {len(self.asked)}"
            )
        loop = asyncio.get_running_loop()
        at = loop.time() + step.after
        if step.is_late:
            pending = current_pending()
            if pending is None:
                raise RuntimeError("late() needs a pending at hand: give send to correlate()")
            at = pending.deadline + step.after
        if step.times:
            self._at(loop, at, lambda: self._answer(request_id, step))

    def _at(self, loop: asyncio.AbstractEventLoop, when: float, act: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            act()

        timer = loop.call_at(when, run)
        self._timers.add(timer)

    def _answer(self, request_id: Any, step: Step) -> None:
        for _ in range(step.times):
            if step.is_error:
                became = self._correlator.reject(request_id, step.value)
            else:
                became = self._correlator.resolve(request_id, step.value)
            self.dispositions.append(became)

    def close(self) -> None:
        """Forget what it would still have answered."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
