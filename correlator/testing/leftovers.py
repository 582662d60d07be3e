"""Leftovers: what is pending when nothing should be, and where it came from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..checks import check_instance
from ..core import Correlator
from ..errors import shown, shown_seconds
from ..pending import Pending, shown_source
from ..store import ExpiringStore
from ..threads import patiently

__all__ = ["assert_nothing_pending", "pending_in", "told"]

_SHOWN = 20


def assert_nothing_pending(*correlators: Correlator[Any, Any]) -> None:
    """Raise AssertionError if anything is pending in any of them, which names all that is.

    With ``Correlator(track_origin=True)`` it also says where it was registered.

    Raises:
        AssertionError: something is pending.
        TypeError: none was given, or something else than a `Correlator`.
    """
    __tracebackhide__ = True
    if not correlators:
        raise TypeError("assert_nothing_pending needs the correlators to look into: at least one")
    for correlator in correlators:
        check_instance("each of correlators", correlator, Correlator)
    parts = [
        told(left, "is pending" if len(left) == 1 else "are pending")
        for correlator in correlators
        if (left := pending_in(correlator._store))
    ]
    if parts:
        raise AssertionError("\n".join(parts))


def pending_in(store: ExpiringStore[Any, Pending[Any, Any]]) -> list[Pending[Any, Any]]:
    """Return what is pending, oldest first. May be called from any thread."""
    return patiently(lambda: list(store.values()))


def told(left: Iterable[Pending[Any, Any]], what: str) -> str:
    """Return a few lines on what is left, oldest first."""
    left = list(left)
    lines = [f"{len(left)} request{'s' * (len(left) != 1)} {what}:"]
    for pending in left[:_SHOWN]:
        name, age = pending.correlator.name, shown_seconds(round(pending.age, 4))
        source = shown_source(pending)
        lines.append(f"  {shown(pending.request_id)} of correlator {name!r}, {age} old{source}")
    if len(left) > _SHOWN:
        lines.append(f"  and {len(left) - _SHOWN} more")
    if not any(pending.correlator._tracked for pending in left):
        lines.append("  Correlator(track_origin=True) would say where they were registered")
    return "\n".join(lines)
