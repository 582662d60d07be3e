"""RememberedIds: the ids that settled a short while ago, and whether a reply had come.

They lie in two dicts: the newer fills up while the older waits to be dropped as a whole. To take
ids out one by one would cost more than all the rest of it, on the path of every request, for what
was put in a minute ago is in no cache any more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable
from itertools import islice
from typing import Generic

from typing_extensions import TypeVar

from .pending import Disposition, Outcome

__all__ = ["RememberedIds"]

K = TypeVar("K", bound=Hashable, default=str)

_FEW = 128  # of so few the oldest goes alone; of more, half of them go together
_ANSWERED = (Outcome.RESOLVED, Outcome.REJECTED)
_PAST = float("-inf")


class _Unanswered(float):
    """When to forget a request that ended without a reply: that it is of this class tells so."""

    __slots__ = ()


class RememberedIds(Generic[K]):
    """Tells late and duplicate replies from unknown ones, for `seconds` after a request's end.

    What is past its time counts as gone. It is dropped when others come, at the latest after as
    much time again, or when somebody counts: with nothing pending nothing wakes up for it.

    Args:
        seconds: how long an id is remembered.
        max_size: how many are at most. When there are so many, the older half goes, at once: that
            holds the loop for about a millisecond for each 50,000 of them.
        resolution: seconds by which forgetting may be late; it is never early.

    Attributes:
        newer, older: when each id is forgotten, on any clock that does not go back. So each dict is
            in the order of time, what is past its time, if it is still there, in front.
    """

    __slots__ = (
        "_answered_until",
        "_max_size",
        "_resolution",
        "_room",
        "_turns_at",
        "_unanswered_until",
        "_until",
        "newer",
        "older",
        "seconds",
    )

    def __init__(self, *, seconds: float, max_size: int, resolution: float) -> None:
        self.seconds = seconds
        self._resolution = resolution
        self._max_size = max_size
        self._room = max_size if max_size <= _FEW else max_size // 2  # in the newer
        # What is put in until `_until` is forgotten together: so one number serves for all of it.
        self._until = self._turns_at = self._answered_until = _PAST
        self._unanswered_until = _Unanswered(_PAST)
        self.newer: dict[K, float] = {}
        self.older: dict[K, float] = {}

    def remember(self, request_id: K, outcome: Outcome, now: float) -> None:
        """Remember an id that is not in it, from `now` on."""
        newer = self.newer
        if now >= self._until or len(newer) >= self._room:
            newer = self._turn(now)
        newer[request_id] = self._answered_until if outcome in _ANSWERED else self._unanswered_until

    def _turn(self, now: float) -> dict[K, float]:
        """See to the time and the room, and return where to put the next one."""
        if now >= self._until:
            self._until = now + self._resolution
            self._answered_until = self._until + self.seconds
            self._unanswered_until = _Unanswered(self._answered_until)
        if now >= self._turns_at or len(self.newer) >= self._room:
            if self._max_size > _FEW:
                self.older, self.newer = self.newer, {}
            elif now >= self._turns_at:
                self.newer = _fresh(self.newer, now)
            if len(self.newer) >= self._room:
                del self.newer[next(iter(self.newer))]
            self._turns_at = self._answered_until  # then all that is in the older is past its time
        return self.newer

    def discard(self, request_id: K) -> None:
        """Forget an id."""
        self.newer.pop(request_id, None)
        self.older.pop(request_id, None)

    def clear(self) -> None:
        """Forget everything."""
        self.newer = {}
        self.older = {}

    def count(self, now: float) -> int:
        """Return how many are remembered. Safe to call from any thread."""
        return sum(len(ids) - _past(ids, now) for ids in (self.older, self.newer))

    def forget(self, now: float) -> None:
        """Give back the memory of what is past its time, where that is the greater part."""
        self.older = _mostly_fresh(self.older, now)
        self.newer = _mostly_fresh(self.newer, now)

    def settled_ago(self, request_id: K, now: float) -> float | None:
        """Return how many seconds ago a request settled, or None if it is not remembered.

        Known as closely as the resolution.
        """
        forgotten_at = self._forgotten_at(request_id)
        return None if forgotten_at <= now else max(0.0, now - (forgotten_at - self.seconds))

    def disposition(self, request_id: K, now: float) -> Disposition:
        """Return what a reply is that found no pending."""
        forgotten_at = self._forgotten_at(request_id)
        if forgotten_at <= now:
            return Disposition.UNKNOWN
        unanswered = isinstance(forgotten_at, _Unanswered)
        return Disposition.LATE if unanswered else Disposition.DUPLICATE

    def _forgotten_at(self, request_id: K) -> float:
        forgotten_at = self.newer.get(request_id)
        return self.older.get(request_id, _PAST) if forgotten_at is None else forgotten_at


def _past(ids: dict[K, float], now: float) -> int:
    """Return how many are past their time. They are the first."""
    return bisect_right(list(ids.values()), now)


def _fresh(ids: dict[K, float], now: float) -> dict[K, float]:
    """Return those that are not past their time."""
    return dict(islice(ids.items(), _past(ids, now), None))


def _mostly_fresh(ids: dict[K, float], now: float) -> dict[K, float]:
    """Return those that are not past their time, or all if that is the greater part."""
    return _fresh(ids, now) if 2 * _past(ids, now) > len(ids) else ids
