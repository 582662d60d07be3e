"""Sends: covered by the deadline, interrupted when the request is over, and never lost sight of."""

import asyncio

import anyio
import pytest

from correlator import (
    CapacityExceeded,
    CorrelationError,
    Correlator,
    CorrelatorClosed,
    Disposition,
    RequestTimeout,
)

from .clock import elapse, turns
from .conftest import balanced

pytestmark = pytest.mark.virtual_time


@pytest.fixture
async def correlator():
    async with Correlator(timeout=5.0) as correlator:
        yield correlator
    balanced(correlator)


def time():
    return asyncio.get_running_loop().time()


async def forever():
    await asyncio.get_running_loop().create_future()


class Send:
    """A send that registers what befalls it, and hangs at the end if it is to."""

    def __init__(self, *, hangs=False, before=None):
        self.hangs, self.before = hangs, before
        self.ids, self.interrupted, self.finished = [], 0, 0

    async def __call__(self, request_id):
        self.ids.append(request_id)
        try:
            if self.before is not None:
                self.before(request_id)
            if self.hangs:
                await forever()
        except asyncio.CancelledError:
            self.interrupted += 1
            raise
        self.finished += 1


async def test_a_request_is_registered_before_it_is_sent(correlator):
    """Law 8: the reply may come while the send still runs."""
    send = Send(before=lambda request_id: correlator.resolve(request_id, "at once"))
    assert await correlator.correlate("a", send=send) == "at once"
    assert (send.ids, send.finished) == (["a"], 1)


async def test_a_send_that_hangs_is_interrupted_at_the_deadline(correlator):
    """Law 12."""
    send, start = Send(hangs=True), time()
    with pytest.raises(RequestTimeout) as error:
        await correlator.correlate("a", send=send, timeout=2.0)
    assert 2.0 <= time() - start <= 2.06
    assert send.interrupted == 1
    assert error.value.request_id == "a"
    assert asyncio.current_task().cancelling() == 0
    assert balanced(correlator).timed_out == 1


async def test_a_send_that_fails_ends_the_request_with_its_own_error(correlator):
    failure = ConnectionError("refused")

    async def send(request_id):
        raise failure

    with pytest.raises(ConnectionError) as error:
        await correlator.correlate("a", send=send)
    assert error.value is failure
    assert correlator.resolve("a", 1) is Disposition.LATE
    assert balanced(correlator).cancelled == 1


@pytest.mark.parametrize("send", [lambda request_id: None, lambda request_id: 1 / 0, lambda: None])
async def test_a_send_that_is_no_coroutine_function_ends_the_request_too(correlator, send):
    with pytest.raises((TypeError, ZeroDivisionError)):
        await correlator.correlate("a", send=send)
    assert balanced(correlator).cancelled == 1


async def test_any_awaitable_may_send(correlator):
    def send(request_id):
        return asyncio.ensure_future(asyncio.sleep(0, correlator.resolve(request_id, 7)))

    assert await correlator.correlate(send=send) == 7


async def test_a_send_that_swallows_the_interruption_changes_nothing(correlator):
    async def stubborn(request_id):
        try:
            await forever()
        except asyncio.CancelledError:
            await turns(3)  # and goes on to the end, as if nothing had been

    with pytest.raises(RequestTimeout):
        await correlator.correlate(send=stubborn, timeout=1.0)
    assert asyncio.current_task().cancelling() == 0
    await turns(3)


async def test_a_send_that_goes_on_in_spite_of_an_interruption_gets_another(correlator):
    """Law 12: `asyncio.wait_for` can lose a cancellation (python/cpython#86296), and others can."""
    lost = []

    async def send(request_id):
        while len(lost) < 3:
            try:
                await forever()
            except asyncio.CancelledError:
                lost.append(request_id)
        await forever()

    start = time()
    with pytest.raises(RequestTimeout):
        await correlator.correlate(send=send, timeout=1.0)
    assert len(lost) == 3
    assert time() - start < 10.0
    assert asyncio.current_task().cancelling() == 0
    await elapse(10.0)


