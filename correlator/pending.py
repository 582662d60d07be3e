"""Pending, Outcome, Disposition: one request's life."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Hashable
from contextvars import Token
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self

from typing_extensions import TypeVar

from .context import Scope, enter_pending, leave
from .errors import CorrelationError, RequestTimeout, fresh, shown, shown_seconds
from .origin import Origin, shown_origin

if TYPE_CHECKING:
    from .core import Correlator
    from .group import Group
    from .ledger import Ledger
    from .sending import Interruption

__all__ = ["Disposition", "Outcome", "Pending", "PendingInfo", "shown_source"]

K = TypeVar("K", bound=Hashable, default=str)
V = TypeVar("V", default=Any)


class Outcome(StrEnum):
    """How a request ended."""

    RESOLVED = "resolved"
    """A response came."""
    REJECTED = "rejected"
    """An error came in place of a response."""
    TIMED_OUT = "timed_out"
    """The deadline passed."""
    CANCELLED = "cancelled"
    """The caller left (it was cancelled, its send failed, or `Pending.cancel` was called)."""
    CLOSED = "closed"
    """The correlator, or the pending's group, was closed."""


RESOLVED = Outcome.RESOLVED  # looked up once: an attribute of an enum costs more than a global


class Disposition(StrEnum):
    """What became of a reply."""

    MATCHED = "matched"
    """It settled the request it belongs to."""
    LATE = "late"
    """The request had ended without a reply (timed out, cancelled or closed)."""
    DUPLICATE = "duplicate"
    """The request had been answered already."""
    UNKNOWN = "unknown"
    """No such request is pending or remembered."""


@dataclass(frozen=True, slots=True)
class PendingInfo:
    """A pending as it was at one moment.

    Attributes:
        request_id: the id that pairs it.
        age: seconds since it was registered.
        remaining: seconds until its deadline, 0.0 when the reaper is about to end it.
        size: bytes it counts against `max_pending_bytes`.
        group: its group's name, or None.
        label: what it was labelled with at registration, or None.
        origin: the line of code that registered it, or None if that is not tracked.
    """

    request_id: Any
    age: float
    remaining: float
    size: int
    group: str | None
    label: str | None = None
    origin: str | None = None


