"""Metrics for Prometheus, read back as a server reads them: from the text."""

import asyncio
import gc
import math
import threading
import weakref

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from correlator import Correlator
from correlator.observers.prometheus import PrometheusObserver

from ..clock import elapse
from .lives import at_random, every_kind

virtual_time = pytest.mark.virtual_time


def scraped(registry):
    """Return what is scraped: each sample's value by its name and the values of its labels."""
    text = generate_latest(registry).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def registry():
    return CollectorRegistry()


@virtual_time
async def test_every_end_reply_and_refusal_is_counted(registry):
    async with Correlator(
        observers=[PrometheusObserver(registry)], max_pending_bytes=100
    ) as correlator:
        await every_kind(correlator)
        await elapse(2.0)
        samples = scraped(registry)
        for outcome in ("resolved", "rejected", "timed_out", "cancelled", "closed"):
            assert samples["correlator_requests_total", outcome] == 1
        assert samples["correlator_replies_total", "matched"] == 2
        for disposition in ("late", "duplicate", "unknown"):
            assert samples["correlator_replies_total", disposition] == 1
        assert samples["correlator_refused_total", "DuplicateRequest"] == 1
        assert samples["correlator_refused_total", "CapacityExceeded"] == 1
        assert samples["correlator_pending_requests",] == 2
        assert samples["correlator_pending_bytes",] == 7
        assert samples["correlator_waiting_requests",] == 0
        assert samples["correlator_oldest_pending_seconds",] == pytest.approx(3.5)
        assert samples["correlator_reaper_restarts_total",] == 0
    samples = scraped(registry)
    assert samples["correlator_requests_total", "closed"] == 3
    assert samples["correlator_pending_requests",] == 0
    assert samples["correlator_oldest_pending_seconds",] == 0


@virtual_time
async def test_durations_fall_into_their_buckets(registry):
    observer = PrometheusObserver(registry, buckets=(0.5, 1.0, 2))
    async with Correlator(observers=[observer]) as correlator:
        for seconds in (0.25, 0.5, 0.75, 1.5, 7.0):
            pending = correlator.register()
            await elapse(seconds)
            correlator.resolve(pending.request_id, None)
    samples = scraped(registry)
    name = "correlator_request_duration_seconds"
    below = {le: samples[f"{name}_bucket", le] for le in ("0.5", "1.0", "2.0", "+Inf")}
    assert below == {"0.5": 2, "1.0": 3, "2.0": 4, "+Inf": 5}
    assert samples[f"{name}_count",] == 5
    assert samples[f"{name}_sum",] == pytest.approx(10.0)


@virtual_time
async def test_what_is_scraped_equals_stats_after_a_random_life(registry):
    async with Correlator(
        observers=[PrometheusObserver(registry)], max_pending=100, name="canary"
    ) as correlator:
        await at_random(correlator, 3_000, seed=7)
        stats = correlator.stats()
        samples = scraped(registry)
        for outcome in ("resolved", "rejected", "timed_out", "cancelled", "closed"):
            assert samples["correlator_requests_total", outcome] == getattr(stats, outcome)
        for disposition in ("late", "duplicate", "unknown"):
            assert samples["correlator_replies_total", disposition] == getattr(stats, disposition)
        refused = [value for (name, *_), value in samples.items() if name.endswith("refused_total")]
        assert sum(refused) == stats.refused > 0
        assert samples["correlator_pending_requests",] == stats.pending > 0
        assert "id-" not in generate_latest(registry).decode()


@virtual_time
async def test_a_reaper_that_was_restarted_stays_counted_when_its_correlator_has_gone(registry):
    observer = PrometheusObserver(registry)
    correlator = Correlator(observers=[observer])
    await correlator.__aenter__()
    correlator.register()
    (reaper,) = (task for task in asyncio.all_tasks() if "reaper" in task.get_name())
    reaper.cancel()
    await elapse(1.0)
    assert scraped(registry)["correlator_reaper_restarts_total",] == 1
    await correlator.aclose()
    gone = weakref.ref(correlator)
    del correlator, reaper
    gc.collect()
    assert gone() is None  # an observer keeps nobody alive
    samples = scraped(registry)
    assert samples["correlator_reaper_restarts_total",] == 1
    assert samples["correlator_requests_total", "closed"] == 1
    assert samples["correlator_pending_requests",] == 0


@virtual_time
async def test_correlators_that_share_an_observer_are_added_up(registry):
    observer = PrometheusObserver(registry)
    async with Correlator(observers=[observer]) as one, Correlator(observers=[observer]) as two:
        one.register("a")
        await elapse(1.0)
        two.register("a")
        two.register("b").cancel()
        samples = scraped(registry)
        assert samples["correlator_pending_requests",] == 2
        assert samples["correlator_requests_total", "cancelled"] == 1
        assert samples["correlator_oldest_pending_seconds",] == pytest.approx(1.0)


