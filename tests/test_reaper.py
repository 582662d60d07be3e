"""The reaper: on time, idle when there is nothing to do, and not to be killed."""

import asyncio
import random
import time as real_time

import pytest

from correlator import Correlator, Outcome, RequestTimeout

from .clock import elapse, turns
from .conftest import balanced

pytestmark = pytest.mark.virtual_time


def time():
    return asyncio.get_running_loop().time()


class Times:
    """An observer that notes when each request ended, and how late it was."""

    def __init__(self):
        self.late = {}

    def registered(self, pending): ...
    def unmatched(self, request_id, disposition): ...
    def refused(self, error): ...

    def settled(self, pending):
        self.late[pending.request_id] = time() - pending.deadline


def the_reaper():
    (task,) = (
        task for task in asyncio.all_tasks() if task.get_name().startswith("correlator-reaper")
    )
    return task


@pytest.mark.parametrize("resolution", [0.001, 0.05, 0.7, 10.0])
async def test_a_deadline_is_never_early_and_late_by_the_resolution_at_most(resolution):
    """Law 6, with deadlines far apart and close together, in any order."""
    random.seed(5)
    times = Times()
    async with Correlator(resolution=resolution, observers=[times]) as correlator:
        for number in range(500):
            correlator.register(number, timeout=10 ** random.uniform(-3, 3))
            if number % 10 == 0:
                await elapse(10 ** random.uniform(-4, 0))
        await elapse(1_100.0)
        assert balanced(correlator).timed_out == 500
    assert len(times.late) == 500
    assert min(times.late.values()) >= 0.0
    assert max(times.late.values()) <= resolution


async def test_one_that_is_due_before_all_others_is_not_late_for_them():
    times = Times()
    async with Correlator(observers=[times]) as correlator:
        for timeout in (1_000.0, 100.0, 10.0, 1.0, 0.1):
            correlator.register(timeout, timeout=timeout)
        await elapse(2_000.0)
    assert list(times.late) == [0.1, 1.0, 10.0, 100.0, 1_000.0]
    assert 0.0 <= min(times.late.values()) <= max(times.late.values()) <= 0.05


async def test_a_loop_that_was_held_up_ends_what_was_due_at_once():
    async with Correlator() as correlator:
        waiting = asyncio.create_task(correlator.correlate(timeout=1.0))
        await turns(2)
        asyncio.get_running_loop().stall(100.0)
        with pytest.raises(RequestTimeout) as error:
            await waiting
        assert time() == 1_100.0
        assert error.value.age == pytest.approx(100.0)
        assert error.value.timeout == 1.0


async def test_a_reply_after_the_deadline_and_before_the_reaper_is_still_taken():
    """The pending has not ended; it ends once, with what comes first."""
    async with Correlator() as correlator:
        pending = correlator.register("a", timeout=1.0)
        asyncio.get_running_loop().stall(1.01)
        correlator.resolve("a", 1)
        await turns(3)
        assert pending.outcome is Outcome.RESOLVED
        assert await pending == 1


def wakings():
    return asyncio.get_running_loop().leaps


async def test_with_nothing_pending_nothing_wakes():
    """Law 17: in a day, the clock leaps once, for the one who lets the day pass."""
    async with Correlator() as correlator:
        await turns(3)
        before = wakings()
        await elapse(80_000.0)
        assert wakings() - before == 1
        for _ in range(100):
            correlator.register(timeout=1.0).cancel()
        await elapse(2.0)
        before = wakings()
        await elapse(80_000.0)
        assert wakings() - before == 1, "not for what is remembered either"


async def test_what_is_answered_in_time_wakes_nobody_again_and_again():
    """A timer that was set may ring once in vain, but not once for each of a thousand."""
    async with Correlator(timeout=30.0) as correlator:
        for number in range(1_000):
            correlator.register(number)
            correlator.resolve(number, 1)
        await turns(3)
        before = wakings()
        await elapse(3_600.0)
        assert wakings() - before <= 2


async def test_far_deadlines_cost_no_wakings_before_they_are_due():
    async with Correlator(resolution=0.001) as correlator:
        for number in range(100):
            correlator.register(timeout=10_000.0 + number)
        before = wakings()
        await elapse(9_000.0)
        assert wakings() - before == 1
        await elapse(2_000.0)
        assert balanced(correlator).timed_out == 100
        assert wakings() - before <= 102 + 2


async def test_there_is_one_timer_not_one_for_each_request(monkeypatch):
    async with Correlator() as correlator:
        await turns(2)
        loop, timers = asyncio.get_running_loop(), []
        call_at = loop.call_at

        def counting(when, *args, **kwargs):
            timers.append(when)
            return call_at(when, *args, **kwargs)

        monkeypatch.setattr(loop, "call_at", counting)
        for _ in range(1_000):
            correlator.register(timeout=5.0)
        for number in range(1_000):
            correlator.register(timeout=6.0 + number).cancel()
        monkeypatch.undo()
        assert len(timers) == 1


@pytest.mark.parametrize("spread", [0.0, 0.5])
async def test_much_that_is_due_at_once_is_ended_in_slices(spread):
    """Law 18: others run in between, however much it is."""
    async with Correlator(max_pending=20_000) as correlator:
        for number in range(20_000):
            correlator.register(timeout=1.0 + spread * number / 20_000)
        asyncio.get_running_loop().stall(2.0)
        counts = [len(correlator)]
        while counts[-1]:
            await turns(1)
            counts.append(len(correlator))
        steps = [before - after for before, after in zip(counts, counts[1:], strict=False)]
        assert max(steps) <= 256
        assert balanced(correlator).timed_out == 20_000


