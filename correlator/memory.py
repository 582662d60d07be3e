"""RememberedIds: the ids that settled a short while ago, and how."""

from __future__ import annotations

from collections.abc import Hashable
from math import floor

from typing_extensions import TypeVar

from .pending import Disposition, Outcome
from .store import ExpiringStore

__all__ = ["RememberedIds"]

K = TypeVar("K", bound=Hashable, default=str)

_AT_ONCE = 512  # dropped in one go, at least
_AT_MOST = 4096
_ANSWERED = (Outcome.RESOLVED, Outcome.REJECTED)


class RememberedIds(ExpiringStore[K, Outcome]):
    """Tells late and duplicate replies from unknown ones, for `seconds` after a request's end.

    What is past its time is dropped in passing, when other ids are added or somebody looks, and
    counts as gone before that: with nothing pending nothing wakes up for it.
    """

    __slots__ = ("_next_slot_at", "seconds")

    def __init__(self, *, seconds: float, max_size: int, resolution: float) -> None:
        super().__init__(resolution=resolution, max_size=max_size, evict=True)
        self.seconds = seconds
        self._next_slot_at = float("-inf")

    def remember(self, request_id: K, outcome: Outcome, now: float) -> None:
        """Remember an id that is not in the store, from `now` on.

        It is `add` for the case that all stay equally long, which is on every request's path:
        as long as it is the same slot's turn there is nothing to compute.
        """
        if now >= self._next_slot_at:
            self.forget(now)
            self._next_slot_at = now + self._resolution
            self._open(floor((self._next_slot_at + self.seconds) * self._per_second) + 1)
        if len(self._entries) >= self._max_size:
            self._make_room(0)
        slot = self._newest
        self._entries[request_id] = slot
        slot[request_id] = outcome

    def forget(self, now: float) -> None:
        """Drop some of what is past its time."""
        # Twice what came last, so that they go faster than they come; but not all of a burst.
        self.purge(now, max(_AT_ONCE, min(2 * len(self._newest), _AT_MOST)))
        self._next_slot_at = float("-inf")  # an empty slot is gone now, also the newest

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self._next_slot_at = float("-inf")

    def settled_ago(self, request_id: K, now: float) -> float | None:
        """Return how many seconds ago a request settled, or None if it is not remembered.

        Known as closely as the store's resolution.
        """
        if request_id not in self:
            return None
        left = self.leaves_at(request_id) - now
        return max(0.0, self.seconds - left) if left > 0 else None

    def disposition(self, request_id: K, now: float) -> Disposition:
        """Return what a reply is that found no pending."""
        if self.settled_ago(request_id, now) is None:
            return Disposition.UNKNOWN
        answered = self.get(request_id) in _ANSWERED
        return Disposition.DUPLICATE if answered else Disposition.LATE