@virtual_time
async def test_an_observer_that_is_removed_looks_no_more_and_forgets_nothing(registry):
    observer = PrometheusObserver(registry)
    async with Correlator(observers=[observer]) as correlator:
        correlator.register()
        (reaper,) = (task for task in asyncio.all_tasks() if "reaper" in task.get_name())
        reaper.cancel()
        await elapse(1.0)
        assert scraped(registry)["correlator_pending_requests",] == 1
        for _ in range(2):
            correlator.remove_observer(observer)
            samples = scraped(registry)
            assert samples["correlator_pending_requests",] == 0
            assert samples["correlator_reaper_restarts_total",] == 1
            correlator.add_observer(observer)
            samples = scraped(registry)
            assert samples["correlator_pending_requests",] == 1
            assert samples["correlator_reaper_restarts_total",] == 1


@virtual_time
async def test_a_restart_is_counted_once_whoever_is_seen_in_turn(registry):
    observer = PrometheusObserver(registry)
    async with Correlator(observers=[observer], name="one") as one:
        one.register()
        (reaper,) = (task for task in asyncio.all_tasks() if "reaper" in task.get_name())
        reaper.cancel()
        await elapse(1.0)
        async with Correlator(observers=[observer], name="two") as two:
            for each in (two, one, two, one):
                each.register().cancel()
                assert scraped(registry)["correlator_reaper_restarts_total",] == 1


@virtual_time
async def test_an_observer_that_is_added_to_one_that_is_stuck_shows_it_at_once(registry):
    async with Correlator(timeout=60.0) as correlator:
        correlator.register("a")
        await elapse(7.0)
        correlator.add_observer(PrometheusObserver(registry))
        samples = scraped(registry)
        assert samples["correlator_pending_requests",] == 1
        assert samples["correlator_oldest_pending_seconds",] == pytest.approx(7.0)


async def test_a_scrape_in_a_thread_meets_a_busy_correlator(registry):
    """As prometheus_client's own server does it."""
    failures, scrapes, over = [], [], threading.Event()

    def scrape():
        while not over.is_set():
            try:
                scrapes.append(scraped(registry)["correlator_pending_requests",])
            except Exception as error:
                failures.append(error)
                raise

    async with Correlator(observers=[PrometheusObserver(registry)]) as correlator:
        thread = threading.Thread(target=scrape)
        thread.start()
        while len(scrapes) < 20 and not failures:
            for number in range(300):
                correlator.register(number, reuse=True)
            await asyncio.sleep(0)
            for number in range(300):
                correlator.resolve(number, None)
        over.set()
        await asyncio.to_thread(thread.join)
    assert not failures
    assert max(scrapes) > 0


def test_the_buckets_go_from_5_ms_to_a_minute(registry):
    PrometheusObserver(registry)
    buckets = [float(key[1]) for key in scraped(registry) if key[0].endswith("_bucket")]
    assert buckets == [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, math.inf]


def test_the_clients_own_buckets_with_infinity_at_their_end_will_do(registry):
    PrometheusObserver(registry, buckets=Histogram.DEFAULT_BUCKETS)
    buckets = [key[1] for key in scraped(registry) if key[0].endswith("_bucket")]
    assert [float(bucket) for bucket in buckets] == list(Histogram.DEFAULT_BUCKETS)
    assert "inf" not in buckets


def test_a_registry_takes_one_only_and_nonsense_is_refused(registry):
    PrometheusObserver(registry)
    with pytest.raises(ValueError, match="give one PrometheusObserver to several") as caught:
        PrometheusObserver(registry)
    assert "correlator_requests" in str(caught.value.__cause__)  # the registry's own words
    with pytest.raises(TypeError, match="registry must be an instance of CollectorRegistry"):
        PrometheusObserver(None)
    for buckets in (5, None, ("a",), (1, "2")):
        with pytest.raises(TypeError, match="buckets must be numbers of seconds, not"):
            PrometheusObserver(CollectorRegistry(), buckets=buckets)
    with pytest.raises(ValueError, match="each of buckets must be above 0"):
        PrometheusObserver(CollectorRegistry(), buckets=(math.nan,))
    for buckets in ((), (1.0, 0.5), (1.0, 1.0)):
        with pytest.raises(ValueError, match="buckets must be seconds that ascend"):
            PrometheusObserver(CollectorRegistry(), buckets=buckets)
