"""Whoever leaves, and wherever he is at that moment: nothing of his request is left behind."""

from __future__ import annotations

import asyncio
from functools import partial

import anyio
import pytest

from correlator import (
    CapacityExceeded,
    CorrelationError,
    Correlator,
    CorrelatorClosed,
    Outcome,
    RequestRejected,
    RequestTimeout,
)

from .clock import run_virtual
from .sweep import Abort, Scene, SendFailed, Stage, sweep

WAIT = {"when_full": "wait", "max_pending": 1}


async def publish(_request_id: str) -> None:
    """A send that waits three times: a turn, some time, a turn."""
    await asyncio.sleep(0)
    await asyncio.sleep(0.1)
    await asyncio.sleep(0)


async def hang(_request_id: str) -> None:
    """A send that never ends, and tidies up for a moment when it is interrupted."""
    try:
        await asyncio.sleep(1e6)
    except asyncio.CancelledError:
        await asyncio.sleep(0)
        raise


async def without_send(stage: Stage) -> None:
    stage.reply("a", after=0.1)
    assert await stage.correlator.correlate("a", timeout=1) == "reply to a"


async def without_send_replied_next_turn(stage: Stage) -> None:
    stage.reply("a")
    assert await stage.correlator.correlate("a", timeout=1) == "reply to a"


async def without_reply(stage: Stage) -> None:
    await stage.correlator.correlate("a", timeout=0.3)


async def rejected(stage: Stage) -> None:
    async def other() -> None:
        await asyncio.sleep(0.1)
        stage.correlator.reject("a", RequestRejected("no"))

    stage.start(other())
    await stage.correlator.correlate("a", timeout=1)


async def cancelled_by_another(stage: Stage) -> None:
    async def other() -> None:
        await asyncio.sleep(0.1)
        for pending in stage.witness.registered_:
            pending.cancel()

    stage.start(other())
    await stage.correlator.correlate("a", send=stage.send(hang), timeout=1)


async def with_send(stage: Stage) -> None:
    stage.reply("a", after=0.2)
    assert await stage.correlator.correlate("a", send=stage.send(publish)) == "reply to a"


async def replied_while_sending(stage: Stage) -> None:
    stage.reply("a", after=0.05)
    assert await stage.correlator.correlate("a", send=stage.send(publish)) == "reply to a"


async def replied_as_the_send_ends(stage: Stage) -> None:
    async def sends(request_id: str) -> None:
        stage.reply(request_id, after=0.1, skip=1)
        await publish(request_id)

    assert await stage.correlator.correlate("a", send=stage.send(sends)) == "reply to a"


async def replied_by_the_send_itself(stage: Stage) -> None:
    async def sends(request_id: str) -> None:
        stage.correlator.resolve(request_id, "at once")
        await publish(request_id)

    assert await stage.correlator.correlate("a", send=stage.send(sends)) == "at once"


async def replied_but_the_send_hangs(stage: Stage) -> None:
    stage.reply("a", after=0.05)
    reply = await stage.correlator.correlate("a", send=stage.send(hang), timeout=0.3)
    assert reply == "reply to a"


async def the_send_hangs(stage: Stage) -> None:
    await stage.correlator.correlate("a", send=stage.send(hang), timeout=0.3)


async def the_send_fails(stage: Stage) -> None:
    async def fails(request_id: str) -> None:
        await publish(request_id)
        raise SendFailed

    await stage.correlator.correlate("a", send=stage.send(fails))


async def by_hand(stage: Stage) -> None:
    stage.reply("a", after=0.2)
    with stage.correlator.register("a", timeout=1) as pending:
        await publish(pending.request_id)
        assert await pending == "reply to a"


async def by_hand_never_awaited(stage: Stage) -> None:
    with stage.correlator.register("a", timeout=1):
        await publish("a")


async def in_a_group(stage: Stage) -> None:
    stage.reply("a", after=0.2)
    group = stage.correlator.group("tenant", max_pending=2)
    assert await group.correlate("a", send=stage.send(publish)) == "reply to a"
    assert len(group) == 0


async def its_group_is_closed(stage: Stage) -> None:
    group = stage.correlator.group("connection")

    async def other() -> None:
        await asyncio.sleep(0.05)
        group.close()

    stage.start(other())
    await group.correlate("a", send=stage.send(hang))


async def queues_for_a_place(stage: Stage) -> None:
    stage.correlator.register("other", timeout=2)
    stage.reply("other", after=0.1)
    stage.reply("a", after=0.3)
    assert await stage.correlator.correlate("a", send=stage.send(publish)) == "reply to a"


async def queues_in_vain(stage: Stage) -> None:
    stage.correlator.register("other", timeout=2)
    await stage.correlator.correlate("a", send=stage.send(publish), timeout=0.5)


async def queues_ahead_of_another(stage: Stage) -> None:
    stage.correlator.register("other", timeout=2)

    async def other() -> None:
        await asyncio.sleep(0)
        stage.reply("other 2", after=0.5)
        assert await stage.correlator.correlate("other 2", timeout=3) == "reply to other 2"

    stage.start(other())
    stage.reply("other", after=0.1)
    stage.reply("a", after=0.2)
    await asyncio.sleep(0)
    assert await stage.correlator.group("g").correlate("a") == "reply to a"


