"""PrometheusObserver: what requests do, as metrics of Prometheus.

Per request it only adds to counts of its own. They become samples when somebody scrapes, by way of
a custom collector: a counter and a histogram of the client would cost a request several times as
much, for they take a lock each time.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    raise ImportError(
        "correlator.observers.prometheus needs the extra 'prometheus', as in "
        "aiocorrelator[prometheus]"
    ) from error

from ..checks import check_instance, check_seconds
from ..errors import shown
from ..pending import Pending
from .tally import Tally

__all__ = ["DURATION_BUCKETS", "PrometheusObserver"]

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""The upper bounds of the histogram's buckets, in seconds, if nothing else is said."""


class PrometheusObserver(Tally, Collector):
    """Counts what requests do, for Prometheus.

    Give one to each correlator that is to be counted, or the same one to several on the same event
    loop, whose figures it then adds up::

        Correlator(observers=[PrometheusObserver(registry)])

    Args:
        registry: where it is registered, ``prometheus_client.REGISTRY`` say.
        buckets: the upper bounds of the histogram's buckets, in seconds, ascending.

    Raises:
        ValueError: the registry has such metrics already; or the buckets do not ascend.
        TypeError: an argument is of the wrong type.
    """

    def __init__(
        self, registry: CollectorRegistry, *, buckets: Sequence[float] = DURATION_BUCKETS
    ) -> None:
        super().__init__()
        check_instance("registry", registry, CollectorRegistry)
        self._bounds = _check_buckets(buckets)
        self._in_buckets = [0] * (len(self._bounds) + 1)
        self._seconds = 0.0
        try:
            registry.register(self)
        except ValueError as error:
            raise ValueError(
                "the registry has metrics of these names already: give one PrometheusObserver to "
                "several correlators, or each observer a registry of its own"
            ) from error

    # -- the observer --------------------------------------------------------------------------

    def settled(self, pending: Pending[Any, Any]) -> None:
        """Count how a request ended, and how long it took."""
        outcome = pending.outcome
        assert outcome is not None, "a settled request has an outcome"
        self._ended[outcome] += 1
        seconds = pending.age
        self._in_buckets[bisect_left(self._bounds, seconds)] += 1
        self._seconds += seconds

    # -- the collector -------------------------------------------------------------------------

    def describe(self) -> Iterable[Metric]:
        """Return what `collect` returns, so that the registry sees if a name is taken."""
        return self.collect()

    def collect(self) -> Iterable[Metric]:
        """Return the samples of this moment. Called by the registry, in whichever thread."""
        requests = CounterMetricFamily(
            "correlator_requests", "Requests that ended, by outcome.", labels=["outcome"]
        )
        for outcome, count in self._ended.items():
            requests.add_metric([outcome], count)
        yield requests

        in_buckets = list(accumulate(self._in_buckets))
        bounds = [*map(str, self._bounds), "+Inf"]
        yield HistogramMetricFamily(
            "correlator_request_duration_seconds",
            "Seconds from registering a request to its end, whatever that was.",
            buckets=list(zip(bounds, in_buckets, strict=True)),
            sum_value=self._seconds,
        )

        replies = CounterMetricFamily(
            "correlator_replies",
            "Replies that came, by what became of them.",
            labels=["disposition"],
        )
        for disposition, count in self._replies().items():
            replies.add_metric([disposition], count)
        yield replies

        refused = CounterMetricFamily(
            "correlator_refused", "Requests that were refused, by error.", labels=["error"]
        )
        for error, count in self._refused.copy().items():
            refused.add_metric([error], count)
        yield refused

        holdings = self._watched.holdings()
        for name, text, value in (
            ("pending_requests", "Requests that have not ended.", holdings.pending),
            ("pending_bytes", "Declared sizes of the pending requests.", holdings.pending_bytes),
            ("waiting_requests", "Callers that wait for a place.", holdings.waiting),
            ("oldest_pending_seconds", "Age of the oldest pending request.", holdings.oldest_age),
        ):
            yield GaugeMetricFamily(f"correlator_{name}", text, value)
        yield CounterMetricFamily(
            "correlator_reaper_restarts", "How often the reaper died.", holdings.restarts
        )


def _check_buckets(buckets: Sequence[float]) -> list[float]:
    try:
        # That of all the rest is there anyway: the client's own lists of buckets end with it.
        bounds = [check_seconds("each of buckets", each) for each in buckets if each != math.inf]
    except TypeError:
        raise TypeError(f"buckets must be numbers of seconds, not {shown(buckets)}") from None
    if not bounds or bounds != sorted(set(bounds)):
        raise ValueError(f"buckets must be seconds that ascend, not {shown(buckets)}")
    return bounds
