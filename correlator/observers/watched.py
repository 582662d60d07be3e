"""Watched: what the correlators hold that an observer is told of, also when asked from a thread."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..threads import patiently

if TYPE_CHECKING:
    from ..core import Correlator

__all__ = ["Holdings", "Watched"]


@dataclass(frozen=True, slots=True)
class Holdings:
    """What some correlators hold together, at one moment.

    Attributes:
        pending: requests that have not ended.
        pending_bytes: the sizes of those together.
        waiting: callers that wait for a place.
        oldest_age: seconds since the oldest pending of all was registered, or 0.0.
        restarts: how often a reaper died and was started again, since the start.
    """

    pending: int
    pending_bytes: int
    waiting: int
    oldest_age: float
    restarts: int


class Watched:
    """The correlators that an observer was told of. They are held weakly.

    Attributes:
        last: gives the one that was seen last, or None: a look there tells whether to call `see`.
    """

    __slots__ = ("_all", "_counted", "_lock", "_restarts", "last")

    def __init__(self) -> None:
        self.last: Callable[[], Correlator[Any, Any] | None] = lambda: None
        self._all: weakref.WeakSet[Correlator[Any, Any]] = weakref.WeakSet()
        # Restarts of all there ever were, and how many of each are among them.
        self._restarts = 0
        self._counted: weakref.WeakKeyDictionary[Correlator[Any, Any], int] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.Lock()

    def see(self, correlator: Correlator[Any, Any]) -> None:
        """Take note of a correlator."""
        self.last = weakref.ref(correlator)
        self._all.add(correlator)

    def forget(self, correlator: Correlator[Any, Any]) -> None:
        """Look at it no more, but for the restarts there have been."""
        self.last = lambda: None
        with self._lock:
            self._count_restarts(correlator, correlator.stats().reaper_restarts)
            self._all.discard(correlator)

    def _count_restarts(self, correlator: Correlator[Any, Any], restarts: int) -> None:
        self._restarts += restarts - self._counted.get(correlator, 0)
        self._counted[correlator] = restarts

    def holdings(self) -> Holdings:
        """Return what they hold. May be called from any thread."""
        pending = pending_bytes = waiting = 0
        oldest_age = 0.0
        for correlator in patiently(lambda: list(self._all)):
            with self._lock:  # two may look at once, and a restart is counted once
                stats = patiently(correlator.stats)
                self._count_restarts(correlator, stats.reaper_restarts)
            pending += stats.pending
            pending_bytes += stats.pending_bytes
            waiting += stats.waiting
            oldest_age = max(oldest_age, stats.oldest_age)
        return Holdings(pending, pending_bytes, waiting, oldest_age, self._restarts)
