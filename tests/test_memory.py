"""RememberedIds: what settled a short while ago, bounded by age and by count."""

import gc
import random
import weakref

import pytest

from correlator import (
    CapacityExceeded,
    Correlator,
    Disposition,
    DuplicateRequest,
    Outcome,
)
from correlator.memory import RememberedIds

from .clock import elapse
from .conftest import balanced

virtual_time = pytest.mark.virtual_time

RES = 0.5
SECONDS = 60.0


def make(max_size=1_000):
    return RememberedIds(seconds=SECONDS, max_size=max_size, resolution=RES)


@pytest.mark.parametrize(
    ("outcome", "disposition"),
    [
        (Outcome.RESOLVED, Disposition.DUPLICATE),
        (Outcome.REJECTED, Disposition.DUPLICATE),
        (Outcome.TIMED_OUT, Disposition.LATE),
        (Outcome.CANCELLED, Disposition.LATE),
        (Outcome.CLOSED, Disposition.LATE),
    ],
)
def test_a_reply_after_the_end_is_a_duplicate_if_there_was_an_answer_and_late_if_not(
    outcome, disposition
):
    ids = make()
    ids.remember("a", outcome, 100.0)
    assert ids.disposition("a", 100.0) is disposition
    assert ids.disposition("b", 100.0) is Disposition.UNKNOWN


@pytest.mark.parametrize("now", [0.0, 0.1, 99.99, 100.0, 1e6 + 1 / 3])
def test_an_id_is_remembered_its_whole_time_and_little_longer(now):
    ids = make()
    ids.remember("a", Outcome.RESOLVED, now)
    assert ids.disposition("a", now + SECONDS) is Disposition.DUPLICATE
    assert ids.disposition("a", now + SECONDS + 2 * RES + 0.01) is Disposition.UNKNOWN


def test_an_id_is_remembered_its_whole_time_also_when_another_settled_a_resolution_before():
    """What settles within one resolution is forgotten together; the next begins a new one."""
    ids = make()
    ids.remember("first", Outcome.RESOLVED, 100.0)
    ids.remember("a", Outcome.RESOLVED, 100.0 + RES)
    assert ids.disposition("a", 100.0 + RES + SECONDS) is Disposition.DUPLICATE


def test_how_long_ago_is_known_as_closely_as_the_resolution():
    ids = make()
    ids.remember("a", Outcome.RESOLVED, 100.0)
    assert ids.settled_ago("nobody", 100.0) is None
    assert ids.settled_ago("a", 100.0) == 0.0
    for after in (1.0, 10.0, 59.0):
        assert ids.settled_ago("a", 100.0 + after) == pytest.approx(after, abs=2 * RES)


def held(ids):
    """How many it keeps in memory, past their time or not."""
    return len(ids.newer) + len(ids.older)


@pytest.mark.parametrize("max_size", [100, 1_000_000])
def test_what_is_past_its_time_goes_when_others_come(max_size):
    """Bounded by age, though there is room for all: at the latest after as much time again."""
    ids = make(max_size=max_size)
    for number in range(4_000):
        ids.remember(number, Outcome.RESOLVED, 100.0 + number / 4)
        assert held(ids) <= 2 * 4 * (SECONDS + 2 * RES) + 1
    assert ids.disposition(0, 100.0 + 4_000 / 4) is Disposition.UNKNOWN
    assert ids.disposition(3_999, 100.0 + 4_000 / 4) is Disposition.DUPLICATE


@pytest.mark.parametrize("max_size", [100, 1_000])
def test_what_is_past_its_time_is_dropped_after_as_much_time_again_at_the_latest(max_size):
    """Though others come only at the very moments that those before them fall due."""
    ids = make(max_size=max_size)
    ids.remember("a", Outcome.RESOLVED, 100.0)
    ids.remember("b", Outcome.RESOLVED, ids.newer["a"])
    ids.remember("c", Outcome.RESOLVED, ids.newer["b"])
    assert "a" not in ids.newer
    assert "a" not in ids.older


@pytest.mark.parametrize("max_size", [100, 1_000])
def test_what_is_past_its_time_goes_when_somebody_looks(max_size):
    ids = make(max_size=max_size)
    ids.remember("a", Outcome.RESOLVED, 100.0)
    assert ids.count(150.0) == 1
    ids.forget(150.0)
    assert held(ids) == 1
    assert ids.count(170.0) == 0
    ids.forget(170.0)
    assert held(ids) == 0