class Pending(Generic[K, V]):
    """A registered request whose response has not come, and, once it has ended, how it did.

    Awaiting it gives the response, or raises what ended it. It may be awaited by several tasks
    and several times. A task that is cancelled while it is the only one waiting ends the request,
    unless the request is in a ``with`` block, which ends it by being left.

    As a context manager it is ended by leaving the block. In the block it is the pending at hand
    (`current_pending`), and its deadline is the ambient one.

    Made by `Correlator.register` only.

    Attributes:
        request_id: the id that pairs it with its response.
        context: what the caller gave at registration, for whoever gets the reply.
        size: bytes it counts against `max_pending_bytes`.
        deadline: when it ends, in seconds on the loop's clock.
        correlation_id: the ambient request id where it was registered, or None: the one that logs
            and headers carry, and that tells for whom it was asked.
        label: what it was labelled with at registration, or None.
    """

    __slots__ = (
        "__weakref__",
        "_created_at",
        "_ended_at",
        "_group",
        "_ledger",
        "_origin",
        "_outcome",
        "_result",
        "_sending",
        "_tokens",
        "_waiters",
        "context",
        "correlation_id",
        "deadline",
        "label",
        "request_id",
        "size",
    )

    # Set by `Ledger._register`, the last two by `Ledger._settle`; `_origin` only if it is tracked.
    request_id: K
    context: Any
    size: int
    deadline: float
    correlation_id: str | None
    label: str | None
    _ledger: Ledger[K, V]
    _created_at: float
    _group: Group[K, V] | None
    _outcome: Outcome | None
    _waiters: tuple[asyncio.Future[None], ...]
    _tokens: tuple[Token[Scope], ...]
    _sending: asyncio.Task[Any] | Interruption | None
    _result: Any  # the response, or the error of a rejected or closed one
    _ended_at: float
    _origin: Origin

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, or None while it is pending."""
        return self._outcome

    @property
    def age(self) -> float:
        """Seconds since it was registered, or, once it has ended, that it was pending."""
        until = self._ledger._time() if self._outcome is None else self._ended_at
        return until - self._created_at

    @property
    def remaining(self) -> float:
        """Seconds until its deadline; 0.0 once it has ended or the deadline has passed."""
        if self._outcome is not None:
            return 0.0
        return max(0.0, self.deadline - self._ledger._time())

    @property
    def timeout(self) -> float:
        """Seconds it was given in all, which is its own timeout, or less by an ambient deadline."""
        return self.deadline - self._created_at

    @property
    def group(self) -> Group[K, V] | None:
        """The group it was registered in, or None."""
        return self._group

    @property
    def origin(self) -> str | None:
        """The line of code that registered it, ``file:line in function``; None if not tracked."""
        try:
            return shown_origin(self._origin)
        except AttributeError:
            return None

    @property
    def correlator(self) -> Correlator[K, V]:
        """The correlator it was registered with."""
        return self._ledger  # type: ignore[return-value]  # there is no other kind

    def cancel(self) -> bool:
        """End it as `Outcome.CANCELLED`; tell whether it was still pending.

        Whoever awaits it gets a `CorrelationError`, not `asyncio.CancelledError`: the tasks that
        wait were not cancelled.
        """
        if self._outcome is not None:
            return False
        self._ledger._check_thread("Pending.cancel")
        return self._ledger._settle(self, Outcome.CANCELLED, None)

    def __enter__(self) -> Self:
        token = enter_pending(self.request_id, self.deadline)
        self._tokens = (*self._tokens, token)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()
        *outer, token = self._tokens
        self._tokens = tuple(outer)
        leave(token)

    def __await__(self) -> Generator[Any, None, V]:
        if self._outcome is None:
            # A future for each wait, not one for the pending: a task that is cancelled cancels
            # the future it waits for, and would take the other waiters with it. It only wakes;
            # what happened stands in the pending, so no error is ever left unretrieved in it.
            self._ledger._check_thread("await")
            waiter = self._ledger._new_waiter()
            self._waiters += (waiter,)
            try:
                yield from waiter
            except BaseException:
                self._abandon(waiter)
                raise
        return self._response()

    def _response(self) -> V:
        """Return the response, or raise what ended it instead."""
        if self._outcome is RESOLVED:
            return self._result  # type: ignore[no-any-return]  # a V, by `resolve`
        raise self._error()

    def _abandon(self, waiter: asyncio.Future[None]) -> None:
        """Stop waiting. The last to leave ends the request, unless somebody still works for it."""
        if self._outcome is None:
            self._waiters = tuple(other for other in self._waiters if other is not waiter)
            if not self._waiters and not self._tokens and self._sending is None:
                self._ledger._settle(self, Outcome.CANCELLED, None)

    def _error(self) -> Exception:
        """Return what to raise for an outcome that is not a response: a fresh object each time."""
        if self._outcome is Outcome.TIMED_OUT:
            given = shown_seconds(self.timeout)
            return RequestTimeout(
                f"request {shown(self.request_id)} got no response in {given}",
                request_id=self.request_id,
                age=self.age,
                timeout=self.timeout,
            )
        if self._outcome is Outcome.CANCELLED:
            return CorrelationError(
                f"request {shown(self.request_id)} was cancelled before a response came",
                request_id=self.request_id,
                age=self.age,
                timeout=self.timeout,
            )
        error: Exception = self._result
        if _was_given(error):  # somebody ends many requests with one error
            error = fresh(error)
        self._result = fresh(error)
        return error

    def __repr__(self) -> str:
        # The context and the response stay out: they are the caller's, and may be secret.
        state = self._outcome or f"pending, {shown_seconds(self.remaining)} left"
        return f"<Pending {shown(self.request_id)} {state}, age {shown_seconds(self.age)}>"


def _was_given(error: Exception) -> bool:
    """Tell whether a caller has got that very object already: see `errors.fresh`."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_code is Pending._response.__code__


def shown_source(pending: Pending[Any, Any]) -> str:
    """Return its label and where it was registered, if known, to follow its id in a message."""
    label = "" if pending.label is None else f", labelled {pending.label!r}"
    origin = "" if pending.origin is None else f", registered at {pending.origin}"
    return label + origin
