"""At a bound: refusing, or waiting for a place, first come, first served."""

import asyncio
from contextlib import suppress
from contextvars import ContextVar, copy_context

import pytest

from correlator import (
    CapacityExceeded,
    Correlator,
    CorrelatorClosed,
    DuplicateRequest,
    RequestTimeout,
    request_scope,
)

from .clock import elapse, turns
from .conftest import Recorder, balanced

pytestmark = pytest.mark.virtual_time


async def test_a_full_correlator_refuses_sends_nothing_and_evicts_nobody():
    """Law 5."""
    sent = []
    async with Correlator(max_pending=3, name="small") as correlator:
        kept = [correlator.register(timeout=timeout) for timeout in (9.0, 5.0, 7.0)]
        await elapse(1.0)
        with pytest.raises(CapacityExceeded, match="'small' is full.*max_pending=3") as error:
            correlator.register()
        assert error.value.status == 503
        assert error.value.retry_after == pytest.approx(4.0, abs=0.05)
        with pytest.raises(CapacityExceeded):
            await correlator.correlate(send=sent.append)
        assert not sent
        assert all(pending.outcome is None for pending in kept)
        kept[0].cancel()
        correlator.register()
        assert balanced(correlator, pending=3).refused == 2


async def test_the_byte_bound_counts_what_is_pending():
    async with Correlator(max_pending_bytes=100) as correlator:
        first = correlator.register(size=60)
        second = correlator.register(size=40)
        correlator.register(size=0)
        assert correlator.stats().pending_bytes == 100
        with pytest.raises(CapacityExceeded, match="max_pending_bytes=100"):
            correlator.register(size=1)
        first.cancel()
        assert correlator.stats().pending_bytes == 40
        correlator.register(size=60)
        second.cancel()
        with pytest.raises(CapacityExceeded, match="size=101 is more than max_pending_bytes=100"):
            correlator.register(size=101)
        with pytest.raises(CapacityExceeded) as error:
            correlator.register(size=10**30)
        assert error.value.retry_after is None, "waiting cannot help"


async def test_a_full_one_tells_of_less_than_a_second_and_never_of_less_than_none():
    async with Correlator(max_pending=1) as correlator:
        correlator.register(timeout=0.5)
        with pytest.raises(CapacityExceeded) as error:
            correlator.register()
        assert error.value.retry_after == pytest.approx(0.5, abs=0.05)
        asyncio.get_running_loop().stall(2.0)  # it is due, and the reaper has had no turn yet
        with pytest.raises(CapacityExceeded) as error:
            correlator.register()
        assert error.value.retry_after == 0.0


# -- waiting -----------------------------------------------------------------------------------


class Line:
    """Callers that stand in line for a correlator's places, and what they sent."""

    def __init__(self, correlator):
        self.correlator = correlator
        self.sent = []
        self.tasks = {}

    def left(self, task):
        """Look at how a caller fared, as somebody must; those who matter are awaited as well."""
        task.cancelled() or task.exception()

    async def join(self, name, **arguments):
        source = arguments.pop("group", self.correlator)

        async def send(request_id):
            self.sent.append(request_id)

        call = source.correlate(name, send=send, **arguments)
        self.tasks[name] = asyncio.create_task(call)
        self.tasks[name].add_done_callback(self.left)
        await turns(2)
        return self.tasks[name]


async def ended(task):
    """Return the error that a task ends with, or "cancelled"."""
    await asyncio.wait([task])
    return "cancelled" if task.cancelled() else task.exception()


@pytest.fixture
async def full():
    """A correlator with two places, both taken, by "first" and "second"."""
    async with Correlator(when_full="wait", max_pending=2, max_waiting=5, name="small") as full:
        full.register("first", timeout=20.0)
        full.register("second", timeout=20.0)
        yield full
    balanced(full)


async def test_those_who_wait_get_places_first_come_first_served(full):
    line = Line(full)
    for name in "abcde":
        await line.join(name)
    assert not line.sent, "who waits has sent nothing"
    assert full.stats().waiting == 5
    for number, freed in enumerate(["first", "second", "a", "b", "c"]):
        full.resolve(freed, freed)
        await turns(2)
        assert line.sent == list("abcde"[: number + 1])
        assert len(full) == 2
    full.resolve("d", "d")
    full.resolve("e", "e")
    assert [await task for task in line.tasks.values()] == list("abcde")
    assert balanced(full).resolved == 7


async def test_a_place_is_taken_in_the_step_that_frees_it(full):
    """So nobody slips in between before the next in line has woken."""
    line = Line(full)
    waiting = await line.join("a")
    full.resolve("first", 1)
    assert "a" in full
    with pytest.raises(CapacityExceeded):
        full.register("pushy")
    pushy = await line.join("pushy")
    assert full.stats().waiting == 1
    full.resolve("a", 1)
    full.resolve("pushy", 2)
    assert (await waiting, await pushy) == (1, 2)


