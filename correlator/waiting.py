"""Queue: callers that wait for a place in the store, first come, first served."""

from __future__ import annotations

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic

from typing_extensions import TypeVar

from .context import current_request_id
from .group import Group
from .origin import Origin
from .pending import Pending

__all__ = ["Queue", "Ticket"]

K = TypeVar("K", bound=Hashable, default=str)
V = TypeVar("V", default=Any)


class Ticket(Generic[K, V]):
    """One caller's place in the queue: what he will register, and by when."""

    __slots__ = (
        "answer",
        "caller",
        "context",
        "correlation_id",
        "deadline",
        "group",
        "label",
        "origin",
        "request_id",
        "reuse",
        "size",
    )

    def __init__(
        self,
        request_id: K | None,
        context: Any,
        size: int,
        reuse: bool,
        label: str | None,
        group: Group[K, V] | None,
        origin: Origin | None,
        deadline: float,
    ) -> None:
        self.request_id = request_id
        self.context = context
        self.size = size
        self.reuse = reuse
        self.label = label
        self.group = group
        self.origin = origin
        self.deadline = deadline
        self.correlation_id = current_request_id()
        # Whoever frees the place registers this one: in the context of the caller, since observers
        # look there for his span and his log's variables.
        self.caller = contextvars.copy_context()
        # The pending that was registered for him, or why none was: a result in either case, so
        # that nothing is left unretrieved when he leaves in the same turn. None if it is too late.
        self.answer: asyncio.Future[Pending[K, V] | Exception | None] = (
            asyncio.get_running_loop().create_future()
        )


class Queue(Generic[K, V]):
    """Who waits for a place. Whoever frees one calls `admit`, which registers the next in line.

    The place is taken in that same step, not when the caller wakes, so nobody slips in between.

    Args:
        fits: whether an entry of that size may be registered now.
        register: registers the holder of a ticket.
        max_size: how many may wait.
        context: what its timers run in.

    Attributes:
        tickets: who waits, first come first; true if anybody does.
    """

    __slots__ = ("_admitting", "_context", "_fits", "_max_size", "_register", "tickets")

    def __init__(
        self,
        fits: Callable[[int], bool],
        register: Callable[[Ticket[K, V]], Pending[K, V]],
        max_size: int,
        context: contextvars.Context,
    ) -> None:
        self._context = context
        self._fits = fits
        self._register = register
        self._max_size = max_size
        self._admitting = False
        # An OrderedDict keeps a linked list: leaving from the middle and looking at the front
        # are O(1), where the front of a plain dict that is being emptied is not.
        self.tickets: OrderedDict[Ticket[K, V], None] = OrderedDict()

    @property
    def full(self) -> bool:
        """Whether as many wait as may."""
        return len(self.tickets) >= self._max_size

    async def wait(self, ticket: Ticket[K, V]) -> Pending[K, V] | None:
        """Wait until the ticket is answered, or None if its deadline passes first.

        Raises:
            Exception: why it was dismissed, or could not be registered.
        """
        # No scope or timeout of a library: the timer of one, cancelled, stays in the loop's heap
        # until it would have rung, and would keep the caller's context with it.
        timer = ticket.answer.get_loop().call_at(
            ticket.deadline, _too_late, ticket.answer, context=self._context
        )
        self.tickets[ticket] = None
        try:
            await ticket.answer
        except BaseException:
            if ticket.answer.done() and not ticket.answer.cancelled():
                granted = ticket.answer.result()
                if isinstance(granted, Pending):
                    granted.cancel()
            raise
        finally:
            timer.cancel()
            self.tickets.pop(ticket, None)
            # Whoever was behind may fit where this one did not, or was passed over when letting in
            # this one was interrupted.
            self.admit()
        answer = ticket.answer.result()
        if answer is None or isinstance(answer, Pending):
            return answer
        try:
            raise answer
        finally:
            del answer, ticket  # or the error's traceback would hold the error

    def admit(self) -> None:
        """Register those in front, as long as the foremost fits."""
        if self._admitting:
            return  # an observer of a registration has freed a place: the loop below sees it
        self._admitting = True
        try:
            self._admit()
        finally:
            self._admitting = False

    def _admit(self) -> None:
        while self.tickets:
            ticket = next(iter(self.tickets))
            # Too late, or cancelled, and not awake yet.
            gone = ticket.answer.done() or ticket.deadline <= ticket.answer.get_loop().time()
            if not gone and not self._fits(ticket.size):
                return
            del self.tickets[ticket]
            if gone:
                continue
            # An observer may cancel whoever waits for the answer, while it is being made.
            try:
                pending = self._register(ticket)
            except BaseException as error:
                # Without its traceback, which holds this frame, and so the ticket.
                answer = error.with_traceback(None) if isinstance(error, Exception) else None
                if not ticket.answer.done():
                    ticket.answer.set_result(answer)
                if answer is None:
                    raise
                continue
            if ticket.answer.done():
                pending.cancel()
            else:
                ticket.answer.set_result(pending)

    def dismiss(
        self, error: Callable[[Ticket[K, V]], Exception], group: Group[K, V] | None = None
    ) -> None:
        """Send away everybody, or those of one group, each with an error of his own."""
        # All are out before anybody is told: `error` may call observers, who may call us.
        leaving = [ticket for ticket in self.tickets if group is None or ticket.group is group]
        for ticket in leaving:
            del self.tickets[ticket]
        for ticket in leaving:
            if not ticket.answer.done():
                answer = error(ticket)
                if not ticket.answer.done():
                    ticket.answer.set_result(answer)
        self.admit()


def _too_late(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_result(None)