async def drains(stage: Stage) -> None:
    stage.correlator.register("other", timeout=2)
    stage.reply("other", after=0.1)
    assert await stage.correlator.drain(1.0)


async def drains_in_vain(stage: Stage) -> None:
    stage.correlator.register("other", timeout=2)
    assert not await stage.correlator.drain(0.5)
    stage.correlator.resolve("other", None)


async def closes(stage: Stage) -> None:
    async def other() -> None:
        with pytest.raises((CorrelatorClosed, RequestTimeout)):
            await stage.correlator.correlate("other", send=hang)

    stage.start(other())
    await asyncio.sleep(0.1)
    await stage.correlator.aclose()


async def has_a_correlator_of_its_own(stage: Stage) -> None:
    async with Correlator(name="inner") as inner:
        with pytest.raises(RequestTimeout):
            await inner.correlate("a", timeout=0.2, send=stage.send(publish))
    assert len(inner) == 0


async def waits_with_others(stage: Stage) -> None:
    pending = stage.correlator.register("a, and another", timeout=1)

    async def other() -> None:
        assert await pending == "reply to a, and another"

    stage.start(other())
    stage.start(other())
    stage.reply("a, and another", after=0.1)
    await asyncio.sleep(0)
    assert await pending == "reply to a, and another"


async def nests(stage: Stage) -> None:
    async def sends(request_id: str) -> None:
        stage.reply("b", after=0.2)
        assert await stage.correlator.correlate("b", send=publish) == "reply to b"

    stage.reply("a", after=0.3)
    assert await stage.correlator.correlate("a", send=stage.send(sends)) == "reply to a"


async def nests_and_both_time_out(stage: Stage) -> None:
    async def sends(request_id: str) -> None:
        await stage.correlator.correlate("b", send=hang, timeout=9)

    await stage.correlator.correlate("a", send=stage.send(sends), timeout=0.3)


async def in_a_timeout(stage: Stage, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await stage.correlator.correlate("a", send=stage.send(hang), timeout=0.5)


async def in_fail_after(stage: Stage, seconds: float) -> None:
    with anyio.fail_after(seconds):
        await stage.correlator.correlate("a", send=stage.send(hang), timeout=0.5)


async def in_move_on_after(stage: Stage) -> None:
    with anyio.move_on_after(0.2) as scope:
        await stage.correlator.correlate("a", send=stage.send(hang), timeout=0.5)
    assert scope.cancelled_caught
    await asyncio.sleep(0)


async def sends_in_scopes(stage: Stage) -> None:
    async def sends(request_id: str) -> None:
        async with asyncio.timeout(0.5):
            with anyio.fail_after(0.5):
                await hang(request_id)

    await stage.correlator.correlate("a", send=stage.send(sends), timeout=0.5)


async def in_scopes_that_end_as_the_request_does(stage: Stage) -> None:
    async def sends(request_id: str) -> None:
        ends_at = stage.correlator._store.leaves_at(request_id)
        outer.deadline = ends_at
        with anyio.CancelScope(deadline=ends_at):
            await hang(request_id)
        await hang(request_id)

    with anyio.CancelScope() as outer:
        await stage.correlator.correlate("a", send=stage.send(sends), timeout=0.3)
    await asyncio.sleep(0)
    raise SendFailed  # it goes on after the scope, as it should


async def sends_by_a_task_group(stage: Stage) -> None:
    async def sends(request_id: str) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish(request_id))
            tasks.create_task(publish(request_id))

    stage.reply("a", after=0.3)
    assert await stage.correlator.correlate("a", send=stage.send(sends)) == "reply to a"


async def sends_by_a_hanging_task_group(stage: Stage) -> None:
    async def sends(request_id: str) -> None:
        async with asyncio.TaskGroup() as tasks, anyio.create_task_group() as more:
            tasks.create_task(hang(request_id))
            more.start_soon(hang, request_id)

    await stage.correlator.correlate("a", send=stage.send(sends), timeout=0.3)


def scene(caller, suspensions, raises=None, name=None, **options):
    if name is not None:
        caller.__name__ = name
    return Scene(caller, suspensions, raises, options)