async def test_a_reply_may_come_before_who_was_admitted_has_woken(full):
    line = Line(full)
    waiting = await line.join("a")
    full.resolve("first", 1)
    full.resolve("a", "early")
    assert await waiting == "early"
    assert not line.sent, "there is nothing to send any more"


async def test_waiting_ends_at_the_requests_own_deadline(full):
    """The place, the send and the response share one timeout."""
    line, start = Line(full), asyncio.get_running_loop().time()
    waiting = await line.join("a", timeout=3.0)
    with pytest.raises(CapacityExceeded, match="'small' is full"):
        await waiting
    assert asyncio.get_running_loop().time() - start == pytest.approx(3.0)
    assert not line.sent
    stats = full.stats()
    assert (stats.waiting, stats.refused, stats.registered) == (0, 1, 2)


async def test_time_spent_waiting_is_taken_from_the_requests_own(full):
    line, start = Line(full), asyncio.get_running_loop().time()
    waiting = await line.join("a", timeout=3.0)
    await elapse(2.0)
    full.resolve("first", 1)
    with pytest.raises(RequestTimeout):
        await waiting
    assert 3.0 <= asyncio.get_running_loop().time() - start <= 3.06
    assert line.sent == ["a"]


async def test_waiting_ends_at_the_ambient_deadline(full):
    start = asyncio.get_running_loop().time()
    with request_scope(timeout=2.0), pytest.raises(CapacityExceeded):
        await full.correlate()
    assert asyncio.get_running_loop().time() - start == pytest.approx(2.0)


async def test_a_place_that_comes_too_late_goes_to_the_next(full):
    """Freed when the first in line has no time left, before he has woken."""
    line = Line(full)
    late, next_one = await line.join("late", timeout=1.0), await line.join("next")
    asyncio.get_running_loop().stall(1.0)
    full.resolve("first", 1)
    assert "next" in full
    assert "late" not in full
    with pytest.raises(CapacityExceeded):
        await late
    full.resolve("next", 2)
    assert await next_one == 2
    assert line.sent == ["next"]


async def test_only_so_many_may_wait(full):
    line = Line(full)
    for name in "abcde":
        await line.join(name)
    refused = await line.join("f")
    with pytest.raises(CapacityExceeded, match="'small' is full") as error:
        await refused
    assert error.value.retry_after == pytest.approx(20.0, abs=0.05)
    assert full.stats().waiting == 5
    line.tasks["c"].cancel()
    await turns(2)
    await line.join("g")
    assert full.stats().waiting == 5


async def test_register_never_waits(full):
    with pytest.raises(CapacityExceeded):
        full.register()
    await Line(full).join("a")
    with pytest.raises(CapacityExceeded):
        full.register()


async def test_who_is_cancelled_while_waiting_leaves_the_line_and_sends_nothing(full):
    line = Line(full)
    gone, stays = await line.join("gone"), await line.join("stays")
    gone.cancel()
    await turns(2)
    assert gone.cancelled()
    assert full.stats().waiting == 1
    full.resolve("first", 1)
    full.resolve("stays", 2)
    assert await stays == 2
    assert not line.sent


async def test_who_is_cancelled_in_the_turn_he_is_admitted_passes_his_place_on(full):
    line = Line(full)
    gone, next_one = await line.join("gone"), await line.join("next")
    full.resolve("first", 1)
    assert "gone" in full
    gone.cancel()
    await turns(3)
    assert gone.cancelled()
    assert "gone" not in full
    assert "next" in full
    full.resolve("next", 2)
    assert await next_one == 2
    assert line.sent == ["next"]


async def test_who_was_cancelled_before_a_place_came_free_is_passed_over(full):
    line = Line(full)
    gone, next_one = await line.join("gone"), await line.join("next")
    gone.cancel()
    full.resolve("first", 1)
    assert "next" in full
    full.resolve("next", 2)
    assert await next_one == 2
    assert gone.cancelled()


async def test_closing_dismisses_who_waits():
    async with Correlator(when_full="wait", max_pending=1, name="small") as full:
        full.register()
        line = Line(full)
        waiting = [await line.join(name) for name in "abc"]
        closing = full.aclose()
        closing.send(None)
        assert full.stats().waiting == 0
        closing.close()
        errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [(type(error), error.request_id) for error in errors] == [
        (CorrelatorClosed, name) for name in "abc"
    ]
    assert "'a': correlator 'small' was closed" in str(errors[0])
    assert not line.sent
    balanced(full)


