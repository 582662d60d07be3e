"""Correlator: pairing, refusing, counting, and its life from entering to closing."""

import asyncio
import dataclasses

import pytest

from correlator import (
    Correlator,
    CorrelatorClosed,
    CorrelatorStats,
    Disposition,
    DuplicateRequest,
    Outcome,
    PendingInfo,
    RequestTimeout,
)

from .clock import elapse, turns
from .conftest import balanced

virtual_time = pytest.mark.virtual_time


# -- pairing -----------------------------------------------------------------------------------


async def test_a_response_reaches_the_request_it_belongs_to_and_no_other(correlator):
    """Law 1: a thousand requests, answered in another order, each get their own answer."""
    waiting = {
        number: asyncio.create_task(correlator.correlate(str(number))) for number in range(1000)
    }
    await turns(2)
    for number in sorted(waiting, key=lambda number: (number * 7919) % 1000):
        assert correlator.resolve(str(number), number) is Disposition.MATCHED
    for number, task in waiting.items():
        assert await task == number
    assert balanced(correlator).resolved == 1000


@pytest.mark.parametrize("near", ["A", "a ", "", "b", 1, None, ("a",), b"a"], ids=repr)
async def test_a_response_with_another_id_settles_nothing(correlator, near):
    """Law 1: no fallback and no guess, also where only one request is pending."""
    with correlator.register("a") as pending:
        assert correlator.resolve(near, 1) is Disposition.UNKNOWN
        assert correlator.reject(near, ValueError()) is Disposition.UNKNOWN
        assert pending.outcome is None
        assert correlator.stats().unknown == 2


async def test_the_first_reply_wins(correlator):
    """Laws 2 and 9."""
    pending = correlator.register("a")
    assert correlator.resolve("a", 1) is Disposition.MATCHED
    assert correlator.resolve("a", 2) is Disposition.DUPLICATE
    assert correlator.reject("a", ValueError()) is Disposition.DUPLICATE
    assert await pending == 1
    stats = balanced(correlator)
    assert (stats.resolved, stats.rejected, stats.duplicate) == (1, 0, 2)


async def test_a_rejection_is_an_answer_too(correlator):
    pending = correlator.register("a")
    assert correlator.reject("a", LookupError("gone")) is Disposition.MATCHED
    assert correlator.resolve("a", 1) is Disposition.DUPLICATE
    with pytest.raises(LookupError, match="gone"):
        await pending


async def test_a_reply_may_come_before_anybody_waits(correlator):
    """Law 8: from registering on there is somebody to take it."""
    pending = correlator.register("a")
    correlator.resolve("a", 1)
    await turns(3)
    assert await pending == 1


async def test_ids_are_made_where_none_is_given():
    ids = iter([7, 8])
    async with Correlator[int, str](new_id=lambda: next(ids)) as correlator:
        with correlator.register() as first, correlator.register() as second:
            assert (first.request_id, second.request_id) == (7, 8)


@pytest.mark.parametrize(
    "request_id", ["a", 0, "", b"a", (1, "a"), frozenset({1}), False], ids=repr
)
async def test_any_hashable_is_an_id(correlator, request_id):
    pending = correlator.register(request_id)
    assert request_id in correlator
    assert correlator.resolve(request_id, 1) is Disposition.MATCHED
    assert await pending == 1


# -- what there is to see ----------------------------------------------------------------------


@virtual_time
async def test_stats_count_each_end_and_each_reply():
    """Law 4, and every field."""
    async with Correlator(max_pending=7, max_pending_bytes=100, timeout=5.0) as correlator:
        assert correlator.stats() == CorrelatorStats(*[0] * 14, 0.0, 0)
        group = correlator.group("g")
        ids = ["resolved", "rejected", "cancelled", "pending", "timed out"]
        pendings = {name: correlator.register(name, size=10) for name in ids[:4]}
        pendings["timed out"] = correlator.register("timed out", timeout=1.0)
        group.register("closed")
        with pytest.raises(DuplicateRequest):
            correlator.register("pending")
        correlator.resolve("resolved", 1)
        correlator.reject("rejected", ValueError())
        pendings["cancelled"].cancel()
        group.close()
        correlator.resolve("resolved", 2)
        correlator.resolve("cancelled", 2)
        for _ in range(3):
            correlator.resolve("unheard of", 2)
        await elapse(2.0)
        assert balanced(correlator, pending=1) == CorrelatorStats(
            registered=6,
            resolved=1,
            rejected=1,
            timed_out=1,
            cancelled=1,
            closed=1,
            pending=1,
            pending_bytes=10,
            waiting=0,
            refused=1,
            late=1,
            duplicate=1,
            unknown=3,
            remembered=5,
            oldest_age=2.0,
            reaper_restarts=0,
        )
    assert correlator.stats().closed == 2


