"""What broken copies of the code, and readers who meant it ill, have shown to be untested."""

import asyncio
import dataclasses

import pytest

from correlator import (
    CapacityExceeded,
    Correlator,
    CorrelatorClosed,
    Disposition,
    Outcome,
    remaining_time,
    request_scope,
)
from correlator.memory import RememberedIds
from correlator.store import ExpiringStore

from .clock import elapse
from .conftest import balanced


class Meddler:
    """An observer that ends all the other requests as soon as one has ended."""

    def __init__(self):
        self.others = []
        self.ended = []

    def registered(self, pending):
        self.others.append(pending)

    def settled(self, pending):
        self.ended.append(pending.request_id)
        self.others.remove(pending)
        for other in list(self.others):
            other.cancel()

    def unmatched(self, request_id, disposition): ...
    def refused(self, error): ...


@pytest.mark.virtual_time
async def test_a_request_that_an_observer_ends_does_not_expire_a_second_time():
    """The reaper has taken a batch of what is due, and must find one that ended meanwhile."""
    meddler = Meddler()
    async with Correlator(observers=[meddler]) as correlator:
        pendings = [correlator.register(timeout=1.0) for _ in range(5)]
        await elapse(2.0)
        stats = balanced(correlator)
        assert (stats.timed_out, stats.cancelled) == (1, 4)
        assert sorted(meddler.ended) == sorted(pending.request_id for pending in pendings)


def test_an_id_is_forgotten_at_the_very_moment_it_falls_due():
    """So that it makes no difference whether somebody purged just before."""
    ids = RememberedIds(seconds=60.0, max_size=10, resolution=0.5)
    ids.remember("a", Outcome.RESOLVED, 100.0)
    at = ids.newer["a"]
    assert ids.disposition("a", at - 0.01) is Disposition.DUPLICATE
    assert ids.count(at - 0.01) == 1
    assert ids.settled_ago("a", at - 0.01) is not None
    assert ids.disposition("a", at) is Disposition.UNKNOWN
    assert ids.settled_ago("a", at) is None
    assert ids.count(at) == 0


def test_a_cleared_store_has_forgotten_the_sizes_too():
    """Else the next entry of that key would take them off the sum when it leaves."""
    store = ExpiringStore(resolution=1.0, max_bytes=100)
    store.add("a", 1, 10.0, size=40)
    store.clear()
    store.add("a", 2, 10.0)
    store.add("b", 3, 10.0, size=50)
    assert store.pop("a") == 2
    assert store.bytes == 50


class _Answers:
    """An observer that does something of its own as it is told."""

    def __init__(self, **does):
        self.__dict__.update({name: lambda *_: None for name in EVENTS} | does)


EVENTS = ("registered", "settled", "unmatched", "refused")


async def test_an_observer_that_frees_a_place_as_a_group_closes_leaves_nobody_hanging():
    """Laws 11 and 13: it is told of those sent away, and answers another request."""
    correlator = Correlator(
        max_pending=2,
        when_full="wait",
        observers=[_Answers(refused=lambda _: "x" in correlator and correlator.resolve("x", 1))],
    )
    async with correlator:
        correlator.register("x")
        group = correlator.group("g")
        member = group.register("member")
        waiting = [asyncio.create_task(group.correlate(number)) for number in range(3)]
        await asyncio.sleep(0)
        assert group.close() == 1
        assert member.outcome is Outcome.CLOSED
        for task in waiting:
            with pytest.raises(CorrelatorClosed):
                await task
        assert len(correlator) == 0


async def test_an_observer_that_cancels_who_is_being_admitted_leaves_no_orphan():
    """Laws 3, 9 and 13: the reply that freed the place raises nothing."""
    correlator = Correlator(
        max_pending=1,
        when_full="wait",
        observers=[_Answers(registered=lambda it: it.request_id == "w" and waiting.cancel())],
    )
    async with correlator:
        correlator.register("x")
        waiting = asyncio.create_task(correlator.correlate("w"))
        await asyncio.sleep(0)
        assert correlator.resolve("x", 1) is Disposition.MATCHED
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(correlator) == 0


async def test_an_observer_that_answers_as_it_is_told_empties_the_longest_queue():
    """Laws 2 and 4: each admission frees the place of the next, without going ever deeper."""

    def answer(pending):
        if pending.context:
            correlator.resolve(pending.request_id, 1)

    correlator = Correlator(
        max_pending=1,
        when_full="wait",
        observers=[_Answers(registered=answer)],
    )
    async with correlator:
        first = correlator.register()
        waiting = [asyncio.create_task(correlator.correlate(context=True)) for _ in range(900)]
        await asyncio.sleep(0)
        first.cancel()
        assert await asyncio.gather(*waiting) == [1] * 900
        assert correlator.stats().resolved == 900


@dataclasses.dataclass(frozen=True)
class _Frozen(Exception):
    code: int


async def test_an_error_that_cannot_be_copied_reaches_everybody_as_it_is():
    """Laws 2 and 11: a group is closed whole, whatever the error is made of."""
    async with Correlator() as correlator:
        rejected = correlator.register()
        correlator.reject(rejected.request_id, _Frozen(3))
        group = correlator.group("g")
        members = [group.register() for _ in range(3)]
        assert group.close(_Frozen(4)) == 3
        for pending in (rejected, *members):
            with pytest.raises(_Frozen):
                await pending


async def test_an_observer_that_ends_the_program_does_not_stop_a_close_halfway():
    """Law 11: all callers are free, also where Ctrl-C or an exit strikes in an observer."""

    def leave(_pending):
        raise SystemExit

    correlator = await Correlator(observers=[_Answers(settled=leave)]).__aenter__()
    pendings = [correlator.register() for _ in range(3)]
    with pytest.raises(SystemExit):
        await correlator.aclose()
    assert [pending.outcome for pending in pendings] == [Outcome.CLOSED] * 3
    await correlator.aclose()


async def test_an_id_that_is_none_is_refused():
    """Law 1: a reply without an id would else settle the request that has none."""
    async with Correlator(new_id=lambda: None) as correlator:
        with pytest.raises(TypeError, match="new_id must return an id, not None"):
            correlator.register()
        assert correlator.resolve(None, 1) is Disposition.UNKNOWN


async def test_a_send_that_is_not_async_is_named_and_told_what_to_be():
    async with Correlator() as correlator:
        with pytest.raises(TypeError, match="send must return an awaitable .*, not None"):
            await correlator.correlate(send=lambda _: None)
        assert len(correlator) == 0


async def test_the_pending_at_hand_never_lengthens_the_deadline_in_force():
    async with Correlator() as correlator:
        pending = correlator.register(timeout=10.0)
        with request_scope(timeout=1.0), pending:
            assert remaining_time() <= 1.0


async def test_a_full_group_tells_of_its_own_deadlines_only():
    """One tenant does not see another's: nor is the time any good to it."""
    async with Correlator() as correlator:
        full, other = correlator.group("a", max_pending=1), correlator.group("b")
        full.register(timeout=100.0)
        other.register(timeout=2.0)
        with pytest.raises(CapacityExceeded) as error:
            full.register()
        assert error.value.retry_after > 90