async def test_draining_dismisses_who_waits_and_keeps_what_is_pending(full):
    line = Line(full)
    waiting = await line.join("a")
    draining = asyncio.create_task(full.drain(5.0))
    with pytest.raises(CorrelatorClosed, match="'a': correlator 'small' is draining"):
        await waiting
    assert len(full) == 2
    full.resolve("first", 1)
    full.resolve("second", 1)
    assert await draining is True
    assert not line.sent


async def test_closing_a_group_dismisses_its_own_who_wait_and_no_others(full):
    line, group = Line(full), full.group("g")
    inside = await line.join("inside", group=group)
    outside = await line.join("outside")
    assert group.close() == 0
    with pytest.raises(CorrelatorClosed, match="group 'g' was closed") as error:
        await inside
    assert error.value.request_id == "inside"
    full.resolve("first", 1)
    full.resolve("outside", 2)
    assert await outside == 2


async def test_closing_passes_over_who_was_cancelled_in_the_same_turn(full):
    line, group = Line(full), full.group("g")
    cancelled, other = [await line.join(name, group=group) for name in "ab"]
    cancelled.cancel()
    group.close()
    with pytest.raises(CorrelatorClosed):
        await other
    assert await ended(cancelled) == "cancelled"
    assert full.stats().refused == 1


async def test_an_observer_may_cancel_who_is_sent_away(full):
    class Cancels:
        def refused(self, error):
            line.tasks[error.request_id].cancel()

        def registered(self, _): ...
        def settled(self, _): ...
        def unmatched(self, *_): ...

    line, group = Line(full), full.group("g")
    waiting = [await line.join(name, group=group) for name in "ab"]
    full.add_observer(Cancels())
    group.close()
    assert [await ended(each) for each in waiting] == ["cancelled", "cancelled"]


async def test_who_is_cancelled_in_the_turn_of_his_deadline_is_cancelled(full):
    line, loop = Line(full), asyncio.get_running_loop()
    waiting = await line.join("a", timeout=3.0)
    loop.call_later(2.0, waiting.cancel)
    loop.call_later(1.0, loop.stall, 5.0)
    assert await ended(waiting) == "cancelled"


async def test_closing_a_group_with_an_error_gives_it_to_those_who_wait_too(full):
    line, group = Line(full), full.group("g")
    waiting = [await line.join(name, group=group) for name in "ab"]
    given = ConnectionError("gone")
    group.close(given)
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(error) for error in errors] == ["gone", "gone"]
    assert len({id(error) for error in [given, *errors]}) == 3


async def test_a_group_that_is_full_by_then_refuses_who_waited(full):
    line, group = Line(full), full.group("g", max_pending=1)
    first, second = await line.join("a", group=group), await line.join("b", group=group)
    full.resolve("first", 1)
    full.resolve("second", 1)
    with pytest.raises(CapacityExceeded, match="group 'g'") as error:
        await second
    assert error.value.status == 429
    full.resolve("a", 1)
    assert await first == 1


async def test_an_id_that_is_taken_by_then_is_refused_to_who_waited(full):
    line = Line(full)
    first, second = await line.join("a"), await line.join("b")
    with pytest.raises(DuplicateRequest):
        line.tasks["again"] = asyncio.create_task(full.correlate("first"))
        full.resolve("first", 1)
        await line.tasks["again"]
    full.resolve("a", 1)
    full.resolve("b", 2)
    assert (await first, await second) == (1, 2)


async def test_the_line_also_forms_at_the_byte_bound_and_keeps_its_order():
    async with Correlator(when_full="wait", max_pending_bytes=10) as full:
        full.register("first", size=8)
        line = Line(full)
        large, small = await line.join("large", size=6), await line.join("small", size=1)
        assert full.stats().waiting == 2, "small would fit, but large came first"
        full.resolve("first", 1)
        await turns(2)
        assert line.sent == ["large", "small"]
        assert full.stats().pending_bytes == 7
        full.resolve("large", 1)
        full.resolve("small", 2)
        assert (await large, await small) == (1, 2)


async def test_what_fills_all_the_bytes_alone_waits_until_there_is_nothing_else():
    async with Correlator(when_full="wait", max_pending_bytes=10) as full:
        full.register("first", size=1)
        line = Line(full)
        whole = await line.join("whole", size=10)
        assert full.stats().waiting == 1
        full.resolve("first", 1)
        await turns(2)
        assert line.sent == ["whole"]
        full.resolve("whole", 2)
        assert await whole == 2


