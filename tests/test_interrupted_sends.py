"""Sends that handle cancellations of their own, and what becomes of ours in them."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from correlator import RequestTimeout

from .clock import turns
from .sweep import (
    Abort,
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


@pytest.mark.parametrize("later", range(4))
async def test_a_send_that_loses_its_interruption_in_wait_for_is_interrupted_again(later):
    """`wait_for` of 3.11 may swallow an interruption; what hangs after it ends all the same."""
    async with opened() as (correlator, _):
        loop = asyncio.get_running_loop()
        answered = asyncio.Event()

        async def sends(_request_id):
            await asyncio.wait_for(answered.wait(), 1e6)
            await asyncio.sleep(1e6)

        async def ends():
            await asyncio.sleep(0.1)
            answered.set()
            await turns(later)
            expire(correlator)

        ending = asyncio.create_task(ends())
        error = await settles(correlator.correlate("a", send=sends))
        assert isinstance(error, RequestTimeout)
        assert loop.time() < 1_010, "the caller hung beyond his deadline"
        await ending


async def test_a_task_group_that_failed_in_a_send_misleads_us_no_more_than_asyncio():
    """CPython 3.11 may leave a count in `Task.cancelling()`: we do as `asyncio.timeout` does."""

    async def fails():
        await asyncio.sleep(0.1)
        raise SendFailed

    async def sends(_request_id):
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fails())
        except* SendFailed:
            await asyncio.sleep(1e6)

    async def theirs():
        async with asyncio.timeout(1.0):
            await sends("a")

    async with opened() as (correlator, _):
        tasks = [
            asyncio.create_task(it) for it in (theirs(), correlator.correlate("a", send=sends))
        ]
        await asyncio.wait(tasks)
        assert tasks[0].cancelled() is tasks[1].cancelled()
        if not tasks[1].cancelled():
            assert isinstance(tasks[0].exception(), TimeoutError)
            assert isinstance(tasks[1].exception(), RequestTimeout)


@BOTH_ORDERS
async def test_a_scope_around_knows_its_own_cancellation_from_a_send_that_failed_of_it(first):
    """Cancelled by a scope and interrupted, a send raises an error: the scope ends all the same."""
    async with opened() as (correlator, _):
        loop = asyncio.get_running_loop()

        async def caller():
            with anyio.CancelScope() as scope:

                async def sends(request_id):
                    loop.call_later(0.1, in_order, first, scope.cancel, lambda: expire(correlator))
                    try:
                        await on_a_future(request_id)
                    except asyncio.CancelledError:
                        raise SendFailed from None

                await correlator.correlate("a", send=sends)
            return "after the scope"

        assert await settles(caller()) == "after the scope"


@pytest.mark.parametrize("ended", [True, False], ids=["interrupted too", "not interrupted"])
async def test_a_send_that_turns_a_cancellation_into_an_error_hides_it_from_nobody(ended):
    """Answered, cancelled, and the send raises an error instead: the caller ends cancelled."""
    async with opened() as (correlator, witness):

        async def sends(request_id):
            correlator.resolve(request_id, 1)
            try:
                await asyncio.sleep(1e6)
            except asyncio.CancelledError:
                raise SendFailed from None

        loop = asyncio.get_running_loop()
        task = asyncio.create_task(correlator.correlate("a", send=sends, timeout=0.5))
        await turns(2)
        [pending] = witness.registered_
        # Or in the very turn of the interruption, which comes at the deadline.
        loop.call_at(pending.deadline if ended else loop.time() + 0.1, task.cancel)
        await asyncio.wait([task])
        assert task.cancelling() == 1
        assert task.cancelled(), "the cancellation was swallowed"


async def test_a_cancellation_that_a_send_kept_to_itself_reaches_the_caller_at_once():
    async with opened() as (correlator, _):

        async def sends(request_id):
            try:
                await on_a_future(request_id)
            except asyncio.CancelledError:
                raise SendFailed from None

        loop = asyncio.get_running_loop()
        task = asyncio.create_task(correlator.correlate("a", send=sends))
        await turns(2)
        expire(correlator)
        task.cancel()
        cancelled_at = loop.time()
        await asyncio.wait([task])
        assert task.cancelled()
        assert loop.time() == cancelled_at


async def test_what_is_no_exception_goes_through_an_interrupted_send():
    """SystemExit and its like come out of a send, also one interrupted and cancelled at once."""
    async with opened() as (correlator, _):

        async def sends(_request_id):
            try:
                await asyncio.sleep(1e6)
            except asyncio.CancelledError:
                raise Abort from None

        task = asyncio.create_task(correlator.correlate("a", send=sends))
        await turns(2)
        expire(correlator)
        await turns(1)
        task.cancel()
        await asyncio.wait([task])
        assert not task.cancelled(), "SystemExit became a cancellation"
        assert isinstance(task.exception(), Abort)


@HANGING
async def test_a_cancelled_task_that_goes_on_may_use_requests_in_its_clean_up(send):
    """A cancellation that stood before the call is neither taken back nor taken for a new one."""
    async with opened() as (correlator, _):

        async def caller():
            try:
                await asyncio.sleep(1e6)
            except asyncio.CancelledError:
                error = await settles(correlator.correlate("a", send=send))
                assert isinstance(error, RequestTimeout)
                raise

        task = asyncio.create_task(caller())
        await turns(2)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert task.cancelling() == 1


@pytest.mark.parametrize("fails", [True, False])
async def test_a_task_group_that_fails_in_an_answered_send_does_not_cancel_the_caller(fails):
    """The reply came while it was sent; what the send's own TaskGroup does is no cancellation."""
    async with opened() as (correlator, _):

        async def publish_twice(request_id):
            correlator.resolve(request_id, "the reply")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(asyncio.sleep(0.2))
                if fails:
                    tasks.create_task(fail())

        async def fail():
            await asyncio.sleep(0.1)
            raise SendFailed

        task = asyncio.create_task(correlator.correlate("a", send=publish_twice))
        await asyncio.wait([task])
        assert not task.cancelled(), "a cancellation was invented"
        assert task.result() == "the reply"
