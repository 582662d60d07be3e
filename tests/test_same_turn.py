"""Two things in one turn of the loop: in either order no cancellation is lost, and none is made.

The clock is virtual. A request is expired by hand where the order within a turn matters, by the
call that the reaper makes.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from itertools import product

import anyio
import pytest

from correlator import CorrelatorClosed, Disposition, Outcome, RequestTimeout

from .clock import turns
from .sweep import (
    SendFailed,
    and_tidies_up,
    expire,
    in_order,
    on_a_future,
    on_a_task,
    on_turns,
    opened,
    settles,
)  # fmt: skip

pytestmark = pytest.mark.virtual_time

BOTH_ORDERS = pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
HANGING = pytest.mark.parametrize("send", [on_a_future, on_turns, on_a_task, and_tidies_up])


# -- reply, expiry, cancellation -----------------------------------------------------------------


async def by_hand(correlator):
    with correlator.register("a") as pending:
        return await pending


CALLS = {
    "plain": lambda it: it.correlate("a"),
    "by hand": by_hand,
    "in a group": lambda it: it.group("g").correlate("a"),
    "sending": lambda it: it.correlate("a", send=on_a_future),
    "sending by turns": lambda it: it.correlate("a", send=on_turns),
    "sending by a task": lambda it: it.correlate("a", send=on_a_task),
    "tidying up": lambda it: it.correlate("a", send=and_tidies_up),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@EVERY_CALL
@BOTH_ORDERS
async def test_a_reply_and_a_cancellation_in_one_turn(call, first):
    """The reply is counted, and the caller, who was cancelled, ends cancelled."""
    async with opened() as (correlator, witness):
        task = asyncio.create_task(call(correlator))
        await turns(2)
        in_order(first, lambda: correlator.resolve("a", 1), task.cancel)
        await turns(5)
        assert task.cancelled()
        assert [it.outcome for it in witness.settled_] == [Outcome.RESOLVED]


@EVERY_CALL
@BOTH_ORDERS
async def test_an_expiry_and_a_cancellation_in_one_turn(call, first):
    """The expiry is counted, and the caller, who was cancelled, ends cancelled."""
    async with opened() as (correlator, witness):
        task = asyncio.create_task(call(correlator))
        await turns(2)
        in_order(first, lambda: expire(correlator), task.cancel)
        await turns(5)
        assert task.cancelled()
        assert [it.outcome for it in witness.settled_] == [Outcome.TIMED_OUT]


@EVERY_CALL
@BOTH_ORDERS
async def test_an_expiry_and_a_reply_in_one_turn(call, first):
    """The first wins; the reply is matched or late."""
    async with opened() as (correlator, witness):
        task = asyncio.create_task(settles(call(correlator)))
        await turns(2)
        said = []
        in_order(
            first, lambda: expire(correlator) if len(correlator) else None,
            lambda: said.append(correlator.resolve("a", 1)),
        )  # fmt: skip
        await turns(5)
        if first:
            assert said == [Disposition.LATE]
            assert isinstance(await task, RequestTimeout)
        else:
            assert said == [Disposition.MATCHED]
            asyncio.get_running_loop().stall(2.0)
            assert await task == 1
        assert len(witness.settled_) == 1


@HANGING
@pytest.mark.parametrize("later", range(8))
async def test_a_caller_cancelled_while_his_send_is_interrupted_ends_cancelled(send, later):
    """In whatever turn after the expiry he is cancelled: if he is still there, he hears it."""
    async with opened() as (correlator, _):
        task = asyncio.create_task(correlator.correlate("a", send=send))
        await turns(3)
        expire(correlator)
        await turns(later)
        cancelled = task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() is cancelled
        assert task.cancelling() == cancelled
        if not cancelled:
            assert isinstance(task.exception(), RequestTimeout)


async def test_an_observer_that_cancels_the_caller_at_his_expiry_cancels_him():
    """Cancelled in the very step that settles his request, a caller ends cancelled."""
    async with opened() as (correlator, witness):
        task = asyncio.create_task(correlator.correlate("a", send=on_a_future))
        witness.settled = lambda pending: task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_a_send_that_settles_its_request_and_cancels_its_own_task_ends_cancelled():
    """A task that cancels itself in its send is cancelled, also when the reply is there."""
    async with opened() as (correlator, _):

        async def send(request_id):
            correlator.resolve(request_id, 1)
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

        task = asyncio.create_task(correlator.correlate("a", send=send))
        await asyncio.wait([task])
        assert task.cancelled()


# -- other people's deadlines --------------------------------------------------------------------


@HANGING
@BOTH_ORDERS
async def test_an_anyio_scope_around_ends_in_the_turn_in_which_the_send_is_interrupted(send, first):
    """The scope keeps its own cancellation to itself, and the caller goes on."""
    async with opened() as (correlator, witness):

        async def caller():
            with anyio.CancelScope() as scope:
                asyncio.get_running_loop().call_later(
                    0.1, in_order, first, scope.cancel, lambda: expire(correlator)
                )
                await correlator.correlate("a", send=send)
            return "after the scope"

        ended = await settles(caller())
        assert ended == "after the scope" or (not first and isinstance(ended, RequestTimeout))
        assert witness.settled_[0].outcome is Outcome.TIMED_OUT


@BOTH_ORDERS
@pytest.mark.parametrize("later", range(3))
async def test_a_scope_around_knows_its_own_cancellation_when_it_meets_ours(first, later):
    """Two cancellations of a task that is just about to run: the scope must still know its own."""
    async with opened() as (correlator, _):
        loop = asyncio.get_running_loop()

        async def caller():
            with anyio.CancelScope() as scope:

                async def sends(_request_id):
                    in_order(
                        first, lambda: loop.call_soon(scope.cancel), lambda: expire(correlator)
                    )
                    await turns(later)
                    await asyncio.sleep(0)
                    await asyncio.sleep(1e6)

                await correlator.correlate("a", send=sends)
            return "after the scope"

        ended = await settles(caller())
        assert ended == "after the scope" or (not first and isinstance(ended, RequestTimeout))


@HANGING
@BOTH_ORDERS
async def test_an_anyio_scope_in_the_send_ends_in_the_turn_of_the_interruption(send, first):
    """The scope in the send does not hold up the interruption: the timeout comes at once."""
    async with opened() as (correlator, _):
        loop = asyncio.get_running_loop()

        async def sends(request_id):
            with anyio.CancelScope() as scope:
                loop.call_later(0.1, in_order, first, scope.cancel, lambda: expire(correlator))
                await send(request_id)
            await send(request_id)

        assert isinstance(await settles(correlator.correlate("a", send=sends)), RequestTimeout)
        assert loop.time() < 1_010


@HANGING
@BOTH_ORDERS
@pytest.mark.parametrize("inside", [True, False], ids=["in the send", "around"])
async def test_an_asyncio_timeout_ends_in_the_turn_of_the_interruption(send, first, inside):
    """`asyncio.timeout`, around the call or in its send, tells its own expiry from ours."""
    async with opened() as (correlator, _):
        loop = asyncio.get_running_loop()

        async def limited(coro):
            async with asyncio.timeout(1e6) as limit:
                loop.call_later(
                    0.1, in_order, first, lambda: limit.reschedule(0.0), lambda: expire(correlator)
                )
                await coro

        if inside:
            call = correlator.correlate("a", send=lambda request_id: limited(send(request_id)))
        else:
            call = limited(correlator.correlate("a", send=send))
        assert isinstance(await settles(call), TimeoutError)
        assert loop.time() < 1_010


LIMITS = (anyio.fail_after, asyncio.timeout, None)


@pytest.mark.parametrize(
    ("send", "around", "within"),
    [
        each
        for each in product((on_a_future, on_turns, on_a_task, and_tidies_up), LIMITS, LIMITS)
        # These two alone, without us, lose track of each other's cancellations.
        if each != (on_turns, anyio.fail_after, asyncio.timeout)
    ],
)
async def test_deadlines_that_agree_to_the_microsecond(send, around, within):
    """A scope around, the request and a scope in the send may all end at once: it is a timeout."""
    loop = asyncio.get_running_loop()

    @asynccontextmanager
    async def limit(kind, seconds):
        if kind is None:
            yield
        elif kind is anyio.fail_after:
            with kind(seconds):
                yield
        else:
            async with kind(seconds):
                yield

    async with opened(resolution=0.5) as (correlator, _):
        # From a whole second on, a request of 0.6 s ends with its slot, 0.75 s later.
        async def sends(request_id):
            assert correlator._store.leaves_at(request_id) == loop.time() + 0.75
            async with limit(within, 0.75):
                await send(request_id)

        async def caller():
            async with limit(around, 0.75):
                await correlator.correlate("a", send=sends, timeout=0.6)

        assert isinstance(await settles(caller()), TimeoutError)
        late = loop.time() - 1_000.75
        assert late == 0 if send is not on_turns else 0 <= late < 0.1  # it holds the loop itself


@HANGING
async def test_wait_for_around_a_call_ends_in_the_turn_of_the_interruption(send):
    """`asyncio.wait_for` and the request may expire at once: the caller gets a timeout."""
    async with opened() as (correlator, _):
        loop = asyncio.get_running_loop()
        loop.call_later(1.0, lambda: expire(correlator) if len(correlator) else None)
        call = asyncio.wait_for(correlator.correlate("a", send=send), 1.0)
        assert isinstance(await settles(call), TimeoutError)


@HANGING
@BOTH_ORDERS
@pytest.mark.parametrize("place", ["child", "parent"])
async def test_a_sibling_fails_in_the_turn_of_the_interruption(send, first, place):
    """The TaskGroup reports what failed, and no more; the request is gone."""
    async with opened() as (correlator, _):
        loop = asyncio.get_running_loop()
        fails = loop.create_future()

        async def sibling():
            await fails
            raise SendFailed

        async def caller():
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(sibling())
                loop.call_later(
                    0.1, in_order, first, lambda: fails.set_result(None), lambda: expire(correlator)
                )
                call = correlator.correlate("a", send=send)
                await (tasks.create_task(call) if place == "child" else call)

        error = await settles(caller())
        assert isinstance(error, ExceptionGroup)
        assert {type(it) for it in error.exceptions} <= {SendFailed, RequestTimeout}
        assert SendFailed in {type(it) for it in error.exceptions}


@HANGING
async def test_closing_in_the_turn_of_an_expiry_leaves_nobody_waiting(send):
    """Whoever is in his send when all is closed gets `CorrelatorClosed`, and no cancellation."""
    async with opened() as (correlator, _):
        calls = [settles(correlator.correlate(name, send=send)) for name in "abc"]
        tasks = [asyncio.create_task(call) for call in calls]
        await turns(2)
        await correlator.aclose()
        errors = await asyncio.gather(*tasks)
        assert [type(error) for error in errors] == [CorrelatorClosed] * 3