async def test_a_send_that_turns_the_interruption_into_an_error_changes_nothing(correlator, caplog):
    """The request is over, and that is what its caller gets; the error is logged, by type only."""

    async def send(request_id):
        try:
            await forever()
        except asyncio.CancelledError:
            raise ConnectionError("canary") from None

    with pytest.raises(RequestTimeout):
        await correlator.correlate("a", send=send, timeout=1.0)
    assert [record.getMessage() for record in caplog.records] == [
        "the send of request 'a' failed with ConnectionError after the request was timed_out"
    ]
    assert "canary" not in caplog.text


async def test_a_send_that_fails_after_the_reply_came_costs_no_reply(correlator, caplog):
    async def send(request_id):
        correlator.resolve(request_id, "reply")
        raise ConnectionError

    assert await correlator.correlate(send=send) == "reply"
    assert "failed with ConnectionError after the request was resolved" in caplog.text


async def test_a_send_may_go_on_after_the_reply_came_to_its_own_end(correlator):
    """Cutting it off could spoil the connection it uses."""
    start = time()

    async def send(request_id):
        correlator.resolve(request_id, "reply")
        await elapse(3.0)

    assert await correlator.correlate(send=send, timeout=5.0) == "reply"
    assert time() - start == pytest.approx(3.0)


async def test_a_send_that_hangs_after_the_reply_came_is_interrupted_at_the_deadline(correlator):
    send = Send(hangs=True, before=lambda request_id: correlator.resolve(request_id, "reply"))
    start = time()
    assert await correlator.correlate(send=send, timeout=2.0) == "reply"
    assert time() - start == pytest.approx(2.0)
    assert send.interrupted == 1
    assert asyncio.current_task().cancelling() == 0


async def test_a_send_is_interrupted_when_its_request_is_rejected_or_closed(correlator):
    group = correlator.group("g")
    ends = {
        "rejected": (LookupError, lambda: correlator.reject("rejected", LookupError())),
        "group": (CorrelatorClosed, group.close),
        "closed": (CorrelatorClosed, lambda: asyncio.ensure_future(correlator.aclose())),
    }
    for name, (kind, end) in ends.items():
        send, start = Send(hangs=True), time()
        source = group if name == "group" else correlator
        task = asyncio.create_task(source.correlate(name, send=send))
        await turns(2)
        end()
        with pytest.raises(kind):
            await task
        assert time() == start
        assert send.interrupted == 1


async def test_a_caller_that_is_cancelled_while_sending_sees_his_cancellation(correlator):
    """Law 10; and the request is gone at once (law 3)."""
    send = Send(hangs=True)
    task = asyncio.create_task(correlator.correlate("a", send=send))
    await turns(2)
    task.cancel()
    await turns(1)
    assert "a" not in correlator
    with pytest.raises(asyncio.CancelledError):
        await task
    assert send.interrupted == 1
    assert balanced(correlator).cancelled == 1


@pytest.mark.parametrize("then", ["passes it on", "swallows it", "fails"])
@pytest.mark.parametrize("first", ["caller", "request"])
async def test_a_caller_cancelled_in_the_turn_of_the_end_sees_his_cancellation(
    correlator, first, then
):
    """Law 10: two cancellations, ours and his, and his is not mistaken for ours."""

    async def send(request_id):
        try:
            await forever()
        except asyncio.CancelledError:
            if then == "passes it on":
                raise
            if then == "fails":
                raise ConnectionError from None

    task = asyncio.create_task(correlator.correlate("a", send=send))
    await turns(2)
    if first == "caller":
        task.cancel()
    correlator.reject("a", LookupError())
    if first == "request":
        asyncio.get_running_loop().call_soon(task.cancel)
    # A cancellation that reached the send alone, and was swallowed there, nobody can see any more.
    by_send = first == "caller" and then == "swallows it"
    with pytest.raises(LookupError if by_send else asyncio.CancelledError):
        await task
    assert balanced(correlator).rejected == 1


