"""ExpiringStore: a map bounded by age and size. Pure: no clock, no loop, no I/O.

A key lives in two places. `_entries` says which slot it is in; the slot, a small dict, holds every
value that falls due within the same `resolution` seconds. So insertion, look-up and removal are
one or two dict operations however many keys there are; what is removed is gone at once; and to
find what is due, only slots that are due are looked at. The soonest slot comes from a heap of slot
numbers ("ticks"), of which there is one per slot, not per key.

Time is whatever the caller says it is: seconds on any clock that does not go back.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from itertools import islice
from math import floor
from typing import Generic

from typing_extensions import TypeVar

from .checks import check_bound, check_seconds

__all__ = ["ExpiringStore", "StoreFull"]

K = TypeVar("K", bound=Hashable, default=str)
V = TypeVar("V", default=object)

# A time belongs to the slot after the one it falls into, so that nothing is ever early; the
# fraction outweighs what multiplying by a rounded reciprocal can lose.
_NEVER_EARLY = 1.00001
_EVICTED_AT_ONCE = 4096
_NO_TICK = -(2**62)  # no clock stands there


class StoreFull(Exception):
    """The store is at its bound, and was told to refuse rather than to evict."""


class _Slot(dict[K, V]):
    """The values that fall due together, by key: those that expire from `begins` until `ends`."""

    __slots__ = ("begins", "ends", "shrink_below", "tick")

    def __init__(self, tick: int, resolution: float) -> None:
        self.tick = tick
        self.begins = (tick - _NEVER_EARLY) * resolution
        self.ends = (tick - _NEVER_EARLY + 1) * resolution
        self.shrink_below = 0


class ExpiringStore(Generic[K, V]):
    """A map whose entries have a time to leave, and which holds only so many of them.

    Args:
        resolution: seconds by which `due` may be late, at most; it is never early.
        max_size: how many entries it holds at most; None for no bound.
        max_bytes: the sum of the entries' sizes at most; None for no bound.
        evict: what to do at a bound: drop what would leave soonest, up to a sixteenth of all at
            once (True), or refuse (False).

    Attributes:
        bytes: the sum of the sizes of what is in it.
    """

    __slots__ = (
        "_entries",
        "_evict",
        "_head",
        "_max_bytes",
        "_max_size",
        "_newest",
        "_per_second",
        "_resolution",
        "_sizes",
        "_slots",
        "_ticks",
        "bytes",
    )

    def __init__(
        self,
        *,
        resolution: float,
        max_size: int | None = None,
        max_bytes: int | None = None,
        evict: bool = False,
    ) -> None:
        self._resolution = check_seconds("resolution", resolution)
        self._per_second = 1.0 / resolution
        for name, bound in (("max_size", max_size), ("max_bytes", max_bytes)):
            if bound is not None:
                check_bound(name, bound)
        self._max_size = sys.maxsize if max_size is None else max_size
        self._max_bytes = float("inf") if max_bytes is None else max_bytes
        self._evict = evict
        self._entries: dict[K, _Slot[K, V]] = {}
        self._sizes: dict[K, int] = {}  # only of entries that have one
        self._slots: dict[int, _Slot[K, V]] = {}
        self._ticks: list[int] = []  # a heap of every key of `_slots`, and some that have gone
        # Where the last entry went; may be empty.
        self._newest: _Slot[K, V] = _Slot(_NO_TICK, resolution)
        # The part of a large due slot that is worked on.
        self._head: _Slot[K, V] = _Slot(_NO_TICK, resolution)
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        """Go through the keys, first added first."""
        return iter(self._entries)

    def values(self) -> Iterator[V]:
        """Go through the values, first added first. The store must not change meanwhile."""
        for key, slot in self._entries.items():
            yield slot[key]

    def get(self, key: K) -> V | None:
        """Return the value at `key`, or None. It may be due already and not yet removed."""
        slot = self._entries.get(key)
        return None if slot is None else slot[key]

    def oldest(self) -> V | None:
        """Return the value that was added first of those still there, or None."""
        return next(self.values(), None)

    def leaves_at(self, key: K) -> float:
        """Return when `key` falls due: up to `resolution` later than asked. KeyError if absent."""
        return self._entries[key].tick * self._resolution

    def fits(self, size: int = 0) -> bool:
        """Tell whether an entry of `size` could be added now without evicting another."""
        return len(self._entries) < self._max_size and self.bytes + size <= self._max_bytes

    def add(self, key: K, value: V, expires_at: float, size: int = 0) -> None:
        """Put `value` at `key` until `expires_at`.

        Raises:
            KeyError: the key is in use; its entry is left as it was.
            StoreFull: a bound is reached (and the store does not evict), or `size` alone is
                above `max_bytes`.
        """
        entries = self._entries
        if key in entries:
            raise KeyError(key)
        if len(entries) >= self._max_size or (size and self.bytes + size > self._max_bytes):
            self._make_room(size)
        slot = self._newest
        if not slot.begins <= expires_at < slot.ends:
            slot = self._open(expires_at)
        entries[key] = slot
        slot[key] = value
        if size:
            self._sizes[key] = size
            self.bytes += size

    def pop(self, key: K) -> V | None:
        """Remove `key` and return its value, or None if it is not there."""
        slot = self._entries.pop(key, None)
        if slot is None:
            return None
        value = slot.pop(key)
        if self._sizes:
            self.bytes -= self._sizes.pop(key, 0)
        if len(slot) < slot.shrink_below:
            try:
                self._shrink(slot)
            except (RecursionError, MemoryError):
                pass  # it only gives back room; that the key is gone is what counts
        return value

    def clear(self) -> None:
        """Remove everything."""
        self._entries.clear()
        self._sizes.clear()
        self._slots.clear()
        self._ticks.clear()
        self._newest = self._head = _Slot(_NO_TICK, self._resolution)
        self.bytes = 0

    def next_due(self) -> float | None:
        """Return when the next entry falls due, or None if there is none."""
        slot = self._head or self._soonest()
        return None if slot is None else slot.tick * self._resolution

    def due(self, now: float, limit: int) -> list[V]:
        """Return up to `limit` values that are due. They stay in the store until popped.

        The cost follows `limit`, not how many are due: a larger slot is worked off in parts
        (taking keys from the front of a dict again and again would be quadratic, since each
        time CPython steps over all that has been removed there).
        """
        if not self._head:
            slot = self._soonest()
            if slot is None or slot.tick * self._resolution > now:
                return []
            if len(slot) <= limit:
                return list(slot.values())
            head: _Slot[K, V] = _Slot(slot.tick, self._resolution)
            self._head = head
            for _ in range(limit):
                key, value = slot.popitem()
                head[key] = value
                self._entries[key] = head
        return list(self._head.values())

    def purge(self, now: float, limit: int) -> int:
        """Remove up to `limit` entries that are due, and return how many were removed."""
        removed = 0
        while removed < limit:
            slot = self._head or self._soonest()
            if slot is None or slot.tick * self._resolution > now:
                break
            # From the back, for the reason that `due` gives.
            keys = [slot.popitem()[0] for _ in range(min(len(slot), limit - removed))]
            self._drop(slot, keys)
            removed += len(keys)
        return removed

    def _open(self, expires_at: float) -> _Slot[K, V]:
        """Make the slot of that time the newest, and seal the one that was."""
        tick = floor(expires_at * self._per_second + _NEVER_EARLY)
        slot: _Slot[K, V] | None = self._slots.get(tick)
        if slot is None:
            # In an order in which each step may fail, where memory or the stack ends: an entry in
            # a slot that is in no heap would stay for ever.
            slot = _Slot(tick, self._resolution)
            if len(self._ticks) > 2 * len(self._slots) + 64:
                self._ticks = list(self._slots)
                heapify(self._ticks)
            heappush(self._ticks, tick)
            self._slots[tick] = slot
        sealed = self._newest
        if sealed:
            sealed.shrink_below = len(sealed) // 4 or 1
        elif sealed is not slot:
            self._slots.pop(sealed.tick, None)
        slot.shrink_below = 0  # the newest may run empty and fill again, without being remade
        self._newest = slot
        return slot

    def _shrink(self, slot: _Slot[K, V]) -> None:
        """Give back the room of what was removed; a dict only ever does that when it grows."""
        if slot:
            rest = list(slot.items())
            slot.clear()
            slot.update(rest)
            slot.shrink_below = len(slot) // 4 or 1
        elif self._slots.get(slot.tick) is slot:
            del self._slots[slot.tick]

    def _soonest(self) -> _Slot[K, V] | None:
        """Return the slot that falls due first, and forget those that have gone."""
        ticks, slots = self._ticks, self._slots
        while ticks:
            slot = slots.get(ticks[0])
            if slot:
                return slot
            if slot is not None:  # the newest, run empty
                self._newest = _Slot(_NO_TICK, self._resolution)
                del slots[slot.tick]
            heappop(ticks)
        return None

    def _make_room(self, size: int) -> None:
        if not self._evict or size > self._max_bytes:
            raise StoreFull
        while not self.fits(size):
            slot = self._head or self._soonest()
            assert slot is not None, "a store at its bound holds something"
            # A share of them at once: looking from the front steps over what has gone there, and
            # so it is paid for.
            count = max(1, min(_EVICTED_AT_ONCE, len(self._entries) // 16))
            keys = list(islice(slot, count))
            if len(keys) == len(slot):
                slot.clear()
            else:
                for key in keys:
                    del slot[key]
            self._drop(slot, keys)

    def _drop(self, slot: _Slot[K, V], keys: list[K]) -> None:
        """Forget keys that were just taken out of `slot`, and the slot if it is empty."""
        entries, sizes = self._entries, self._sizes
        for key in keys:
            del entries[key]
        if sizes:
            self.bytes -= sum(sizes.pop(key, 0) for key in keys)
        if not slot and slot is not self._newest and self._slots.get(slot.tick) is slot:
            del self._slots[slot.tick]
