"""OpenTelemetryObserver: what requests do, as metrics of OpenTelemetry, and their ids on spans.

It needs the API package only; what exports is the application's affair. Names and units follow the
semantic conventions (https://opentelemetry.io/docs/specs/semconv/): seconds, ``{request}``, and
``error.type`` where a request failed. An id is an attribute of spans, never one of metrics.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable
from typing import Any

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import (
        CallbackOptions,
        MeterProvider,
        Observation,
        get_meter_provider,
    )
except ModuleNotFoundError as error:
    raise ImportError(
        "correlator.observers.opentelemetry needs the extra 'otel', as in aiocorrelator[otel]"
    ) from error

from ..checks import check_instance
from ..errors import shown
from ..pending import Outcome, Pending
from .tally import Tally

__all__ = ["DURATION_BUCKETS", "OpenTelemetryObserver"]

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The bounds that are advised for the histogram, in seconds, as the conventions have them."""

_MAX_UNRECORDED = 250_000  # durations of a kind that wait to be recorded: 2 MB
_AT_ONCE = 400  # of them, a millisecond's work; then the loop's thread may have its turn
_MAX_ERROR_TYPES = 100  # more classes than a program has, unless it makes them as it goes
_MAX_ID = 1_000  # characters of an id on a span
_NOBODYS = Context()

# What makes a failure of it, in few words. A rejection has the class of its error.
_ERROR_TYPES = {
    Outcome.TIMED_OUT: "timeout",
    Outcome.CANCELLED: "cancelled",
    Outcome.CLOSED: "closed",
}


class OpenTelemetryObserver(Tally):
    """Counts and times what requests do, with OpenTelemetry.

    Give one to each correlator that is to be counted, or the same one to several on the same event
    loop, whose figures it then adds up::

        Correlator(observers=[OpenTelemetryObserver()])

    The SDK takes some microseconds to record one duration. So they are kept, and recorded when
    metrics are collected, in the thread that does that. Of more than 250,000 of a kind between two
    collections the rest is recorded at once.

    Args:
        meter_provider: where the instruments are made; by default the global one.

    Raises:
        TypeError: it is no ``MeterProvider``.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        super().__init__()
        if meter_provider is None:
            meter_provider = get_meter_provider()
        check_instance("meter_provider", meter_provider, MeterProvider)
        self._unrecorded: dict[str | None, array[float]] = {}  # by error type

        meter = meter_provider.get_meter("correlator")
        self._duration = meter.create_histogram(
            "correlator.request.duration",
            unit="s",
            description="From registering a request to its end, whatever that was.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        meter.create_observable_up_down_counter(
            "correlator.request.pending",
            [self._observe_pending],
            unit="{request}",
            description="Requests that have not ended.",
        )
        meter.create_observable_gauge(
            "correlator.request.oldest",
            [self._observe_oldest],
            unit="s",
            description="The age of the oldest that has not ended.",
        )
        meter.create_observable_counter(
            "correlator.replies",
            [self._observe_replies],
            unit="{reply}",
            description="Replies that came, by what became of them.",
        )
        meter.create_observable_counter(
            "correlator.request.refused",
            [self._observe_refused],
            unit="{request}",
            description="Requests that were refused, by error.",
        )
        meter.create_observable_counter(
            "correlator.reaper.restarts",
            [self._observe_restarts],
            unit="{restart}",
            description="How often the reaper died and was started again.",
        )

    # -- the observer --------------------------------------------------------------------------

    def registered(self, pending: Pending[Any, Any]) -> None:
        """Put the id on the span at hand: ``messaging.message.conversation_id``."""
        super().registered(pending)
        span = trace.get_current_span()
        if span is not trace.INVALID_SPAN and span.is_recording():
            request_id = pending.request_id
            told = request_id if isinstance(request_id, str) else shown(request_id)
            span.set_attribute("messaging.message.conversation_id", told[:_MAX_ID])

    def settled(self, pending: Pending[Any, Any]) -> None:
        """Count how a request ended, and keep how long it took."""
        outcome = pending.outcome
        assert outcome is not None, "a settled request has an outcome"
        self._ended[outcome] += 1
        error_type = None
        if outcome is not Outcome.RESOLVED:
            error_type = _ERROR_TYPES.get(outcome) or type(pending._result).__name__
        kept = self._unrecorded.get(error_type)
        if kept is None:
            if len(self._unrecorded) >= _MAX_ERROR_TYPES:
                error_type = "_OTHER"  # the conventions' word
            kept = self._unrecorded.setdefault(error_type, array("d"))
        if len(kept) < _MAX_UNRECORDED:
            kept.append(pending.age)
        else:
            self._record(pending.age, error_type)

    # -- what is observed, in a thread of the exporter's -----------------------------------------

    def _record(self, seconds: float, error_type: str | None) -> None:
        # Without attributes where there is none: that halves the time.
        attributes = None if error_type is None else {"error.type": error_type}
        self._duration.record(seconds, attributes, _NOBODYS)

    def _observe_pending(self, _options: CallbackOptions) -> Iterable[Observation]:
        # The first of the callbacks, and before any of them is exported: see the class.
        for error_type, kept in self._unrecorded.copy().items():
            # Meanwhile the loop's thread appends more, which may be taken in place of older ones.
            for number in range(1, len(kept) + 1):
                self._record(kept.pop(), error_type)
                if number % _AT_ONCE == 0:
                    time.sleep(0)
        yield Observation(self._watched.holdings().pending)

    def _observe_oldest(self, _options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(self._watched.holdings().oldest_age)

    def _observe_replies(self, _options: CallbackOptions) -> Iterable[Observation]:
        for disposition, count in self._replies().items():
            yield Observation(count, {"correlator.disposition": disposition.value})

    def _observe_refused(self, _options: CallbackOptions) -> Iterable[Observation]:
        for error, count in self._refused.copy().items():
            yield Observation(count, {"error.type": error})

    def _observe_restarts(self, _options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(self._watched.holdings().restarts)
