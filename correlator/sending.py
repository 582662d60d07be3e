"""Interrupting a caller's own `send` when its request is over, without a timer for each request.

To interrupt is to cancel the task that sends, as `asyncio.timeout` does, and afterwards to take
that back with `Task.uncancel` and see whether another cancellation stands. If one does, the caller
was cancelled too, and the `CancelledError` goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from inspect import isawaitable
from types import CoroutineType
from typing import Any, Literal, NoReturn, TypeVar, cast

from .context import enter_pending, leave
from .errors import shown
from .pending import Outcome, Pending

__all__ = ["Interruption", "interrupt_sending", "send_request"]

K = TypeVar("K", bound=Hashable)

_log = logging.getLogger("correlator")

_AGAIN = 1.0  # seconds until a send that goes on in spite of an interruption gets another


async def send_request(pending: Pending[K, Any], send: Callable[[K], Awaitable[object]]) -> None:
    """Send a registered request, unless it is over already. A send that fails ends it.

    Raises:
        BaseException: what `send` raised, unless the request was over by then.
        RuntimeError: no task of the correlator's loop is running: there is nothing to interrupt.
    """
    if pending._outcome is not None:
        return
    ledger = pending._ledger
    # No variable for the task: what it raises holds this frame, and it what it raised.
    pending._sending = asyncio.current_task(ledger._loop)
    if pending._sending is None:
        ledger._settle(pending, Outcome.CANCELLED, None)
        raise RuntimeError(
            f"correlate() with send= must run in a task of the loop that correlator "
            f"{ledger.name!r} was entered on"
        )
    cancelling = pending._sending.cancelling()
    token = enter_pending(pending.request_id, pending.deadline)
    try:
        sending = send(pending.request_id)
        # The first question is what the second begins with, without the call.
        if sending.__class__ is not CoroutineType and not isawaitable(sending):
            raise TypeError(
                f"send must return an awaitable (is it an async function?), not {shown(sending)}"
            )
        await sending
    except BaseException as error:
        if pending._outcome is None:
            pending._sending = None
            ledger._settle(pending, Outcome.CANCELLED, None)
            raise
        ending = _end(pending, cancelling, error)
        if ending == "raise":
            raise
        if ending == "cancelled":
            await _deliver_cancellation(error)
    else:
        if pending._outcome is None:
            pending._sending = None
        elif _end(pending, cancelling, None) == "cancelled":
            await _deliver_cancellation(None)
    finally:
        leave(token)


class Interruption:
    """Will interrupt a send, or has done so, so many times."""

    __slots__ = ("_context", "_handle", "_loop", "_task", "times")

    def __init__(
        self, task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop, at: float, context: Context
    ) -> None:
        self._task = task
        self._loop = loop
        self._context = context
        self.times = 0
        self._schedule(at)

    def _schedule(self, at: float) -> None:
        self._handle = self._loop.call_at(at, self._interrupt, context=self._context)

    def _interrupt(self) -> None:
        self.times += 1
        self._task.cancel()
        # A cancellation can get lost in the send: `asyncio.wait_for` before Python 3.12 drops one
        # that comes together with the result (python/cpython#86296).
        self._schedule(self._loop.time() + _AGAIN)

    def end(self) -> int:
        """Interrupt no more, take back what was done, and return how many cancellations stand."""
        self._handle.cancel()
        for _ in range(self.times):
            self._task.uncancel()
        return self._task.cancelling()


def interrupt_sending(
    pending: Pending[Any, Any], loop: asyncio.AbstractEventLoop, context: Context
) -> None:
    """End the send of a pending that has just settled.

    When the response is there already, the send may go on to its own end, since cutting it off
    could spoil the connection it uses; but only for as long as the request could have taken.

    Never at once: this may run inside the send itself, and a task that cancels itself while it runs
    is struck at its next await, wherever that is.
    """
    task = cast("asyncio.Task[Any]", pending._sending)
    at = pending.deadline if pending.outcome is Outcome.RESOLVED else loop.time()
    pending._sending = Interruption(task, loop, at, context)


def _end(
    pending: Pending[Any, Any], cancelling: int, error: BaseException | None
) -> Literal["over", "raise", "cancelled"]:
    """Close the books on a send whose request settled meanwhile, and say what its caller gets.

    Args:
        pending: what was being sent.
        cancelling: how many cancellations of the task stood when it began to send.
        error: what the send raised, or None.

    Returns:
        ``"over"``: what ended the request. ``"raise"``: `error`. ``"cancelled"``: a cancellation of
        his own that the send kept to itself; see `_deliver_cancellation`.
    """
    interruption, pending._sending = pending._sending, None
    assert isinstance(interruption, Interruption)
    caller_cancelled = interruption.end() > cancelling
    if isinstance(error, asyncio.CancelledError):
        return "over" if interruption.times and not caller_cancelled else "raise"
    if error is not None and not isinstance(error, Exception):
        return "raise"
    if caller_cancelled and (interruption.times if error is None else _hides_cancellation(error)):
        return "cancelled"
    if error is not None:
        # The request is over, and that is what its caller gets; the error must not get lost.
        _log.warning(
            "the send of request %s failed with %s after the request was %s",
            shown(pending.request_id),
            type(error).__name__,
            pending.outcome,
        )
    return "over"


def _hides_cancellation(error: BaseException | None) -> bool:
    """Tell whether `error` was raised in answer to a cancellation.

    That one stands is not enough: a `TaskGroup` of Python 3.11 that failed leaves one standing that
    never was (python/cpython#95289).
    """
    while error is not None and not isinstance(error, asyncio.CancelledError):
        error = error.__context__
    return error is not None


async def _deliver_cancellation(cause: BaseException | None) -> NoReturn:
    """Raise the cancellation that a send kept to itself, in place of what the send did.

    An anyio scope takes only a cancellation of its own for one, and delivers it anew in each turn
    that its task waits, and so between any two of its steps: the scopes come first.
    """
    await asyncio.sleep(0)
    raise asyncio.CancelledError from cause
