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

    __slots__ = ("_all", "_lock", "_restarts", "last")

    def __init__(self) -> None:
        self.last: Callable[[], Correlator[Any, Any] | None] = lambda: None
        # Of each, how many of its restarts are counted: they stay when it goes.
        self._all: weakref.WeakKeyDictionary[Correlator[Any, Any], int] = (
            weakref.WeakKeyDictionary()
        )
        self._restarts = 0
        self._lock = threading.Lock()

    def see(self, correlator: Correlator[Any, Any]) -> None:
        """Take note of a correlator."""
        self.last = weakref.ref(correlator)
        self._all.setdefault(correlator, 0)

    def holdings(self) -> Holdings:
        """Return what they hold. May be called from any thread."""
        pending = pending_bytes = waiting = 0
        oldest_age = 0.0
        for correlator in patiently(lambda: list(self._all)):
            stats = patiently(correlator.stats)
            with self._lock:  # two may look at once, and a restart is counted once
                self._restarts += stats.reaper_restarts - self._all.get(correlator, 0)
                self._all[correlator] = stats.reaper_restarts
            pending += stats.pending
            pending_bytes += stats.pending_bytes
            waiting += stats.waiting
            oldest_age = max(oldest_age, stats.oldest_age)
        return Holdings(pending, pending_bytes, waiting, oldest_age, self._restarts)
