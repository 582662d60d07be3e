"""The errors with which a call or a request is refused: what was wrong, and what to do instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .errors import (
    CapacityExceeded,
    CorrelatorClosed,
    DuplicateRequest,
    RequestTimeout,
    shown,
    shown_seconds,
)
from .pending import Pending

if TYPE_CHECKING:
    from .group import Group
    from .waiting import Ticket

Request: TypeAlias = "Pending[Any, Any] | Ticket[Any, Any]"

__all__ = [
    "State",
    "closed",
    "draining",
    "duplicate",
    "full",
    "group_closed",
    "group_full",
    "group_shut",
    "loop_closed",
    "out_of_order",
    "too_late",
    "unhashable",
]

State = Literal["new", "open", "draining", "closed"]


def out_of_order(name: str, state: State, verb: str) -> CorrelatorClosed | RuntimeError:
    """`verb` was called before entering, after closing, while draining, or off the thread."""
    if state == "new":
        return CorrelatorClosed(
            f"correlator {name!r} was not entered: call {verb}() inside `async with correlator:`"
        )
    if state == "closed":
        return CorrelatorClosed(
            f"correlator {name!r} is closed: call {verb}() inside its `async with` block, "
            f"or make a new correlator"
        )
    if verb in ("resolve", "reject"):
        instead = f"use {verb}_threadsafe()"
    elif verb in ("drain", "aclose"):
        instead = "hand it to the loop with asyncio.run_coroutine_threadsafe()"
    else:
        instead = (
            "have the loop do it with loop.call_soon_threadsafe(), or hand it a correlate() with "
            "asyncio.run_coroutine_threadsafe()"
        )
    return RuntimeError(
        f"{verb}() of correlator {name!r} was called from another thread than its loop's: {instead}"
    )


def loop_closed(name: str) -> CorrelatorClosed:
    """The event loop was closed, and the correlator was not."""
    return CorrelatorClosed(f"the event loop of correlator {name!r} was closed: nobody waits there")


def draining(name: str, request_id: Any) -> CorrelatorClosed:
    """The correlator takes no more requests."""
    return CorrelatorClosed(
        f"correlator {name!r} is draining and takes no new requests", request_id=request_id
    )


def closed(name: str, state: State, of: Request) -> CorrelatorClosed:
    """The correlator has ended this request, or sends it away from the queue."""
    why = "is draining and takes no new requests" if state == "draining" else "was closed"
    return CorrelatorClosed(f"{_subject(of)}correlator {name!r} {why}", **_facts(of))


def too_late(request_id: Any) -> RequestTimeout:
    """The ambient deadline has passed."""
    return RequestTimeout(
        "the deadline in force had passed before the request: nothing was registered or sent",
        request_id=request_id,
        timeout=0.0,
    )


def duplicate(request_id: Any, settled_ago: float | None) -> DuplicateRequest:
    """The id is pending, or settled so many seconds ago."""
    if settled_ago is None:
        state = "is pending already"
    else:
        state = f"settled {shown_seconds(settled_ago)} ago; pass reuse=True to use the id again"
    return DuplicateRequest(f"request {shown(request_id)} {state}", request_id=request_id)


def unhashable(request_id: object) -> TypeError:
    """The id cannot be a key."""
    return TypeError(f"request_id must be hashable, not {shown(request_id)}")


def full(
    name: str,
    max_pending: int,
    max_bytes: int | None,
    request_id: Any,
    size: int,
    retry_after: float | None,
    *,
    waiting: int,
) -> CapacityExceeded:
    """The correlator is at a bound; the pending due first ends in `retry_after` seconds."""
    if max_bytes is not None and size > max_bytes:
        retry_after = None
        why = f"size={size} is more than max_pending_bytes={max_bytes} in all"
    else:
        bytes_too = "" if max_bytes is None else f" or max_pending_bytes={max_bytes}"
        queue = f", and {waiting} wait before this one" if waiting else ""
        why = f"it is at max_pending={max_pending}{bytes_too}{queue}"
    return CapacityExceeded(
        f"correlator {name!r} is full: {why}", request_id=request_id, retry_after=retry_after
    )


def group_shut(group: Group[Any, Any], request_id: Any) -> CorrelatorClosed:
    """The group takes no more requests."""
    error = group._closed_with
    why = "" if error is None else f" with {error.__name__}"
    return CorrelatorClosed(f"group {group.name!r} was closed{why}", request_id=request_id)


def group_closed(group: Group[Any, Any], of: Request) -> CorrelatorClosed:
    """The group has ended this request, or sends it away from the queue."""
    return CorrelatorClosed(f"{_subject(of)}group {group.name!r} was closed", **_facts(of))


def group_full(group: Group[Any, Any], request_id: Any) -> CapacityExceeded:
    """The group is at its own limit; a place is free when the first of its members is due."""
    return CapacityExceeded(
        f"group {group.name!r} is full: it is at max_pending={group.max_pending}",
        request_id=request_id,
        retry_after=min(member.remaining for member in group._members),
        status=429,
    )


def _subject(of: Request) -> str:
    return "" if of.request_id is None else f"request {shown(of.request_id)}: "


def _facts(of: Request) -> dict[str, Any]:
    if isinstance(of, Pending):
        return {"request_id": of.request_id, "age": of.age, "timeout": of.timeout}
    return {"request_id": of.request_id}
