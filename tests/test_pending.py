"""Pending: one request's life, as whoever registered it sees it."""

import asyncio

import pytest

from correlator import (
    CorrelationError,
    Correlator,
    CorrelatorClosed,
    Disposition,
    Outcome,
    RequestTimeout,
)

from .clock import elapse, turns
from .conftest import balanced

pytestmark = pytest.mark.virtual_time


def start(awaitable):
    async def wait():
        return await awaitable

    return asyncio.create_task(wait())


async def test_a_pending_shows_what_it_was_registered_with(correlator):
    context, group = object(), correlator.group("g")
    pending = group.register("a", timeout=4.0, context=context, size=7)
    now = asyncio.get_running_loop().time()
    assert pending.request_id == "a"
    assert pending.context is context
    assert pending.size == 7
    assert pending.group is group
    assert (pending.timeout, pending.deadline) == (4.0, now + 4.0)
    assert pending.outcome is None
    assert correlator.register().group is None


async def test_age_and_remaining_run_while_it_is_pending_and_stop_at_its_end(correlator):
    pending = correlator.register(timeout=4.0)
    assert (pending.age, pending.remaining) == (0.0, 4.0)
    await elapse(1.0)
    assert pending.age == pytest.approx(1.0)
    assert pending.remaining == pytest.approx(3.0)
    correlator.resolve(pending.request_id, None)
    await elapse(10.0)
    assert pending.age == pytest.approx(1.0)
    assert pending.remaining == 0.0


async def test_remaining_is_never_negative_and_the_info_tells_how_late_it_is(correlator):
    pending = correlator.register("a", timeout=1.0)
    asyncio.get_running_loop().stall(5.0)
    assert pending.remaining == 0.0
    assert correlator.pending()[0].remaining <= 0.0
    await elapse(0.1)
    assert pending.outcome is Outcome.TIMED_OUT


async def test_awaiting_gives_the_response_as_often_as_asked(correlator):
    response = object()
    pending = correlator.register("a")
    waiting = start(pending)
    await turns(2)
    assert correlator.resolve("a", response) is Disposition.MATCHED
    assert pending.outcome is Outcome.RESOLVED, "before anybody else runs"
    assert "a" not in correlator
    assert await waiting is response
    assert await pending is response
    assert await pending is response


@pytest.mark.parametrize("response", [None, False, 0, ValueError("a value here")])
async def test_any_object_may_be_a_response(correlator, response):
    pending = correlator.register("a")
    correlator.resolve("a", response)
    assert await pending is response


async def test_several_may_await_it_and_each_gets_the_response(correlator):
    pending = correlator.register("a")
    waiting = [start(pending) for _ in range(5)]
    await turns(2)
    correlator.resolve("a", 7)
    assert await asyncio.gather(*waiting) == [7] * 5


async def test_one_of_several_that_is_cancelled_takes_nobody_with_it(correlator):
    pending = correlator.register("a")
    first, second = start(pending), start(pending)
    await turns(2)
    first.cancel()
    await turns(2)
    assert first.cancelled()
    assert pending.outcome is None
    correlator.resolve("a", 7)
    assert await second == 7


async def test_the_last_that_waits_ends_it_by_leaving(correlator):
    pending = correlator.register("a")
    tasks = [start(pending) for _ in range(3)]
    await turns(2)
    for task in tasks:
        assert pending.outcome is None
        task.cancel()
        await turns(1)
    assert pending.outcome is Outcome.CANCELLED
    assert correlator.resolve("a", 7) is Disposition.LATE
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert balanced(correlator).cancelled == 1


async def test_a_coroutine_that_is_closed_while_it_waits_ends_it(correlator):
    coroutine = correlator.correlate("a")
    coroutine.send(None)
    assert "a" in correlator
    coroutine.close()
    assert balanced(correlator).cancelled == 1


async def test_cancel_ends_it_once_and_is_no_cancellation_of_who_waits(correlator):
    pending = correlator.register("a")
    waiting = start(pending)
    await turns(2)
    assert pending.cancel() is True
    assert pending.cancel() is False
    assert pending.outcome is Outcome.CANCELLED
    with pytest.raises(CorrelationError, match="'a' was cancelled before a response") as error:
        await waiting
    assert type(error.value) is CorrelationError
    assert (error.value.request_id, error.value.timeout) == ("a", 30.0)
    assert balanced(correlator).cancelled == 1


async def test_leaving_its_block_ends_it(correlator):
    with correlator.register("a") as pending:
        assert "a" in correlator
    assert pending.outcome is Outcome.CANCELLED
    with pytest.raises(LookupError), correlator.register("b") as pending:
        raise LookupError
    assert pending.outcome is Outcome.CANCELLED
    assert balanced(correlator).cancelled == 2


async def test_leaving_its_block_after_its_end_changes_nothing(correlator):
    with correlator.register("a") as pending:
        correlator.resolve("a", 7)
        assert await pending == 7
    assert pending.outcome is Outcome.RESOLVED
    stats = balanced(correlator)
    assert (stats.resolved, stats.cancelled) == (1, 0)