def test_to_look_gives_back_no_memory_that_is_in_use():
    """Up to half of them stay past their time: to copy the others would cost more."""
    ids = make()
    for number in range(60):
        ids.remember(number, Outcome.RESOLVED, 100.0 + number)
    for past, kept in ((10, 60), (30, 60), (40, 20)):
        now = 100.0 + SECONDS + past
        assert ids.count(now) == 60 - past
        ids.forget(now)
        assert ids.count(now) == 60 - past
        assert held(ids) == kept
    assert ids.disposition(59, now) is Disposition.DUPLICATE


@pytest.mark.parametrize("max_size", [1, 2, 3, 100, 128, 129, 1_000, 1_001])
def test_the_count_is_bounded_and_the_oldest_go_first(max_size):
    ids = make(max_size=max_size)
    for number in range(3 * max_size):
        now = 100.0 + number / 1_000
        ids.remember(number, Outcome.RESOLVED, now)
        assert ids.count(now) == held(ids) <= max_size
        kept = [*ids.older, *ids.newer]
        assert kept == list(range(kept[0], number + 1))
    assert held(ids) >= max_size // 2


@pytest.mark.parametrize("max_size", [1, 2, 3, 100, 128])
def test_of_a_few_the_oldest_goes_alone(max_size):
    ids = make(max_size=max_size)
    for number in range(500):
        ids.remember(number, Outcome.RESOLVED, 100.0)
    assert list(ids.newer) == list(range(500 - max_size, 500))


@pytest.mark.parametrize("max_size", [1, 2, 3])
def test_the_smallest_memories_hold_their_bound_and_their_time(max_size):
    ids = make(max_size=max_size)
    for number in range(500):
        now = 100.0 + number / 7
        ids.remember(number, Outcome.TIMED_OUT, now)
        assert held(ids) <= max_size
        assert ids.disposition(number, now) is Disposition.LATE
    ids.forget(1_000.0)
    assert held(ids) == 0


def test_an_id_may_be_taken_out_and_remembered_again():
    ids = make()
    for now in (100.0, 100.1, 130.0, 161.0):
        ids.remember("a", Outcome.TIMED_OUT, now)
        assert ids.disposition("a", now) is Disposition.LATE
        ids.discard("a")
        assert ids.disposition("a", now) is Disposition.UNKNOWN
    assert held(ids) == 0


def test_an_id_may_be_taken_out_that_lies_among_the_older():
    ids = make()
    for number in range(501):
        ids.remember(number, Outcome.TIMED_OUT, 100.0)
    assert (len(ids.older), len(ids.newer)) == (500, 1)
    ids.discard(0)
    assert ids.disposition(0, 100.0) is Disposition.UNKNOWN
    assert ids.count(100.0) == held(ids) == 500
    ids.remember(0, Outcome.RESOLVED, 100.0)
    assert ids.disposition(0, 100.0) is Disposition.DUPLICATE


@pytest.mark.parametrize("max_size", [129, 130, 1_000])
def test_of_more_than_a_few_half_go_together(max_size):
    ids = make(max_size=max_size)
    half = max_size // 2
    for number in range(2 * half):
        ids.remember(number, Outcome.RESOLVED, 100.0)
    assert held(ids) == 2 * half
    ids.remember(2 * half, Outcome.RESOLVED, 100.0)
    assert [*ids.older, *ids.newer] == list(range(half, 2 * half + 1))


@pytest.mark.parametrize("after", [0.0, 0.1, RES - 0.01, RES, 2 * RES, SECONDS - RES])
def test_an_id_is_remembered_its_whole_time_though_others_needed_its_room(after):
    """The older are dropped once all of them are past their time, however the last came there."""
    ids = make()
    ids.remember("first", Outcome.TIMED_OUT, 100.0)
    for number in range(500):
        ids.remember(number, Outcome.TIMED_OUT, 100.0 + after)
    assert "first" in ids.older
    assert 498 in ids.older
    for step in range(1, 200):
        now = 100.0 + after + SECONDS * step / 200
        ids.remember(("later", step), Outcome.TIMED_OUT, now)
        assert ids.disposition(498, now) is Disposition.LATE
        if now <= 100.0 + SECONDS:
            assert ids.disposition("first", now) is Disposition.LATE


def test_ids_are_remembered_their_whole_time_when_they_come_in_bursts():
    """Half of what there is room for is never lost, at no time that others may come."""
    random.seed(12)
    ids, times, now = make(), [], 100.0
    for _ in range(300):
        now += random.choice((0.0, random.uniform(0, RES), RES, SECONDS / 2, SECONDS - 0.1))
        for _ in range(random.choice((1, 10, 240, 600))):
            ids.remember(len(times), Outcome.TIMED_OUT, now)
            times.append(now)
            for back in (1, random.randrange(1, 501), 500):
                if len(times) >= back and now - times[-back] <= SECONDS:
                    assert ids.disposition(len(times) - back, now) is Disposition.LATE
            now += random.choice((0.0, 0.001))


