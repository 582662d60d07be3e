"""Overview: what there is to see of a correlator, and who is told of what happens."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from itertools import islice
from typing import Any

from typing_extensions import TypeVar

from .checks import check_bound
from .labels import LabelStats
from .ledger import Ledger
from .observers import Observer, check_observers, notify
from .pending import Disposition, Pending, PendingInfo
from .stats import CorrelatorStats

__all__ = ["Overview"]

K = TypeVar("K", bound=Hashable, default=str)
V = TypeVar("V", default=Any)


class Overview(Ledger[K, V]):
    """The part of `Correlator` that shows what the books say."""

    def stats(self) -> CorrelatorStats:
        """Return the counters of this moment. Also before entering and after closing.

        Call it on the loop's thread. In another it may raise `RuntimeError` or `KeyError`, if
        something changes meanwhile.
        """
        # Only the loop's thread may forget.
        if self._thread == threading.get_ident():
            self._remembered.forget(self._time())
        oldest = self._store.oldest()
        return CorrelatorStats(
            registered=self._registered,
            **{outcome.value: count for outcome, count in self._outcomes.items()},
            pending=len(self._store),
            pending_bytes=self._store.bytes,
            waiting=len(self._waiting),
            refused=self._refused,
            late=self._dispositions[Disposition.LATE],
            duplicate=self._dispositions[Disposition.DUPLICATE],
            unknown=self._dispositions[Disposition.UNKNOWN],
            remembered=0 if self._state == "new" else self._remembered.count(self._time()),
            oldest_age=0.0 if oldest is None else oldest.age,
            reaper_restarts=self._reaper.restarts,
        )

    def stats_by_label(self) -> dict[str, LabelStats]:
        """Return the counters of each label of this moment, those with most pending first.

        There are at most 1,000 labels; what comes under others is counted as ``"(other)"``.
        Requests without a label are not here. Call it on the loop's thread.
        """
        return self._labels.stats()

    def pending(self, limit: int | None = None) -> list[PendingInfo]:
        """Return what is pending, oldest first, at most `limit` of it.

        Call it on the loop's thread.

        Raises:
            TypeError: `limit` is no whole number.
            ValueError: it is below 1.
        """
        limit = len(self) if limit is None else min(check_bound("limit", limit), len(self))
        return [_info_of(pending) for pending in islice(self._store.values(), limit)]

    def add_observer(self, observer: Observer) -> None:
        """Tell `observer`, too, of what happens from now on.

        Raises:
            TypeError: it is no `Observer`.
        """
        self._observers += check_observers("observer", (observer,))
        self._tell(observer, "attached")

    def remove_observer(self, observer: Observer) -> None:
        """Tell `observer` no more. That it is not there is no error."""
        others = tuple(other for other in self._observers if other is not observer)
        if len(others) < len(self._observers):
            self._observers = others
            self._tell(observer, "detached")

    def _tell(self, observer: Observer, event: str) -> None:
        """Call a method that not every observer has."""
        if hasattr(observer, event):
            notify((observer,), event, self)

    def __len__(self) -> int:
        """How many are pending."""
        return len(self._store)

    def __bool__(self) -> bool:
        """Always true: an idle correlator is still one."""
        return True

    def __contains__(self, request_id: object) -> bool:
        """Whether that id is pending."""
        return request_id in self._store

    def __repr__(self) -> str:
        return f"<Correlator {self.name!r} {len(self)} of {self._max_pending} pending>"


def _info_of(pending: Pending[Any, Any]) -> PendingInfo:
    """Return what a pending is at this moment."""
    return PendingInfo(
        request_id=pending.request_id,
        age=pending.age,
        remaining=pending.remaining,
        size=pending.size,
        group=None if pending.group is None else pending.group.name,
        label=pending.label,
        origin=pending.origin,
    )