async def test_a_block_entered_twice_is_left_twice_without_another_error(correlator):
    with pytest.raises(LookupError), correlator.register("a") as pending, pending:
        raise LookupError
    assert pending.outcome is Outcome.CANCELLED


async def test_a_timeout_is_an_error_of_ours_and_a_timeout_error(correlator):
    pending = correlator.register("a", timeout=2.0)
    with pytest.raises(TimeoutError) as error:
        await pending
    assert type(error.value) is RequestTimeout
    assert str(error.value) == "request 'a' got no response in 2 s"
    assert (error.value.request_id, error.value.timeout) == ("a", 2.0)
    assert 2.0 <= error.value.age <= 2.06
    assert pending.outcome is Outcome.TIMED_OUT


async def test_a_rejection_raises_the_error_given_once_and_fresh_copies_after(correlator):
    """An exception raised to several collects the traceback of each, and keeps their frames."""
    given = LookupError("no such order")
    pending = correlator.register("a")
    waiting = [start(pending) for _ in range(3)]
    await turns(2)
    assert correlator.reject("a", given) is Disposition.MATCHED
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    with pytest.raises(LookupError) as last:
        await pending
    errors.append(last.value)
    assert errors[0] is given
    assert [str(error) for error in errors] == ["no such order"] * 4
    assert len({id(error) for error in errors}) == 4
    assert pending.outcome is Outcome.REJECTED


async def test_one_error_may_reject_many_and_collects_the_frames_of_none_but_the_first(correlator):
    given = LookupError("the link is gone")  # as one that a module keeps

    def frames():
        traceback, count = given.__traceback__, 0
        while traceback is not None:
            traceback, count = traceback.tb_next, count + 1
        return count

    errors, counts = [], []
    for number in range(50):
        waiting = start(correlator.register(number) if number % 2 else correlator.correlate(number))
        await turns(1)
        correlator.reject(number, given)
        errors.append((await asyncio.gather(waiting, return_exceptions=True))[0])
        counts.append(frames())
    assert len(set(map(id, errors))) == 50
    assert {str(error) for error in errors} == {"the link is gone"}
    assert counts == [counts[0]] * 50


class Picky(Exception):
    def __new__(cls, *, code):
        return super().__new__(cls)

    def __init__(self, *, code):
        super().__init__(f"code {code}")


@pytest.mark.parametrize(
    "given",
    [Picky(code=7), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), RequestTimeout("upstream")],
    ids=lambda error: type(error).__name__,
)
async def test_any_exception_reaches_everybody_who_waits(correlator, given):
    text = str(given)
    pending = correlator.register("a")
    correlator.reject("a", given)
    for _ in range(3):
        with pytest.raises(type(given)) as error:
            await pending
        assert str(error.value) == text


async def test_closing_ends_it_with_an_error_that_says_so():
    async with Correlator(name="orders") as correlator:
        pending = correlator.register("a", timeout=5.0)
        await elapse(1.5)
    assert pending.outcome is Outcome.CLOSED
    with pytest.raises(CorrelatorClosed, match="'a': correlator 'orders' was closed") as error:
        await pending
    assert error.value.request_id == "a"


async def test_the_error_of_a_closed_request_knows_age_and_timeout():
    """They are known wherever a request was registered."""
    async with Correlator() as correlator:
        group = correlator.group("g")
        by_group, by_correlator = group.register("a", timeout=5.0), correlator.register(timeout=5.0)
        await elapse(1.5)
        group.close()
    for pending in (by_group, by_correlator):
        with pytest.raises(CorrelatorClosed) as error:
            await pending
        assert error.value.request_id == pending.request_id
        assert error.value.age == pytest.approx(1.5)
        assert error.value.timeout == 5.0


async def test_its_repr_tells_state_and_age_and_nothing_secret(correlator):
    pending = correlator.register("a", timeout=4.0, context="canary-context")
    await elapse(1.0)
    assert repr(pending) == "<Pending 'a' pending, 3 s left, age 1 s>"
    correlator.resolve("a", "canary-response")
    assert repr(pending) == "<Pending 'a' resolved, age 1 s>"
    other = correlator.register("b\n" * 1_000)
    assert "\n" not in repr(other)
    assert len(repr(other)) < 250


async def test_a_pending_that_nobody_awaits_reports_nothing(correlator, caplog):
    """Law 15, for each outcome; `loop_reports` looks for what is found only on destruction."""
    for end in ("resolve", "reject", "cancel", "time out", "group", "close"):
        group = correlator.group(end)
        pending = group.register(end, timeout=1.0)
        match end:
            case "resolve":
                correlator.resolve(end, 1)
            case "reject":
                correlator.reject(end, ValueError("nobody looks"))
            case "cancel":
                pending.cancel()
            case "time out":
                await elapse(2.0)
            case "group":
                group.close(ValueError("nobody looks"))
        del pending
    await correlator.aclose()
    await turns(3)
    assert not caplog.records
