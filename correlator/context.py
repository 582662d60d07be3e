"""The ambient request id and deadline, carried by context variables.

Only ids and times are kept here, never a pending: a task inherits the variables of whoever started
it for as long as it lives, and would keep the request alive with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from typing import Any, NamedTuple

from .checks import check_seconds
from .errors import shown

__all__ = [
    "PendingRef",
    "current_deadline",
    "current_pending",
    "current_request_id",
    "remaining_time",
    "request_scope",
]


class PendingRef(NamedTuple):
    """Which pending the code at hand works for: its id, and its deadline in the loop's seconds."""

    request_id: Any
    deadline: float


Scope = tuple[str | None, float, tuple[Any, float] | None]
"""The ambient request id, the ambient deadline (seconds, or infinity), and the pending at hand.

Plain tuples in one variable, since it is read for every request, and set for most.
"""

_NO_DEADLINE = float("inf")

ambient: ContextVar[Scope] = ContextVar("correlator", default=(None, _NO_DEADLINE, None))


def current_request_id() -> str | None:
    """Return the ambient request id, the one for logs and headers, or None outside a request."""
    return ambient.get()[0]


def current_pending() -> PendingRef | None:
    """Return the pending whose ``with`` block or ``send`` the caller runs in, or None."""
    pending = ambient.get()[2]
    return None if pending is None else PendingRef(*pending)


def current_deadline() -> float | None:
    """Return the ambient deadline in seconds on the running loop's clock, or None."""
    deadline = ambient.get()[1]
    return None if deadline == _NO_DEADLINE else deadline


def remaining_time() -> float | None:
    """Return the seconds left until the ambient deadline, 0.0 once it has passed, or None.

    Raises:
        RuntimeError: no event loop runs in this thread, so there is no clock to ask.
    """
    deadline = current_deadline()
    return None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())


def request_scope(
    request_id: str | None = None, timeout: float | None = None
) -> AbstractContextManager[None]:
    """Set the ambient request id, the ambient deadline, or both, for the length of a block.

    Each is for one block: make a new one for the next.

    Args:
        request_id: the id for logs and headers; None leaves the one in force. Only one that matches
            ``[A-Za-z0-9._-]{1,128}`` goes into headers.
        timeout: seconds from the block's start that everything in it may take together; it can
            only shorten a deadline already in force. None leaves that one.

    Raises:
        TypeError: `request_id` is no string, or `timeout` no number.
        ValueError: `timeout` is not above 0 and at most 1e9.
        RuntimeError: it was used for a block before; or, with a `timeout`, no event loop runs.
    """
    if request_id is not None and not isinstance(request_id, str):
        raise TypeError(f"request_id must be a string, not {shown(request_id)}")
    return _RequestScope(request_id, None if timeout is None else check_seconds("timeout", timeout))


class _RequestScope(AbstractContextManager[None]):
    """What `request_scope` returns: a class, since a generator costs every request more."""

    __slots__ = ("_request_id", "_timeout", "_token")

    def __init__(self, request_id: str | None, timeout: float | None) -> None:
        self._request_id = request_id
        self._timeout = timeout
        self._token: Token[Scope] | None = None

    def __enter__(self) -> None:
        if self._token is not None:
            raise RuntimeError("a request_scope is for one block: make a new one for each")
        request_id, deadline, pending = ambient.get()
        if self._timeout is not None:
            deadline = min(deadline, asyncio.get_running_loop().time() + self._timeout)
        if self._request_id is not None:
            request_id = self._request_id
        self._token = ambient.set((request_id, deadline, pending))

    def __exit__(self, *exc_info: object) -> None:
        assert self._token is not None, "it was entered"
        leave(self._token)


@contextmanager
def nothing_ambient() -> Iterator[None]:
    """Have no ambient id, deadline or pending, for the length of a block."""
    token = ambient.set((None, _NO_DEADLINE, None))
    try:
        yield
    finally:
        leave(token)


def enter_pending(request_id: Any, deadline: float) -> Token[Scope]:
    """Make a pending the one at hand; its deadline can only shorten the ambient one."""
    outer_id, outer, _ = ambient.get()
    ambient_deadline = deadline
    if outer < ambient_deadline:
        ambient_deadline = outer
    return ambient.set((outer_id, ambient_deadline, (request_id, deadline)))


def leave(token: Token[Scope]) -> None:
    """Put back what was ambient before that token was given."""
    try:
        ambient.reset(token)
    except ValueError:
        # Entered in another context, as a fixture or an async generator may be: what was set
        # there went with that context, and there is nothing here to put back.
        return
