"""Labels: what is counted of requests by the name of an upstream, a route or the like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import nlargest
from typing import Any

from .errors import shown
from .pending import Outcome

__all__ = ["LabelStats", "Labels", "check_label"]

_MAX_LABELS = 1_000  # an id that is given for a label must not become the leak that we are against
_MAX_LENGTH = 255
_OTHER = "(other)"


@dataclass(frozen=True, slots=True)
class LabelStats:
    """The counters of one label at one moment.

    ``registered == resolved + rejected + timed_out + cancelled + closed + pending``, always.

    Attributes:
        registered: requests registered under it since the start.
        resolved: of these, ended by a response.
        rejected: ended by an error in place of a response.
        timed_out: ended by their deadline.
        cancelled: ended because the caller left.
        closed: ended because the correlator or their group was closed.
        pending: not ended yet.
    """

    registered: int
    resolved: int
    rejected: int
    timed_out: int
    cancelled: int
    closed: int
    pending: int


class Labels:
    """Counts by label, for so many labels; the rest goes together."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        # By label: how many were registered, under None, and how many have ended so.
        self._counts: dict[str, dict[Outcome | None, int]] = {}

    def registered(self, label: str) -> None:
        """Count a request that was registered."""
        counts = self._counts.get(label)
        if counts is None:
            if len(self._counts) >= _MAX_LABELS:
                label = _OTHER
            none: dict[Outcome | None, int] = {None: 0, **dict.fromkeys(Outcome, 0)}
            counts = self._counts.setdefault(label, none)
        counts[None] += 1

    def settled(self, label: str, outcome: Outcome) -> None:
        """Count the end of one that was registered."""
        # No label ever goes: one that is not here was not when its request began.
        counts = self._counts.get(label)
        if counts is None:
            counts = self._counts[_OTHER]
        counts[outcome] += 1

    def stats(self, most: int = _MAX_LABELS + 1) -> dict[str, LabelStats]:
        """Return the counters of so many labels: most pending first, then most registered."""

        def rank(each: tuple[str, dict[Outcome | None, int]]) -> tuple[int, int]:
            return _pending(each[1]), each[1][None]

        return {label: _stats_of(of) for label, of in nlargest(most, self._counts.items(), rank)}

    def total(self) -> LabelStats:
        """Return the counters of all labels together."""
        total: Counter[Outcome | None] = Counter()
        for counts in self._counts.values():
            total.update(counts)
        return _stats_of(total)


def _pending(counts: Mapping[Outcome | None, int]) -> int:
    return 2 * counts[None] - sum(counts.values())


def _stats_of(counts: Mapping[Outcome | None, int]) -> LabelStats:
    ended = {outcome.value: counts[outcome] for outcome in Outcome}
    return LabelStats(registered=counts[None], **ended, pending=_pending(counts))


def check_label(label: Any) -> None:
    """Raise TypeError or ValueError if that is no label."""
    if not isinstance(label, str):
        raise TypeError(f"label must be a string, not {shown(label)}")
    if not (0 < len(label) <= _MAX_LENGTH and label.isprintable()):
        raise ValueError(
            f"label must be 1 to {_MAX_LENGTH} printable characters, not {label!r:.300}"
        )