def test_stats_before_entering_are_all_zero():
    assert Correlator().stats() == CorrelatorStats(*[0] * 14, 0.0, 0)


def test_stats_are_a_frozen_record():
    stats = Correlator().stats()
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.pending = 5
    assert not hasattr(stats, "__dict__")
    assert set(dataclasses.asdict(stats)) >= {"registered", "oldest_age", "reaper_restarts"}


@virtual_time
async def test_pending_lists_what_is_pending_oldest_first(correlator):
    group = correlator.group("g")
    correlator.register("a", timeout=9.0, size=3, context="canary")
    await elapse(1.0)
    group.register("b", timeout=4.0)
    correlator.register("c").cancel()
    await elapse(0.5)
    correlator.register("d", timeout=2.0)
    infos = correlator.pending()
    assert [info.request_id for info in infos] == ["a", "b", "d"]
    assert infos[0] == PendingInfo("a", age=1.5, remaining=7.5, size=3, group=None)
    assert infos[1].group == "g"
    assert correlator.pending(2) == infos[:2]
    assert correlator.pending(limit=99) == infos
    assert "canary" not in repr(infos)
    with pytest.raises(dataclasses.FrozenInstanceError):
        infos[0].age = 0.0


async def test_len_and_in_tell_what_is_pending(correlator):
    assert len(correlator) == 0
    with correlator.register("a"):
        assert len(correlator) == 1
        assert "a" in correlator
        assert "b" not in correlator
    assert "a" not in correlator


async def test_a_correlator_is_true_also_while_nothing_is_pending():
    """It has a length; `correlator or Correlator()` must not take an idle one for none."""
    correlator = Correlator()
    assert bool(correlator)
    async with correlator:
        assert len(correlator) == 0
        assert bool(correlator)
    assert bool(correlator)


async def test_its_repr_tells_how_full_it_is_and_nothing_secret():
    async with Correlator(max_pending=5, name="orders") as correlator:
        with correlator.register("canary-id", context="canary"):
            assert repr(correlator) == "<Correlator 'orders' 1 of 5 pending>"


# -- life --------------------------------------------------------------------------------------


async def every_verb(correlator, group=None):
    """Call each verb; return by its name what it raised."""
    verbs = {
        "register": correlator.register,
        "correlate": correlator.correlate,
        "resolve": lambda: correlator.resolve("a", 1),
        "reject": lambda: correlator.reject("a", ValueError()),
        "resolve_threadsafe": lambda: correlator.resolve_threadsafe("a", 1),
        "reject_threadsafe": lambda: correlator.reject_threadsafe("a", ValueError()),
        "group": lambda: correlator.group("g"),
        "drain": lambda: correlator.drain(1.0),
    }
    if group is not None:
        verbs |= {"group.register": group.register, "group.correlate": group.correlate}
    raised = {}
    for name, call in verbs.items():
        try:
            result = call()
            if asyncio.iscoroutine(result):
                await result
        except Exception as error:
            raised[name] = error
        else:
            raised[name] = None
    return raised


async def test_before_entering_every_verb_says_what_to_do():
    correlator = Correlator(name="c")
    for verb, error in (await every_verb(correlator)).items():
        assert type(error) is CorrelatorClosed, verb
        assert "'c' was not entered" in str(error)
        assert "async with" in str(error)
    assert balanced(correlator).registered == 0
    assert correlator.pending() == []
    assert "a" not in correlator


async def test_after_closing_every_verb_says_what_to_do():
    async with Correlator(name="c") as correlator:
        group = correlator.group("g")
    for verb, error in (await every_verb(correlator, group)).items():
        assert type(error) is CorrelatorClosed, verb
        assert "'c' is closed" in str(error)
        assert "make a new correlator" in str(error)
    assert balanced(correlator).registered == 0


async def test_it_is_entered_once():
    correlator = Correlator(name="c")
    async with correlator:
        with pytest.raises(CorrelatorClosed, match="'c' was entered or closed before.*make a new"):
            await correlator.__aenter__()
        with correlator.register():
            pass
    with pytest.raises(CorrelatorClosed, match="make a new"):
        async with correlator:
            pytest.fail("it was entered")


async def test_entering_gives_the_correlator_itself():
    correlator = Correlator()
    async with correlator as entered:
        assert entered is correlator


async def test_it_may_be_left_by_another_task_than_entered_it():
    correlator = Correlator()
    await asyncio.create_task(correlator.__aenter__())
    waiting = asyncio.create_task(correlator.correlate())
    await turns(2)
    await asyncio.create_task(correlator.__aexit__(None, None, None))
    with pytest.raises(CorrelatorClosed):
        await waiting
    balanced(correlator)


