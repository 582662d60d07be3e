"""Metrics and spans for OpenTelemetry, read back through its real SDK."""

import asyncio
import threading

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from correlator import Correlator
from correlator.observers import opentelemetry
from correlator.observers.opentelemetry import OpenTelemetryObserver

from ..clock import elapse
from .lives import at_random, every_kind

virtual_time = pytest.mark.virtual_time


class Exported:
    """What is exported, and the provider that does it."""

    def __init__(self):
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])

    def metrics(self):
        data = self.reader.get_metrics_data()
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics
        assert scope.scope.name == "correlator"
        return {metric.name: metric for metric in scope.metrics}

    def values(self, name):
        """Return the value of each point, by the values of its attributes."""
        points = self.metrics()[name].data.data_points
        return {tuple(point.attributes.values()): point.value for point in points}


@pytest.fixture
def exported():
    made = Exported()
    yield made
    made.provider.shutdown()


def durations(exported):
    """Return how many durations there are of each error type, and their sum."""
    points = exported.metrics()["correlator.request.duration"].data.data_points
    return {point.attributes.get("error.type"): (point.count, point.sum) for point in points}


@virtual_time
async def test_every_end_is_timed_and_a_failure_has_its_type(exported):
    async with Correlator(
        observers=[OpenTelemetryObserver(exported.provider)], max_pending_bytes=100
    ) as correlator:
        await every_kind(correlator)
        timed = durations(exported)
        assert timed == {
            None: (1, 0.0),
            "ValueError": (1, 0.0),
            "cancelled": (1, 0.0),
            "closed": (1, 0.0),
            "timeout": (1, pytest.approx(1.0, abs=0.1)),
        }
    assert durations(exported)["closed"][0] == 3


@virtual_time
async def test_names_units_and_kinds_are_those_of_the_conventions(exported):
    async with Correlator(observers=[OpenTelemetryObserver(exported.provider)]) as correlator:
        await every_kind(correlator)
        metrics = exported.metrics()
    assert {name: metric.unit for name, metric in metrics.items()} == {
        "correlator.request.duration": "s",
        "correlator.request.pending": "{request}",
        "correlator.request.oldest": "s",
        "correlator.replies": "{reply}",
        "correlator.request.refused": "{request}",
        "correlator.reaper.restarts": "{restart}",
    }
    assert not metrics["correlator.request.pending"].data.is_monotonic
    assert metrics["correlator.replies"].data.is_monotonic
    (point, *_) = metrics["correlator.request.duration"].data.data_points
    # https://opentelemetry.io/docs/specs/semconv/http/http-metrics/ advises these for durations.
    advised = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
    assert point.explicit_bounds == advised


@virtual_time
async def test_pending_replies_and_refusals_are_observed(exported):
    async with Correlator(
        observers=[OpenTelemetryObserver(exported.provider)], max_pending_bytes=100
    ) as correlator:
        await every_kind(correlator)
        await elapse(2.0)
        assert exported.values("correlator.request.pending") == {(): 2}
        assert exported.values("correlator.request.oldest") == {(): pytest.approx(3.5)}
        assert exported.values("correlator.replies") == {
            ("matched",): 2,
            ("late",): 1,
            ("duplicate",): 1,
            ("unknown",): 1,
        }
        assert exported.values("correlator.request.refused") == {
            ("DuplicateRequest",): 1,
            ("CapacityExceeded",): 1,
            ("CorrelatorClosed",): 0,
            ("RequestTimeout",): 0,
        }
        assert exported.values("correlator.reaper.restarts") == {(): 0}
        (reaper,) = (task for task in asyncio.all_tasks() if "reaper" in task.get_name())
        reaper.cancel()
        await elapse(1.0)
        assert exported.values("correlator.reaper.restarts") == {(): 1}


@virtual_time
async def test_what_is_exported_equals_stats_after_a_random_life(exported):
    async with Correlator(
        observers=[OpenTelemetryObserver(exported.provider)], max_pending=100
    ) as correlator:
        await at_random(correlator, 3_000, seed=7)
        stats = correlator.stats()
        assert stats.timed_out > 0
        timed = {name: count for name, (count, _) in durations(exported).items()}
        assert timed == {
            None: stats.resolved,
            "KeyError": stats.rejected,
            "cancelled": stats.cancelled,
            "timeout": stats.timed_out,
        }
        assert exported.values("correlator.request.pending") == {(): stats.pending}
        assert "id-" not in repr(exported.reader.get_metrics_data())


async def test_more_than_can_wait_is_recorded_at_once(exported, monkeypatch):
    monkeypatch.setattr(opentelemetry, "_MAX_UNRECORDED", 10)
    observer = OpenTelemetryObserver(exported.provider)
    async with Correlator(observers=[observer]) as correlator:
        for _ in range(25):
            correlator.register().cancel()
        assert len(observer._unrecorded["cancelled"]) == 10
        assert durations(exported)["cancelled"][0] == 25
        assert not observer._unrecorded["cancelled"]


async def test_errors_of_too_many_classes_are_others(exported):
    async with Correlator(observers=[OpenTelemetryObserver(exported.provider)]) as correlator:
        for number in range(150):
            correlator.register(number)
            correlator.reject(number, type(f"Error{number}", (Exception,), {})())
    told = durations(exported)
    assert len(told) == 101
    assert told["Error7"][0] == 1
    assert told["_OTHER"][0] == 50


async def test_an_export_in_a_thread_loses_nothing(exported):
    over = threading.Event()

    def export():
        while not over.is_set():
            exported.reader.get_metrics_data()

    async with Correlator(observers=[OpenTelemetryObserver(exported.provider)]) as correlator:
        thread = threading.Thread(target=export)
        thread.start()
        for _ in range(40):
            for _ in range(100):
                correlator.register().cancel()
            await asyncio.sleep(0.001)  # really: a thread takes its turns in real time
        over.set()
        await asyncio.to_thread(thread.join)
    assert durations(exported)["cancelled"][0] == 4_000


async def test_the_span_at_hand_gets_the_id_and_no_other(exported):
    spans = InMemorySpanExporter()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    tracer = tracing.get_tracer("test")
    async with Correlator(observers=[OpenTelemetryObserver(exported.provider)]) as correlator:
        with tracer.start_as_current_span("asks"):
            correlator.register("order-42").cancel()
        with tracer.start_as_current_span("does not"):
            pass
        with tracer.start_as_current_span("asks with a number"):
            correlator.register(42).cancel()
        with tracer.start_as_current_span("asks with a book"):
            correlator.register("x" * 5_000).cancel()
        correlator.register("without a span").cancel()
    ids = {
        span.name: span.attributes.get("messaging.message.conversation_id")
        for span in spans.get_finished_spans()
    }
    assert ids == {
        "asks": "order-42",
        "does not": None,
        "asks with a number": "42",
        "asks with a book": "x" * 1_000,
    }
    assert "order-42" not in repr(exported.reader.get_metrics_data())


async def test_without_an_sdk_it_does_nothing_and_breaks_nothing():
    observer = OpenTelemetryObserver()
    async with Correlator(observers=[observer]) as correlator:
        correlator.register().cancel()
    with pytest.raises(TypeError, match="meter_provider must be an instance of MeterProvider"):
        OpenTelemetryObserver("http://localhost:4317")
