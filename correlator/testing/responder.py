"""Responder: the other side of requests, which does what its script says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from ..checks import check_bound, check_error, check_instance, check_seconds
from ..core import Correlator
from ..errors import shown
from ..pending import Disposition, Pending

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
    """Answer with that error.

    Raises:
        TypeError: it is no instance of `Exception`.
    """
    return Step(check_error("value", value), is_error=True)


def drop() -> Step:
    """Do not answer."""
    return Step(times=0)


def duplicate(value: Any = None, times: int = 2) -> Step:
    """Answer so many times.

    Raises:
        TypeError: `times` is no whole number.
        ValueError: it is below 2.
    """
    return Step(value, check_bound("times", times, least=2))


def late(value: Any = None, by: float = 1.0) -> Step:
    """Answer after the request's deadline, so late that it has ended.

    The answer comes `by` seconds after the deadline. If the request is still pending then, as it
    may be for the correlator's `resolution`, it comes a resolution later, and so on until it has
    ended. One that is later than the correlator's `remember` is not told from an unknown one.

    Raises:
        TypeError: `by` is no number.
        ValueError: it is not above 0 and at most 1e9.
    """
    return Step(value, after=check_seconds("by", by), is_late=True)


def delay(seconds: float, step: Step) -> Step:
    """Do that, so many seconds later.

    Raises:
        TypeError: `seconds` is no number, or `step` no step.
        ValueError: `seconds` is not above 0 and at most 1e9.
    """
    check_instance("step", step, Step)
    return replace(step, after=step.after + check_seconds("seconds", seconds))


class Responder:
    """Stands in for whoever answers, and does with each request what the next step says.

    Give its `send` to `Correlator.correlate`::

        responder = Responder(correlator, reply("shipped"), drop(), delay(0.5, reply("at last")))
        await correlator.correlate(send=responder.send)

    As a context manager it forgets, when it is left, what it would still have answered. What it
    would have answered after the correlator was closed is dropped: there is nobody to get it.

    Args:
        correlator: gets the answers.
        *steps: one for each request.
        then: for all requests after those; by default they are a mistake.

    Attributes:
        asked: the ids of the requests that came, in order.
        dispositions: what became of its answers, in order; what was dropped is not among them.

    Raises:
        TypeError: an argument is of the wrong type. The message names it and its value.
    """

    def __init__(
        self, correlator: Correlator[Any, Any], *steps: Step, then: Step | None = None
    ) -> None:
        check_instance("correlator", correlator, Correlator)
        for step in (*steps, *(() if then is None else (then,))):
            if not isinstance(step, Step):
                raise TypeError(f"steps must be made by reply(), drop() …, not {shown(step)}")
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
            RuntimeError: the step is `late`, and no request of that id is pending to be late for.
        """
        __tracebackhide__ = True
        self.asked.append(request_id)
        step = next(self._script, self._then)
        if step is None:
            raise AssertionError(
                f"the script has {self._length} step{'s' * (self._length != 1)}, and this is "
                f"request {len(self.asked)}"
            )
        loop = asyncio.get_running_loop()
        if step.is_late:
            pending = self._correlator._store.get(request_id)
            if pending is None:
                raise RuntimeError(
                    f"late() needs a request to be late for, and {shown(request_id)} is not "
                    f"pending: give send to correlate(), or register first"
                )
            self._at(loop, pending.deadline + step.after, lambda: self._after(pending, step))
        elif step.times:
            self._at(loop, loop.time() + step.after, lambda: self._answer(request_id, step))

    def _at(self, loop: asyncio.AbstractEventLoop, when: float, act: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            act()

        timer = loop.call_at(when, run)
        self._timers.add(timer)

    def _after(self, pending: Pending[Any, Any], step: Step) -> None:
        """Answer if that pending has ended, or look again: its end may be late, too."""
        if pending.outcome is None:
            loop = asyncio.get_running_loop()
            again_at = loop.time() + self._correlator._resolution
            self._at(loop, again_at, lambda: self._after(pending, step))
        else:
            self._answer(pending.request_id, step)

    def _answer(self, request_id: Any, step: Step) -> None:
        for _ in range(step.times):
            if self._correlator._state == "closed":
                return  # whoever asked has been told so: there is nobody to get it
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