async def test_a_reply_in_the_turn_of_a_cancellation_does_not_swallow_it(correlator):
    """Law 10, python/cpython#86296."""
    task = asyncio.create_task(correlator.correlate("a"))
    await turns(2)
    correlator.resolve("a", 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert balanced(correlator).resolved == 1


async def test_a_timeout_of_the_callers_own_is_his(correlator):
    for own, ours in ((1.0, 5.0), (5.0, 1.0), (1.0, 1.0)):
        start = time()
        with pytest.raises(TimeoutError) as error:
            async with asyncio.timeout(own):
                await correlator.correlate(send=Send(hangs=True), timeout=ours)
        assert time() - start <= 1.06
        assert asyncio.current_task().cancelling() == 0
        if own != ours:
            assert isinstance(error.value, RequestTimeout) == (ours < own)


async def test_a_timeout_inside_the_send_is_the_sends(correlator):
    for own, ours in ((1.0, 5.0), (5.0, 1.0), (1.0, 1.0), (1.025, 1.0)):

        async def send(request_id, own=own):
            async with asyncio.timeout(own):
                await forever()

        with pytest.raises(TimeoutError) as error:
            await correlator.correlate(send=send, timeout=ours)
        assert asyncio.current_task().cancelling() == 0
        if abs(own - ours) > 0.1:
            assert isinstance(error.value, RequestTimeout) == (ours < own)


async def test_anyio_scopes_around_and_inside_keep_their_meaning(correlator):
    async def send(request_id):
        with anyio.move_on_after(1.0) as inner:
            await forever()
        assert inner.cancelled_caught
        async with anyio.create_task_group() as group:
            group.start_soon(forever)
            await forever()

    start = time()
    with pytest.raises(RequestTimeout):
        await correlator.correlate(send=send, timeout=3.0)
    assert 3.0 <= time() - start <= 3.06
    with anyio.move_on_after(2.0) as outer:
        await correlator.correlate(send=send, timeout=60.0)
    assert outer.cancelled_caught
    assert asyncio.current_task().cancelling() == 0
    stats = balanced(correlator)
    assert (stats.timed_out, stats.cancelled) == (1, 1)
    await elapse(0.1)


async def test_a_shielded_send_is_interrupted_all_the_same(correlator):
    async def send(request_id):
        with anyio.CancelScope(shield=True):
            await forever()

    with pytest.raises(RequestTimeout):
        await correlator.correlate(send=send, timeout=1.0)


@pytest.mark.parametrize("inner_timeout", [1.0, 3.0, 60.0])
async def test_a_send_may_itself_correlate(correlator, inner_timeout):
    """The inner request has the outer one's time, and the outer's end is not the inner's."""
    inner = []

    async def send(request_id):
        try:
            await correlator.correlate(send=Send(hangs=True), timeout=inner_timeout)
        except BaseException as error:
            inner.append(type(error))
            raise

    start = time()
    with pytest.raises(RequestTimeout) as error:
        await correlator.correlate("outer", send=send, timeout=3.0)
    assert time() - start <= 3.06
    if inner_timeout < 3.0:
        assert inner == [RequestTimeout]
        assert error.value.request_id != "outer"
    else:
        assert error.value.request_id == "outer"
    assert asyncio.current_task().cancelling() == 0
    assert len(correlator) == 0


async def test_no_interruption_is_left_over_for_what_the_caller_does_next(correlator):
    """Sends that end in the turn of the interruption, at each of a few turns after the end."""
    for after in range(5):

        async def send(request_id, after=after):
            asyncio.get_running_loop().call_soon(correlator.reject, request_id, LookupError())
            await turns(after)

        with pytest.raises(LookupError):
            await correlator.correlate(send=send)
        assert asyncio.current_task().cancelling() == 0
        await turns(3)


async def test_a_refused_request_sends_nothing():
    """Law 5."""
    send = Send()
    async with Correlator(max_pending=1) as correlator:
        with correlator.register("a"):
            with pytest.raises(CapacityExceeded):
                await correlator.correlate(send=send)
            with pytest.raises(CorrelationError):
                await correlator.correlate("a", send=send)
            await correlator.drain(0.1)
            with pytest.raises(CorrelatorClosed):
                await correlator.correlate(send=send)
    with pytest.raises(CorrelatorClosed):
        await correlator.correlate(send=send)
    assert not send.ids


async def test_an_error_that_is_no_exception_passes_and_ends_the_request(correlator):
    class Abort(BaseException): ...

    async def send(request_id):
        raise Abort

    with pytest.raises(Abort):
        await correlator.correlate(send=send)
    assert balanced(correlator).cancelled == 1
