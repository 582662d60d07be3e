"""Group: pendings that share a fate (a connection) or a limit (a tenant)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from .checks import check_callable, check_error
from .errors import fresh
from .pending import Outcome, Pending
from .refusals import group_closed
from .sending import send_request

if TYPE_CHECKING:
    from .core import Correlator
    from .waiting import Ticket

__all__ = ["Group"]

K = TypeVar("K", bound=Hashable, default=str)
V = TypeVar("V", default=Any)


class Group(Generic[K, V]):
    """Some of a correlator's pendings, to be limited or closed together.

    Made by `Correlator.group`, which gives the same group for the same name as long as somebody
    holds it or something is pending in it.

    Attributes:
        name: its name.
        max_pending: how many may be pending in it at once, or None for no limit of its own.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_closed_with",
        "_correlator",
        "_members",
        "max_pending",
        "name",
    )

    def __init__(self, correlator: Correlator[K, V], name: str, max_pending: int | None) -> None:
        self._correlator = correlator
        self.name = name
        self.max_pending = max_pending
        self._members: set[Pending[K, V]] = set()
        self._closed = False
        self._closed_with: type[Exception] | None = None  # not the error, which holds its frames

    def __len__(self) -> int:
        """How many are pending in it."""
        return len(self._members)

    def __bool__(self) -> bool:
        """Always true: an empty group is still one."""
        return True

    @property
    def closed(self) -> bool:
        """Whether `close` was called. A closed group takes no more requests."""
        return self._closed

    @property
    def full(self) -> bool:
        """Whether as many are pending in it as may be."""
        return self.max_pending is not None and len(self._members) >= self.max_pending

    def register(
        self,
        request_id: K | None = None,
        *,
        timeout: float | None = None,
        context: Any = None,
        size: int = 0,
        reuse: bool = False,
        label: str | None = None,
    ) -> Pending[K, V]:
        """Register a request in this group. See `Correlator.register`.

        Raises:
            CapacityExceeded: with status 429, `max_pending` of this group are pending.
            CorrelatorClosed: this group is closed.
        """
        return self._correlator._register(request_id, timeout, context, size, reuse, label, self)

    async def correlate(
        self,
        request_id: K | None = None,
        *,
        send: Callable[[K], Awaitable[object]] | None = None,
        timeout: float | None = None,
        context: Any = None,
        size: int = 0,
        reuse: bool = False,
        label: str | None = None,
    ) -> V:
        """Register in this group, send, and wait. See `Correlator.correlate`.

        The group's own limit refuses at once (429), also where the correlator waits when full.
        """
        if send is not None:
            check_callable("send", send)
        correlator = self._correlator
        pending = await correlator._admit(request_id, timeout, context, size, reuse, label, self)
        if send is not None:
            await send_request(pending, send)
        return await pending

    def close(self, error: Exception | None = None) -> int:
        """End everything pending in this group, at once, and refuse what comes after.

        Args:
            error: what the callers get, each a fresh copy; by default `CorrelatorClosed`.

        Returns:
            How many were pending.

        Raises:
            TypeError: `error` is not an instance of `Exception`; nothing was closed.
        """
        if error is not None:
            check_error("error", error)
        correlator = self._correlator
        correlator._forget_group(self)
        if error is not None and not self._closed:
            self._closed_with = type(error)
        self._closed = True

        def dismissed(ticket: Ticket[K, V]) -> Exception:
            refusal = ticket.caller.run(correlator._refuse, group_closed(self, ticket))
            return refusal if error is None else fresh(error)

        correlator._queue.dismiss(dismissed, self)
        members = list(self._members)
        for pending in members:
            end = group_closed(self, pending) if error is None else fresh(error)
            correlator._settle(pending, Outcome.CLOSED, end)
        return len(members)

    def __repr__(self) -> str:
        limit = "" if self.max_pending is None else f" of {self.max_pending}"
        state = "closed" if self._closed else f"{len(self)}{limit} pending"
        return f"<Group {self.name!r} {state}>"
