"""Group: pendings that share a fate or a limit."""

import asyncio
import gc
import weakref

import pytest

from correlator import (
    CapacityExceeded,
    Correlator,
    CorrelatorClosed,
    Disposition,
    Outcome,
)

from .clock import elapse, turns
from .conftest import balanced

pytestmark = pytest.mark.virtual_time


async def test_a_group_counts_its_own(correlator):
    group = correlator.group("g")
    pendings = [group.register() for _ in range(3)]
    correlator.register()
    assert (len(group), len(correlator)) == (3, 4)
    correlator.resolve(pendings[0].request_id, 1)
    pendings[1].cancel()
    assert len(group) == 1
    await elapse(40.0)
    assert (len(group), len(correlator)) == (0, 0)
    assert not group._members


async def test_a_groups_correlate_sends_and_waits_as_the_correlators(correlator):
    group = correlator.group("g")

    async def send(request_id):
        assert len(group) == 1
        assert correlator.pending()[0].group == "g"
        correlator.resolve(request_id, ("reply", request_id))

    assert await group.correlate("a", send=send, timeout=1.0) == ("reply", "a")
    with pytest.raises(TimeoutError):
        await group.correlate(timeout=1.0)
    stats = balanced(correlator)
    assert (stats.resolved, stats.timed_out) == (1, 1)


async def test_a_groups_limit_refuses_with_429_and_leaves_others_their_places(correlator):
    small, large = correlator.group("small", max_pending=2), correlator.group("large")
    kept = [small.register(timeout=5.0), small.register(timeout=9.0)]
    assert small.full
    await elapse(1.0)
    sent = []
    for refused in (small.register, lambda: small.correlate(send=sent.append)):
        with pytest.raises(CapacityExceeded, match="'small' is full.*max_pending=2") as error:
            result = refused()
            await result
        assert error.value.status == 429
        assert error.value.retry_after == pytest.approx(4.0, abs=0.05)
    assert not sent
    assert len(small) == 2
    large.register()
    correlator.register()
    kept[0].cancel()
    assert not small.full
    small.register()
    assert balanced(correlator, pending=4).refused == 2


async def test_one_tenant_that_floods_takes_no_other_tenants_places():
    async with Correlator(max_pending=100) as correlator:
        flooder = correlator.group("flooder", max_pending=10)
        others = [correlator.group(f"tenant-{number}", max_pending=10) for number in range(9)]
        refused = 0
        for _ in range(100):
            try:
                flooder.register()
            except CapacityExceeded:
                refused += 1
        for group in others:
            for _ in range(10):
                group.register()
        assert (refused, len(correlator)) == (90, 100)


async def test_closing_a_group_ends_its_pendings_at_once_and_no_others(correlator):
    group = correlator.group("link")
    inside = [group.register() for _ in range(3)]
    outside = correlator.register("outside")
    waiting = asyncio.create_task(group.correlate("awaited"))
    await turns(2)
    assert group.close() == 4
    assert (len(group), len(correlator)) == (0, 1)
    assert group.closed
    assert all(pending.outcome is Outcome.CLOSED for pending in inside)
    assert outside.outcome is None
    with pytest.raises(CorrelatorClosed, match="group 'link' was closed") as error:
        await waiting
    assert error.value.request_id == "awaited"
    assert correlator.resolve("awaited", 1) is Disposition.LATE
    assert balanced(correlator, pending=1).closed == 4


async def test_closing_a_group_with_an_error_gives_each_a_copy_of_his_own(correlator):
    group = correlator.group("link")
    given = ConnectionResetError(104, "peer gone")
    waiting = [asyncio.create_task(group.correlate()) for _ in range(3)]
    await turns(2)
    group.close(given)
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [(type(error), error.args) for error in errors] == [(type(given), given.args)] * 3
    assert len({id(error) for error in errors}) == 3
    group.close()
    with pytest.raises(CorrelatorClosed, match="group 'link' was closed with ConnectionResetErr"):
        group.register()