async def test_slow_observers_make_the_slices_shorter():
    """It holds the loop for some two milliseconds: real ones, which is what others lose."""

    class Slow(Times):
        def settled(self, pending):
            until = real_time.monotonic() + 0.001
            while real_time.monotonic() < until:
                pass

    async with Correlator(observers=[Slow()]) as correlator:
        for _ in range(30):
            correlator.register(timeout=1.0)
        asyncio.get_running_loop().stall(2.0)
        counts = [30]
        while counts[-1]:
            await turns(1)
            counts.append(len(correlator))
        steps = [before - after for before, after in zip(counts, counts[1:], strict=False)]
        assert max(steps) <= 4


async def test_the_cost_follows_what_is_due_not_what_is_pending(monkeypatch):
    """Law 18: with many pending and one due, one is looked at."""
    async with Correlator(max_pending=10_000) as correlator:
        for _ in range(9_999):
            correlator.register(timeout=1_000.0)
        correlator.register("due", timeout=1.0)
        looked_at = []
        due = type(correlator._store).due

        def counting(store, now, limit):
            looked_at.extend(batch := due(store, now, limit))
            return batch

        monkeypatch.setattr(type(correlator._store), "due", counting)
        await elapse(2.0)
        assert [pending.request_id for pending in looked_at] == ["due"]
        monkeypatch.undo()


async def test_a_reaper_that_is_killed_is_started_again_and_says_so(caplog):
    """Law 14."""
    times = Times()
    async with Correlator(observers=[times], name="c") as correlator:
        await turns(2)
        for number in range(10):
            correlator.register(number, timeout=1.0)
            await elapse(0.5)
            the_reaper().cancel()
            await elapse(0.5)
        await elapse(5.0)
        stats = balanced(correlator)
        assert (stats.timed_out, stats.reaper_restarts) == (10, 10)
    assert 0.0 <= min(times.late.values()) <= max(times.late.values()) <= 0.05
    assert caplog.text.count("reaper of correlator 'c' was cancelled; starting it again") == 10


async def test_a_reaper_killed_at_the_moment_of_a_deadline_ends_it_on_time(caplog):
    times = Times()
    async with Correlator(observers=[times]) as correlator:
        for number, moment in enumerate((1.0, 1.01, 1.02, 1.025, 1.03, 1.05)):
            correlator.register(number, timeout=1.0)
            await elapse(moment)
            the_reaper().cancel()
            await elapse(3.0)
        assert balanced(correlator).timed_out == 6
    assert 0.0 <= min(times.late.values()) <= max(times.late.values()) <= 0.05


async def test_a_reaper_killed_before_it_ran_at_all_is_started_again(caplog):
    async with Correlator() as correlator:
        the_reaper().cancel()
        with pytest.raises(RequestTimeout):
            await correlator.correlate(timeout=1.0)
        assert correlator.stats().reaper_restarts == 1


async def test_a_reaper_killed_each_time_it_starts_does_not_spin_and_gets_through(caplog):
    async with Correlator(max_pending=5) as correlator:
        for _ in range(5):
            correlator.register(timeout=1.0)
        before = wakings()
        for _ in range(20):
            await turns(3)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await elapse(0.1)
        assert wakings() - before < 100
        assert balanced(correlator).timed_out == 5


async def test_a_reaper_killed_in_every_turn_is_not_started_in_every_turn(caplog):
    async with Correlator() as correlator:
        for _ in range(300):
            await turns(1)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
        assert 1 <= correlator.stats().reaper_restarts <= 2
        with pytest.raises(RequestTimeout):
            await correlator.correlate(timeout=1.0)


async def test_the_count_bound_holds_while_the_reaper_is_dead(caplog):
    """Law 14."""
    async with Correlator(max_pending=3) as correlator:
        await turns(2)
        the_reaper().cancel()
        for _ in range(3):
            correlator.register(timeout=1.0)
        with pytest.raises(Exception, match="full"):
            correlator.register()
        await elapse(1.1)
        assert balanced(correlator).timed_out == 3


async def test_a_reaper_that_fails_is_started_again_and_what_it_says_is_kept_short(
    monkeypatch, caplog
):
    failures = [ValueError("the store broke"), KeyError("again")]
    async with Correlator() as correlator:
        due = type(correlator._store).due

        def broken(store, now, limit):
            if failures:
                raise failures.pop()
            return due(store, now, limit)

        monkeypatch.setattr(type(correlator._store), "due", broken)
        with pytest.raises(RequestTimeout) as error:
            await correlator.correlate(timeout=1.0)
        assert error.value.age <= 1.0 + 3 * 0.05
        assert correlator.stats().reaper_restarts == 2
    assert caplog.text.count("starting it again") == 2


async def test_after_closing_the_reaper_is_not_started_again(caplog):
    async with Correlator() as correlator:
        await turns(2)
        the_reaper().cancel()
    await elapse(5.0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert correlator.stats().reaper_restarts in (0, 1)


@pytest.mark.parametrize("resolution", [1e-6, 1.0, 1e9])
async def test_any_sound_resolution_works(resolution):
    async with Correlator(resolution=resolution) as correlator:
        waiting = asyncio.create_task(correlator.correlate(timeout=1.0))
        await elapse(1.0 + 1.5 * resolution)
        assert waiting.done() == (len(correlator) == 0) is True
        with pytest.raises(RequestTimeout):
            await waiting


@pytest.mark.parametrize("timeout", [1e-9, 1e9])
async def test_the_shortest_and_the_longest_timeout_work(timeout):
    async with Correlator() as correlator:
        with pytest.raises(RequestTimeout) as error:
            await correlator.correlate("a", timeout=timeout)
        assert error.value.timeout == pytest.approx(timeout, rel=1e-3)
        assert error.value.request_id == "a"
