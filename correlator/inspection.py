"""Inspection: what a correlator does at this moment, as somebody who looks wants to see it.

It observes only while somebody looks. A snapshot takes up to a millisecond with 100,000 pending:
most when many of the oldest have just left, since it steps over where they were. With as many
labels as there may be it takes 3.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from .core import Correlator
from .errors import CorrelationError, shown
from .labels import LabelStats
from .pending import Disposition, Outcome, Pending, PendingInfo
from .stats import CorrelatorStats

__all__ = ["Inspection"]

_OLDEST = 20
_LABELS = 50
_UNMATCHED = 50
_WINDOW = 10.0  # seconds; percentiles are those of this window and the one before
_STEP = math.log(1.05)  # a bucket of durations is so much wider than the one before, as a logarithm
_LEAST = 1e-6  # seconds; shorter durations are all the same
_OF_A_PENDING = tuple(field.name for field in fields(PendingInfo))
_OF_A_LABEL = tuple(field.name for field in fields(LabelStats))
_RATES = ("registered", *(outcome.value for outcome in Outcome), "refused")


class Inspection:
    """Looks at one correlator. While it is open it is an observer of it.

    Args:
        correlator: what is looked at.
    """

    # From opening on: the loop's clock; when this window of durations began; and when the last
    # snapshot was, and of what.
    _clock: Callable[[], float]
    _since: float
    _last: tuple[float, CorrelatorStats]

    def __init__(self, correlator: Correlator[Any, Any]) -> None:
        self._correlator = correlator
        self._lookers = 0
        self._started = time.time()  # so that whoever looks sees that it is another process now
        self._refusals: Counter[str] = Counter()
        self._unmatched: deque[tuple[float, str, Disposition]] = deque(maxlen=_UNMATCHED)
        # How many durations there are in each bucket, now and in the window before.
        self._this_window: Counter[int] = Counter()
        self._last_window: Counter[int] = Counter()

    def open(self) -> None:
        """Begin to observe, if nobody looks yet."""
        self._lookers += 1
        if self._lookers == 1:
            self._clock = asyncio.get_running_loop().time
            self._since = self._clock()
            self._last = (self._since, self._correlator.stats())
            self._correlator.add_observer(self)

    def close(self) -> None:
        """Stop observing, if nobody else looks, and keep nothing of what was seen."""
        self._lookers -= 1
        if not self._lookers:
            self._correlator.remove_observer(self)
            for seen in (self._refusals, self._unmatched, self._this_window, self._last_window):
                seen.clear()

    # -- the observer --------------------------------------------------------------------------

    def registered(self, pending: Pending[Any, Any]) -> None:
        """Nothing: `stats` counts it."""

    def settled(self, pending: Pending[Any, Any]) -> None:
        """Take note of how long an answer took."""
        if pending.outcome is Outcome.RESOLVED:
            self._this_window[int(math.log(max(pending.age, _LEAST) / _LEAST) / _STEP)] += 1

    def unmatched(self, request_id: Any, disposition: Disposition) -> None:
        """Take note of a reply that found nobody."""
        self._unmatched.appendleft((time.time(), _plain(request_id), disposition))

    def refused(self, error: CorrelationError) -> None:
        """Take note of why."""
        self._refusals[type(error).__name__] += 1

    # -- what is seen --------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Return this moment, as what JSON can hold, while it is open; rates since the last one."""
        correlator = self._correlator
        stats = correlator.stats()
        return {
            "name": correlator.name,
            "time": time.time(),
            "started": self._started,
            "state": correlator._state,
            "max_pending": correlator._max_pending,
            "stats": asdict(stats),
            "rates": self._rates(stats),
            "refusals": dict(self._refusals),
            "latency": self._latency(),
            "labels": self._labels(stats),
            "oldest": [
                {name: getattr(info, name) for name in _OF_A_PENDING}
                | {"request_id": _plain(info.request_id)}
                | ({} if info.group is None else {"group": _plain(info.group)})
                for info in correlator.pending(_OLDEST)
            ],
            "unmatched": [
                {"time": when, "request_id": request_id, "disposition": disposition}
                for when, request_id, disposition in self._unmatched
            ],
        }

    def _rates(self, stats: CorrelatorStats) -> dict[str, float]:
        now = self._clock()
        since, before = self._last
        self._last = (now, stats)
        seconds = max(now - since, 1e-3)
        return {
            name: round((getattr(stats, name) - getattr(before, name)) / seconds, 3)
            for name in _RATES
        }

    def _latency(self) -> dict[str, float | int | None]:
        now = self._clock()
        if now - self._since >= _WINDOW:
            is_next = now - self._since < 2 * _WINDOW
            self._last_window = self._this_window if is_next else Counter()
            self._this_window = Counter()
            self._since = now
        counts = sorted((self._this_window + self._last_window).items())
        total = sum(count for _, count in counts)
        latency: dict[str, float | int | None] = {"count": total}
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)):
            latency[name] = None
            wanted = math.ceil(total * share)
            for bucket, count in counts:
                wanted -= count
                if wanted <= 0:
                    latency[name] = _LEAST * math.exp((bucket + 0.5) * _STEP)
                    break
        return latency

    def _labels(self, stats: CorrelatorStats) -> list[dict[str, Any]]:
        labels = self._correlator._labels
        rows = [{"label": label, **asdict(of)} for label, of in labels.stats(_LABELS).items()]
        labelled = labels.total()
        rest = {name: getattr(stats, name) - getattr(labelled, name) for name in _OF_A_LABEL}
        if rest["registered"]:
            rows.append({"label": None, **rest})
        return sorted(rows, key=lambda row: (-row["pending"], -row["registered"]))[:_LABELS]


def _plain(name: Any) -> str:
    """Return an id, or the name of a group, as text that can be shown."""
    return name if type(name) is str and len(name) <= 200 else shown(name)
