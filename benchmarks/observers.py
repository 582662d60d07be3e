"""What observers cost a request: none, logs, metrics; and beside them a dict with asyncio.timeout.

python -m benchmarks.observers
"""

from __future__ import annotations

import asyncio
import statistics
import time

import structlog
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from correlator import Correlator
from correlator.observers.opentelemetry import OpenTelemetryObserver
from correlator.observers.prometheus import PrometheusObserver
from correlator.observers.structlog import StructlogObserver

from .contenders import AsyncioTimeout, Ours

_ROUNDS = 15
_REQUESTS = 10_000
_WARM_UP = 110_000  # until ids begin to be dropped


class Observed(Ours):
    """A correlator with an observer, and what its collection takes."""

    def __init__(self, *observers, collect=None):
        self.correlator = Correlator(observers=observers)
        self.request, self.reply = self.correlator.correlate, self.correlator.resolve
        self.collect = collect or (lambda: None)


def contenders():
    registry, reader = CollectorRegistry(), InMemoryMetricReader()
    provider = MeterProvider([reader])
    log = structlog.make_filtering_bound_logger(20)  # without what is for debugging, as in service
    return {
        "no observer": Observed(),
        "StructlogObserver": Observed(StructlogObserver(log(structlog.ReturnLogger(), [], {}))),
        "PrometheusObserver": Observed(
            PrometheusObserver(registry), collect=lambda: generate_latest(registry)
        ),
        "OpenTelemetryObserver": Observed(
            OpenTelemetryObserver(provider), collect=reader.get_metrics_data
        ),
    }


async def _requests(contender, ids):
    loop = asyncio.get_running_loop()
    for request_id in ids:
        loop.call_soon(contender.reply, request_id, None)
        await contender.request(request_id)


async def main():
    ours, plain = contenders(), AsyncioTimeout()
    times = {name: [] for name in (*ours, "dict + asyncio.timeout")}
    collected = {name: [] for name in ours}
    for each in ours.values():
        await each.correlator.__aenter__()
        await _requests(each, (f"warm {number}" for number in range(_WARM_UP)))
        each.collect()
    for turn in range(_ROUNDS):
        ids = [f"{turn} {number}" for number in range(_REQUESTS)]
        for name, each in (*ours.items(), ("dict + asyncio.timeout", plain)):
            start = time.process_time()
            await _requests(each, ids)
            times[name].append((time.process_time() - start) / _REQUESTS * 1e6)
            if name in ours:
                each.collect()
                collected[name].append((time.process_time() - start) / _REQUESTS * 1e6)
    for each in ours.values():
        await each.correlator.aclose()
    base = statistics.median(times["no observer"])
    print(f"{'CPU of a request':24} {'us':>7} {'x':>6} {'with collection, x':>20}")
    for name, values in times.items():
        us = statistics.median(values)
        whole = statistics.median(collected.get(name, values))
        print(f"{name:24} {us:7.2f} {us / base:6.2f} {whole / base:20.2f}")


if __name__ == "__main__":
    asyncio.run(main())