@pytest.mark.parametrize("max_size", [50, 500, 5_000])
def test_it_behaves_as_a_dict_with_times_would(max_size):
    """At random times, with looks and reuses between: nothing is lost early or kept late."""
    random.seed(max_size)
    ids, times, now = make(max_size=max_size), {}, 100.0
    for number in range(20_000):
        now += random.expovariate(2.0)
        if number % 7 == 0:
            ids.forget(now)
        if number % 5 == 0 and number - 1 in times:
            ids.discard(number - 1)
            del times[number - 1]
        ids.remember(number, Outcome.TIMED_OUT, now)
        times[number] = now
        for key in (number - random.randrange(max_size // 2), number - random.randrange(1_000)):
            ago = now - times.get(key, float("-inf"))
            if ago > SECONDS + 2 * RES:
                assert ids.disposition(key, now) is Disposition.UNKNOWN
                assert ids.settled_ago(key, now) is None
            elif ago < SECONDS and key > number - max_size // 2:
                assert ids.disposition(key, now) is Disposition.LATE
                assert ids.settled_ago(key, now) == pytest.approx(ago, abs=2 * RES)
        assert ids.count(now) <= held(ids) <= max_size
    ids.forget(now + 2 * SECONDS)
    assert held(ids) == 0


def test_a_cleared_memory_holds_nothing():
    ids = make()
    for number in range(600):
        ids.remember(number, Outcome.RESOLVED, 100.0)
    ids.clear()
    assert held(ids) == ids.count(100.0) == 0


def test_a_cleared_memory_forgets_in_time_what_comes_after():
    ids = make()
    ids.remember("a", Outcome.RESOLVED, 100.0)
    ids.clear()
    ids.remember("b", Outcome.RESOLVED, 100.1)
    assert ids.disposition("b", 100.1) is Disposition.DUPLICATE
    assert ids.disposition("b", 100.1 + SECONDS + 2 * RES) is Disposition.UNKNOWN
    ids.forget(1_000.0)
    assert held(ids) == 0


# -- as a correlator's users meet it ---------------------------------------------------------


async def test_an_id_that_is_pending_is_refused_and_the_first_stays(correlator):
    """Law 7: it never overwrites."""
    first = correlator.register("a", context=1)
    for reuse in (False, True):
        with pytest.raises(DuplicateRequest, match="'a' is pending already") as error:
            correlator.register("a", context=2, reuse=reuse)
        assert error.value.request_id == "a"
        with pytest.raises(DuplicateRequest):
            await correlator.correlate("a", reuse=reuse)
    correlator.resolve("a", "answer")
    assert await first == "answer"
    stats = balanced(correlator)
    assert (stats.registered, stats.refused) == (1, 4)


@virtual_time
async def test_a_remembered_id_is_refused_and_says_how_long_ago_it_settled(correlator):
    correlator.register("a").cancel()
    await elapse(10.0)
    with pytest.raises(
        DuplicateRequest, match=r"settled (10|9\.9\d*|10\.\d) s ago; pass reuse=True"
    ):
        correlator.register("a")


@virtual_time
async def test_a_remembered_id_may_be_reused_on_demand(correlator):
    correlator.register("a").cancel()
    pending = correlator.register("a", reuse=True)
    assert correlator.stats().remembered == 0
    correlator.resolve("a", 1)
    assert await pending == 1
    assert correlator.resolve("a", 2) is Disposition.DUPLICATE
    assert await correlator.correlate("a", reuse=True, send=replier(correlator)) == "reply to a"
    balanced(correlator)


def settle(correlator, *request_ids):
    """Let requests end without a reply."""
    for request_id in request_ids:
        correlator.register(request_id).cancel()


async def test_an_id_is_refused_also_when_many_have_settled_since():
    async with Correlator(max_remembered=1_000) as correlator:
        settle(correlator, "old", *range(600))
        with pytest.raises(DuplicateRequest, match="'old' settled"):
            correlator.register("old")
        assert correlator.resolve("old", 1) is Disposition.LATE
        assert balanced(correlator).refused == 1


async def test_an_id_may_be_reused_also_when_many_have_settled_since():
    async with Correlator(max_remembered=1_000) as correlator:
        settle(correlator, "old", *range(600))
        before = correlator.stats().remembered
        with correlator.register("old", reuse=True):
            assert correlator.stats().remembered == before - 1
        assert correlator.stats().remembered == before
        balanced(correlator)


@virtual_time
async def test_an_id_past_its_time_that_is_used_again_is_remembered_as_the_newest():
    """It needs no `reuse`, and does not keep its old place among the others."""
    async with Correlator(remember=10.0, resolution=1.0) as correlator:
        settle(correlator, "a")
        await elapse(5.0)
        settle(correlator, "b")
        await elapse(5.25)
        settle(correlator, "c")
        await elapse(0.35)
        assert correlator.resolve("a", 1) is Disposition.UNKNOWN
        settle(correlator, "a")
        assert correlator.stats().remembered == 3
        await elapse(6.0)
        assert correlator.stats().remembered == 2
        assert correlator.resolve("b", 1) is Disposition.UNKNOWN
        assert correlator.resolve("c", 1) is Disposition.LATE
        with pytest.raises(DuplicateRequest, match=r"'a' settled [56]\.?\d* s ago"):
            correlator.register("a")


async def test_a_closed_correlator_keeps_no_id_however_many_have_settled():
    """Law 16, without the cyclic collector."""

    class Id:
        """An id that can be watched."""

    gc.disable()
    try:
        async with Correlator(max_remembered=1_000) as correlator:
            ids = [Id() for _ in range(600)]
            watched = [weakref.ref(each) for each in ids]
            settle(correlator, *ids)
            del ids
            assert all(ref() is not None for ref in watched)
        assert [ref for ref in watched if ref() is not None] == []
    finally:
        gc.enable()


def replier(correlator):
    async def send(request_id):
        correlator.resolve(request_id, f"reply to {request_id}")

    return send


@virtual_time
async def test_a_refused_reuse_leaves_the_memory_as_it_was():
    async with Correlator(max_pending=1) as correlator:
        correlator.register("a").cancel()
        with correlator.register("b"), pytest.raises(CapacityExceeded):
            correlator.register("a", reuse=True)
        assert correlator.resolve("a", 1) is Disposition.LATE


@virtual_time
async def test_ids_are_forgotten_after_their_time():
    async with Correlator(remember=10.0) as correlator:
        correlator.register("late").cancel()
        answered = correlator.register("answered")
        correlator.resolve("answered", 1)
        await elapse(10.0)
        assert correlator.resolve("late", 1) is Disposition.LATE
        assert correlator.resolve("answered", 1) is Disposition.DUPLICATE
        assert correlator.stats().remembered == 2
        await elapse(0.06)
        assert correlator.resolve("late", 1) is Disposition.UNKNOWN
        assert correlator.resolve("answered", 1) is Disposition.UNKNOWN
        assert correlator.stats().remembered == 0
        with correlator.register("late"), correlator.register("answered"):
            assert await answered == 1


@virtual_time
async def test_ids_are_forgotten_past_their_number_the_oldest_first():
    async with Correlator(max_remembered=100, remember=1e6) as correlator:
        for number in range(1_000):
            correlator.register(number).cancel()
            assert correlator.stats().remembered <= 100
            await elapse(1.0)
        assert correlator.resolve(999, 1) is Disposition.LATE
        assert correlator.resolve(920, 1) is Disposition.LATE
        assert correlator.resolve(899, 1) is Disposition.UNKNOWN


@virtual_time
async def test_after_a_burst_too_the_oldest_are_forgotten_first():
    """However close together they settled: a duplicate of what was just answered is no stranger."""
    async with Correlator(max_remembered=100) as correlator:
        for number in range(1_000):
            correlator.register(number).cancel()
        assert correlator.resolve(999, 1) is Disposition.LATE
        assert correlator.resolve(998, 1) is Disposition.LATE
        assert correlator.resolve(0, 1) is Disposition.UNKNOWN


@pytest.mark.parametrize("end", ["time out", "cancel", "close"])
@virtual_time
async def test_a_reply_to_a_request_that_ended_without_one_is_late(correlator, end):
    """Law 9: it raises nothing and harms nobody."""
    group = correlator.group("g")
    pending = group.register("a", timeout=1.0)
    if end == "time out":
        await elapse(2.0)
    elif end == "cancel":
        pending.cancel()
    else:
        group.close()
    before = pending.outcome
    assert correlator.resolve("a", 1) is Disposition.LATE
    assert correlator.reject("a", ValueError()) is Disposition.LATE
    assert pending.outcome is before
    assert balanced(correlator).late == 2
