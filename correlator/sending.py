"""Interrupting a caller's own `send` when its request is over, without a timer for each request.

To interrupt is to cancel the task that sends, as `asyncio.timeout` does, and afterwards to take
that back with `Task.uncancel` and see whether another cancellation stands. If one does, the caller
was cancelled too, and the `CancelledError` goes on.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from typing import Any

from .errors import shown
from .pending import Outcome, Pending

__all__ = ["Interruption", "end_sending", "interrupt_sending"]

_log = logging.getLogger("correlator")


class Interruption:
    """Will interrupt a send, or has done so."""

    __slots__ = ("done", "handle", "task")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.done = False
        self.handle: asyncio.Handle

    def interrupt(self) -> None:
        """Cancel the task that sends."""
        self.done = True
        self.task.cancel()


def interrupt_sending(
    pending: Pending[Any, Any], loop: asyncio.AbstractEventLoop, context: Context
) -> None:
    """End the send of a pending that has just settled.

    When the response is there already, the send may go on to its own end, since cutting it off
    could spoil the connection it uses; but only for as long as the request could have taken.

    Never at once: this may run inside the send itself, and a task that cancels itself while it runs
    is struck at its next await, wherever that is.
    """
    assert isinstance(pending._sending, asyncio.Task)
    pending._sending = interruption = Interruption(pending._sending)
    if pending.outcome is Outcome.RESOLVED:
        call_at, when = loop.call_at, pending.deadline
        interruption.handle = call_at(when, interruption.interrupt, context=context)
    else:
        interruption.handle = loop.call_soon(interruption.interrupt, context=context)


def end_sending(pending: Pending[Any, Any], cancelling: int, error: BaseException | None) -> bool:
    """Close the books on a send whose request settled meanwhile.

    Args:
        pending: what was being sent.
        cancelling: how many cancellations of the task stood when it began to send.
        error: what the send raised, or None.

    Returns:
        Whether `error` is dealt with, because what the caller gets is how the request ended.

    Raises:
        asyncio.CancelledError: the caller was cancelled too, and the send kept that to itself.
    """
    interruption, pending._sending = pending._sending, None
    assert isinstance(interruption, Interruption)
    interruption.handle.cancel()
    caller_cancelled = interruption.done and interruption.task.uncancel() > cancelling
    if isinstance(error, asyncio.CancelledError):
        return interruption.done and not caller_cancelled
    if caller_cancelled:
        raise asyncio.CancelledError from error
    if not isinstance(error, Exception):
        return False
    # The request is over, and that is what its caller gets; the error must not get lost.
    _log.warning(
        "the send of request %s failed with %s after the request was %s",
        shown(pending.request_id),
        type(error).__name__,
        pending.outcome,
    )
    return True