SCENES = [
    scene(without_send, 1),
    scene(without_send_replied_next_turn, 1),
    scene(without_reply, 1, RequestTimeout),
    scene(rejected, 1, RequestRejected),
    scene(cancelled_by_another, 2, CorrelationError),
    scene(with_send, 4),
    scene(replied_while_sending, 3),
    scene(replied_as_the_send_ends, 3),
    scene(replied_by_the_send_itself, 3),
    scene(replied_but_the_send_hangs, 2),
    scene(the_send_hangs, 2, RequestTimeout),
    scene(the_send_fails, 3, SendFailed),
    scene(by_hand, 4),
    scene(by_hand_never_awaited, 3),
    scene(in_a_group, 4),
    scene(its_group_is_closed, 2, CorrelatorClosed),
    scene(queues_for_a_place, 5, **WAIT),
    scene(queues_in_vain, 1, CapacityExceeded, **WAIT),
    scene(queues_ahead_of_another, 3, **WAIT),
    scene(drains, 1),
    scene(drains_in_vain, 1),
    scene(closes, 3),
    scene(has_a_correlator_of_its_own, 6),
    scene(waits_with_others, 2),
    scene(nests, 5),
    scene(nests_and_both_time_out, 2, RequestTimeout),
    *(
        scene(
            partial(make, seconds=seconds),
            2,
            TimeoutError,
            f"{make.__name__}_{when}",
        )
        for make in (in_a_timeout, in_fail_after)
        for seconds, when in ((0.2, "that_is_shorter"), (0.5, "that_is_as_long"), (0.9, "longer"))
    ),
    scene(in_move_on_after, 3),
    scene(sends_in_scopes, 2, TimeoutError),
    scene(in_scopes_that_end_as_the_request_does, 3, SendFailed),
    scene(sends_by_a_task_group, 2),
    scene(sends_by_a_hanging_task_group, 3, RequestTimeout),
]
GROUPED = {"sends_by_a_task_group", "sends_by_a_hanging_task_group"}
# Only a task's own cancellation can get a TaskGroup to end, or an `async with` that waits in
# leaving: what else is raised inside them, by nobody, they do not survive, with or without us.
FRAGILE = {*GROUPED, "has_a_correlator_of_its_own"}


def each(scenes):
    return pytest.mark.parametrize("scene", scenes, ids=lambda scene: scene.name)


def check_unstruck(scene, played):
    """The last run of a sweep was left in peace, and ended as the scene does."""
    assert not played.struck
    assert not played.caller.cancelled()
    assert played.caller.cancelling() == 0
    error = played.caller.exception()
    assert isinstance(error, scene.raises or type(None)), repr(error)


@each(SCENES)
@pytest.mark.parametrize("how", ["suspends", "wakes"])
def test_a_caller_cancelled_at_any_await_leaves_nothing(scene, how):
    """Cancelled at each await in turn, a caller ends cancelled and leaves nothing behind."""
    *struck, last = run_virtual(sweep(scene, how))
    check_unstruck(scene, last)
    assert len(struck) == last.points == scene.suspensions
    assert all(played.caller.cancelled() for played in struck)


@each(SCENES)
def test_a_caller_cancelled_between_any_two_steps_of_the_loop_leaves_nothing(scene):
    """Cancelled before each callback of the loop in turn, a caller ends cancelled, all is tidy."""
    *struck, last = run_virtual(sweep(scene, "step"))
    check_unstruck(scene, last)
    assert len(struck) == last.points > scene.suspensions
    assert all(played.caller.cancelled() for played in struck)


@each([it for it in SCENES if it.name not in GROUPED])
@pytest.mark.parametrize("error", [SendFailed, Abort])
def test_whatever_is_raised_at_any_await_leaves_nothing(scene, error):
    """An exception out of each await in turn leaves nothing, and is no cancellation."""
    *struck, last = run_virtual(sweep(scene, "raise", error))
    check_unstruck(scene, last)
    assert len(struck) == last.points == scene.suspensions
    assert not any(played.caller.cancelled() for played in struck)


@each([it for it in SCENES if it.name not in FRAGILE])
def test_a_coroutine_closed_at_any_await_leaves_nothing(scene):
    """A caller whose coroutine is closed (GeneratorExit) at each await in turn leaves nothing."""
    *struck, last = run_virtual(sweep(scene, "close"))
    check_unstruck(scene, last)
    assert len(struck) == last.points == scene.suspensions
    assert all(played.caller.exception() is None for played in struck)


SENDS = {
    "cancelled_by_another": 2,
    "with_send": 3,
    "replied_while_sending": 3,
    "replied_as_the_send_ends": 3,
    "replied_by_the_send_itself": 3,
    "replied_but_the_send_hangs": 2,
    "the_send_hangs": 2,
    "the_send_fails": 3,
    "in_a_group": 3,
    "its_group_is_closed": 2,
    "queues_for_a_place": 3,
    "nests": 4,
    "nests_and_both_time_out": 2,
}


@each([it for it in SCENES if it.name in SENDS])
@pytest.mark.parametrize("error", [SendFailed, OSError, Abort])
def test_what_a_send_raises_at_any_await_ends_the_request_unless_it_had_ended(scene, error):
    """A send that fails at each await in turn cancels the request, unless that had ended."""
    *struck, last = run_virtual(sweep(scene, "send", error))
    check_unstruck(scene, last)
    assert len(struck) == last.points == SENDS[scene.name]
    for played in struck:
        raised = played.caller.exception()
        if not played.was_over:
            assert played.outcome is Outcome.CANCELLED
        if error is Abort or not played.was_over:
            assert raised is played.error
        else:
            assert isinstance(raised, scene.raises or type(None))
            assert played.outcome is last.outcome
