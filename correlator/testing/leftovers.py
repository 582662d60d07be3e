"""Leftovers: what is pending when nothing should be, and where it came from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..core import Correlator
from ..errors import shown
from ..pending import Pending

__all__ = ["assert_nothing_pending", "told"]

_SHOWN = 20


def assert_nothing_pending(correlator: Correlator[Any, Any]) -> None:
    """Raise AssertionError if anything is pending, which names it.

    With ``Correlator(track_origin=True)`` it also says where it was registered.
    """
    left = list(correlator._store.values())
    if left:
        raise AssertionError(told(left, "is pending" if len(left) == 1 else "are pending"))


def told(left: Iterable[Pending[Any, Any]], what: str) -> str:
    """Return a few lines on what is left, oldest first."""
    left = list(left)
    lines = [f"{len(left)} request{'s' * (len(left) != 1)} {what}:"]
    for pending in left[:_SHOWN]:
        label = "" if pending.label is None else f", labelled {pending.label!r}"
        origin = "" if pending.origin is None else f", registered at {pending.origin}"
        name = pending.correlator.name
        lines.append(
            f"  {shown(pending.request_id)} of correlator {name!r}, {pending.age:.3g} s old"
            f"{label}{origin}"
        )
    if len(left) > _SHOWN:
        lines.append(f"  and {len(left) - _SHOWN} more")
    return "\n".join(lines)