async def test_a_closed_group_refuses_and_closes_again_without_harm(correlator):
    group = correlator.group("link")
    assert group.close() == 0
    assert group.close() == 0
    with pytest.raises(CorrelatorClosed, match="group 'link' was closed$"):
        group.register()
    with pytest.raises(CorrelatorClosed, match="group 'link' was closed"):
        await group.correlate()
    assert balanced(correlator).registered == 0


async def test_after_closing_the_name_is_free_for_a_new_group(correlator):
    old = correlator.group("link", max_pending=1)
    old.close()
    new = correlator.group("link", max_pending=2)
    assert new is not old
    with new.register():
        assert old.close() == 0
        assert (len(new), new.closed) == (1, False)
        assert correlator.group("link") is new


async def test_the_same_name_gives_the_same_group_as_long_as_it_is_in_use(correlator):
    group = correlator.group("g", max_pending=3)
    assert correlator.group("g") is group
    assert correlator.group("g", max_pending=3) is group
    with pytest.raises(ValueError, match="max_pending must be 3, as group 'g' has it, not 4"):
        correlator.group("g", max_pending=4)
    group.register("a")
    del group
    assert correlator.group("g").max_pending == 3, "something is pending in it"
    assert len(correlator.group("g")) == 1


async def test_a_group_that_nobody_holds_is_forgotten(correlator):
    """A group for each connection must not pile up, even if nobody closes it."""
    gc.disable()
    try:
        group = correlator.group("link", max_pending=3)
        pending = group.register("a")
        gone = weakref.ref(group)
        del group
        assert gone() is not None
        correlator.resolve("a", 1)
        await turns(1)
        del pending
        assert gone() is None
        assert not correlator._groups
        assert correlator.group("link").max_pending is None
    finally:
        gc.enable()


async def test_a_group_refuses_at_its_limit_also_where_the_correlator_waits():
    async with Correlator(when_full="wait", max_pending=10) as correlator:
        group = correlator.group("g", max_pending=1)
        with group.register(), pytest.raises(CapacityExceeded) as error:
            await group.correlate()
        assert error.value.status == 429


async def test_a_group_refuses_at_the_correlators_limit_where_that_refuses():
    """`when_full="reject"`, the default, holds for a group's requests too."""
    async with Correlator(max_pending=1) as correlator:
        group = correlator.group("g")
        sent = []
        with correlator.register(), pytest.raises(CapacityExceeded) as error:
            async with asyncio.timeout(1.0):
                await group.correlate(send=sent.append)
        assert error.value.status == 503
        assert not sent
        assert balanced(correlator).refused == 1


async def test_closing_from_within_an_observer_is_survived():
    class Closer:
        def registered(self, pending):
            pending.group.close()

        def settled(self, pending):
            pending.group.close()

        def unmatched(self, request_id, disposition): ...
        def refused(self, error): ...

    async with Correlator(observers=[Closer()]) as correlator:
        pending = correlator.group("g").register()
        assert pending.outcome is Outcome.CLOSED
        with pytest.raises(CorrelatorClosed):
            await correlator.group("h").correlate()
        balanced(correlator)


async def test_its_repr_tells_its_state():
    async with Correlator() as correlator:
        group, limited = correlator.group("g"), correlator.group("h", max_pending=5)
        group.register(context="canary")
        assert repr(group) == "<Group 'g' 1 pending>"
        assert repr(limited) == "<Group 'h' 0 of 5 pending>"
        group.close()
        assert repr(group) == "<Group 'g' closed>"


async def test_after_the_correlator_is_closed_a_group_refuses_and_closes_without_harm():
    async with Correlator(name="c") as correlator:
        group = correlator.group("g")
    with pytest.raises(CorrelatorClosed, match="'c' is closed"):
        group.register()
    with pytest.raises(CorrelatorClosed, match="'c' is closed"):
        await group.correlate()
    assert group.close() == 0