async def test_leaving_swallows_no_exception():
    with pytest.raises(LookupError):
        async with Correlator():
            raise LookupError


async def test_closing_settles_everything_before_it_first_waits():
    """Law 11."""
    async with Correlator() as correlator:
        pendings = [correlator.register() for _ in range(100)]
        waiting = [asyncio.create_task(correlator.correlate()) for _ in range(100)]
        await turns(2)
        closing = correlator.aclose()
        closing.send(None)
        assert all(pending.outcome is Outcome.CLOSED for pending in pendings)
        assert balanced(correlator).closed == 200
        closing.close()
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(error) for error in errors} == {CorrelatorClosed}
        assert len({id(error) for error in errors}) == 100


async def test_closing_that_is_cancelled_has_settled_everything_all_the_same():
    correlator = await Correlator().__aenter__()
    waiting = asyncio.create_task(correlator.correlate())
    await turns(2)
    closing = asyncio.create_task(correlator.aclose())
    await turns(1)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(CorrelatorClosed):
        await waiting
    await correlator.aclose()
    balanced(correlator)


async def test_closing_twice_does_no_harm():
    async with Correlator() as correlator:
        await asyncio.gather(correlator.aclose(), correlator.aclose())
        await correlator.aclose()


async def test_closing_twice_what_was_never_entered_does_no_harm():
    correlator = Correlator()
    await correlator.aclose()
    await correlator.aclose()
    with pytest.raises(CorrelatorClosed):
        await correlator.__aenter__()


def test_closing_again_on_another_loop_does_no_harm():
    correlator = Correlator()

    async def use():
        async with correlator:
            pass

    asyncio.run(use())
    asyncio.run(correlator.aclose())


async def test_closing_leaves_no_task_behind():
    before = asyncio.all_tasks()
    async with Correlator() as correlator:
        await turns(2)
        assert len(asyncio.all_tasks()) == len(before) + 1
        correlator.register()
    assert asyncio.all_tasks() == before


async def test_two_correlators_do_not_know_each_other():
    async with Correlator(name="one") as one, Correlator(name="two") as two:
        with one.register("a") as first, two.register("a"):
            assert two.resolve("a", 2) is Disposition.MATCHED
            assert first.outcome is None
            assert two.resolve("a", 2) is Disposition.DUPLICATE


# -- draining ----------------------------------------------------------------------------------


@virtual_time
async def test_draining_refuses_what_is_new_and_takes_replies(correlator):
    pending, group = correlator.register("a"), correlator.group("g")
    draining = asyncio.create_task(correlator.drain(10.0))
    await turns(2)
    for refused in (correlator.register, group.register):
        with pytest.raises(CorrelatorClosed, match="draining and takes no new requests"):
            refused()
    with pytest.raises(CorrelatorClosed, match="draining"):
        await correlator.correlate()
    assert not draining.done()
    assert correlator.resolve("a", 1) is Disposition.MATCHED
    assert await draining is True
    assert await pending == 1
    assert balanced(correlator).refused == 3
    assert asyncio.get_running_loop().time() == 1_000.0


@virtual_time
async def test_draining_returns_when_its_time_is_up_and_leaves_what_is_pending(correlator):
    pending = correlator.register("a", timeout=60.0)
    assert await correlator.drain(10.0) is False
    assert asyncio.get_running_loop().time() == pytest.approx(1_010.0)
    assert pending.outcome is None
    await correlator.aclose()
    assert pending.outcome is Outcome.CLOSED


@virtual_time
async def test_draining_ends_when_the_last_times_out(correlator):
    waiting = asyncio.create_task(correlator.correlate(timeout=2.0))
    await turns(2)
    assert await correlator.drain(10.0) is True
    with pytest.raises(RequestTimeout):
        await waiting


@virtual_time
async def test_draining_an_empty_one_returns_at_once_and_may_be_repeated(correlator):
    assert await correlator.drain(10.0) is True
    assert await correlator.drain(10.0) is True
    assert asyncio.get_running_loop().time() == 1_000.0


@virtual_time
async def test_several_may_drain_at_once_and_one_may_be_cancelled(correlator):
    pending = correlator.register("a")
    tasks = [asyncio.create_task(correlator.drain(10.0)) for _ in range(3)]
    await turns(2)
    tasks[0].cancel()
    await turns(2)
    pending.cancel()
    assert await asyncio.gather(*tasks[1:]) == [True, True]
    assert tasks[0].cancelled()


@virtual_time
async def test_closing_ends_a_drain(correlator):
    correlator.register("a")
    draining = asyncio.create_task(correlator.drain(10.0))
    await turns(2)
    await correlator.aclose()
    assert await draining is True
    assert asyncio.get_running_loop().time() == 1_000.0