async def test_what_can_never_fit_does_not_wait():
    async with Correlator(when_full="wait", max_pending_bytes=10) as full:
        with pytest.raises(CapacityExceeded, match="size=11 is more than max_pending_bytes=10"):
            await full.correlate(size=11)
        assert asyncio.get_running_loop().leaps == 0


@pytest.mark.parametrize("leaves", ["cancelled", "too late", "group closed"])
async def test_those_behind_one_who_leaves_the_line_are_admitted_if_they_fit(leaves):
    """Nobody waits while there is a place for him, and nobody in front."""
    async with Correlator(when_full="wait", max_pending_bytes=10) as full:
        first, group = full.register("first", size=5), full.group("g")
        line = Line(full)
        large = await line.join("large", size=8, timeout=1.0, group=group)
        small = await line.join("small", size=3)
        assert full.stats().waiting == 2
        if leaves == "cancelled":
            large.cancel()
        elif leaves == "too late":
            await elapse(1.0)
        else:
            group.close()
        await turns(4)
        assert first.outcome is None
        assert line.sent == ["small"]
        full.resolve("small", 3)
        assert await small == 3
        await asyncio.wait([large])
        assert large.cancelled() == (leaves == "cancelled")


async def test_observers_hear_of_who_was_admitted_and_of_who_was_refused():
    recorder = Recorder()
    async with Correlator(when_full="wait", max_pending=1, observers=[recorder]) as full:
        full.register("first")
        line = Line(full)
        await line.join("a")
        late = await line.join("late", timeout=1.0)
        with pytest.raises(CapacityExceeded):
            await late
        full.resolve("first", 1)
        full.resolve("a", 1)
        assert recorder.events == [
            ("registered", "first"),
            ("refused", "CapacityExceeded"),
            ("resolved", "first"),
            ("registered", "a"),
            ("resolved", "a"),
        ]


async def test_observers_hear_of_who_waited_in_his_own_context():
    """Not in that of whoever freed the place: there are spans and variables for logs."""
    who = ContextVar("who", default="nobody")
    heard = []

    class Listener:
        def registered(self, _pending):
            heard.append(("registered", who.get()))

        def settled(self, _pending):
            pass

        def unmatched(self, _request_id, _disposition):
            pass

        def refused(self, _error):
            heard.append(("refused", who.get()))

    async with Correlator(max_pending=1, when_full="wait", observers=[Listener()]) as correlator:
        first, group = correlator.register(), correlator.group("g")
        for name, via in (("waiter", correlator), ("of a group", group), ("sent away", correlator)):
            context = copy_context()
            context.run(who.set, name)
            asyncio.get_running_loop().create_task(swallow(via.correlate()), context=context)
        await turns(3)
        who.set("whoever settles")
        group.close()
        first.cancel()
        await turns(3)
    assert heard == [
        ("registered", "nobody"),
        ("refused", "of a group"),
        ("registered", "waiter"),
        ("refused", "sent away"),
    ]


async def swallow(awaitable):
    with suppress(CorrelatorClosed):
        await awaitable


async def test_an_observer_may_free_the_place_of_who_was_just_admitted():
    """Whatever frees a place admits the next, also from within the step that admits another."""

    class Impatient(Recorder):
        def registered(self, pending):
            super().registered(pending)
            if pending.request_id != "first":
                full.resolve(pending.request_id, "at once")

    async with Correlator(when_full="wait", max_pending=1, observers=[Impatient()]) as full:
        full.register("first")
        line = Line(full)
        waiting = [await line.join(name) for name in "abcde"]
        full.resolve("first", 1)
        assert balanced(full).resolved == 6
        assert await asyncio.gather(*waiting) == ["at once"] * 5
        assert not line.sent


async def test_many_come_and_go_and_none_is_forgotten():
    """A thousand callers at ten places: each is served exactly once, and in order."""
    async with Correlator(when_full="wait", max_pending=10, timeout=1e6) as full:
        order = []

        async def send(request_id):
            order.append(request_id)
            await elapse(1.0)
            full.resolve(request_id, request_id)

        answers = await asyncio.gather(*(full.correlate(n, send=send) for n in range(1_000)))
        assert answers == order == list(range(1_000))
        assert balanced(full).resolved == 1_000


async def test_who_finds_the_queue_full_is_refused_and_counted():
    recorder = Recorder()
    async with Correlator(
        max_pending=1, max_waiting=1, when_full="wait", observers=[recorder]
    ) as correlator:
        correlator.register("first")
        waiting = asyncio.create_task(swallow(correlator.correlate("a")))
        await turns(2)
        with pytest.raises(CapacityExceeded):
            await correlator.correlate("b")
        assert correlator.stats().refused == 1
        assert recorder.events[-1] == ("refused", "CapacityExceeded")
    await waiting
