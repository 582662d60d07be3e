"""The ambient request id and deadline: set for a block, put back afterwards, holding no pending."""

import asyncio
import contextvars

import pytest

from correlator import (
    PendingRef,
    RequestTimeout,
    current_deadline,
    current_pending,
    current_request_id,
    remaining_time,
    request_scope,
)

from .clock import elapse
from .conftest import balanced

pytestmark = pytest.mark.virtual_time


def time():
    return asyncio.get_running_loop().time()


def nothing_is_ambient():
    return (
        current_request_id() is None
        and current_pending() is None
        and current_deadline() is None
        and remaining_time() is None
    )


def test_outside_a_request_there_is_nothing_and_no_loop_is_needed():
    assert nothing_is_ambient()


async def test_a_scope_sets_id_and_deadline_and_puts_them_back():
    with request_scope("a", timeout=5.0):
        assert current_request_id() == "a"
        assert current_deadline() == time() + 5.0
        assert remaining_time() == 5.0
        assert current_pending() is None
        with request_scope("b"):
            assert current_request_id() == "b"
            assert remaining_time() == 5.0
        with request_scope(timeout=2.0):
            assert current_request_id() == "a"
            assert remaining_time() == 2.0
        assert (current_request_id(), remaining_time()) == ("a", 5.0)
    assert nothing_is_ambient()


async def test_a_scope_can_only_shorten_the_deadline():
    with request_scope(timeout=2.0), request_scope(timeout=60.0):
        assert remaining_time() == 2.0


async def test_a_scope_is_put_back_when_its_block_raises():
    with pytest.raises(LookupError), request_scope("a", timeout=1.0):
        raise LookupError
    assert nothing_is_ambient()


async def test_the_remaining_time_runs_down_to_nothing():
    with request_scope(timeout=2.0):
        await elapse(0.5)
        assert remaining_time() == pytest.approx(1.5)
        await elapse(5.0)
        assert remaining_time() == 0.0


def test_the_remaining_time_needs_a_loop_where_there_is_a_deadline():
    async def scoped():
        with request_scope(timeout=1.0):
            return contextvars.copy_context()

    context = asyncio.run(scoped())
    with pytest.raises(RuntimeError, match="no running event loop"):
        context.run(remaining_time)


async def test_a_request_gets_no_more_time_than_its_scope_has_left(correlator):
    with request_scope(timeout=3.0):
        await elapse(1.0)
        pending = correlator.register(timeout=60.0)
        assert pending.remaining == pytest.approx(2.0)
        shorter = correlator.register(timeout=1.0)
        assert shorter.remaining == pytest.approx(1.0)
        start = time()
        with pytest.raises(RequestTimeout):
            await correlator.correlate()
        assert 2.0 <= time() - start <= 2.06


async def test_a_request_after_the_ambient_deadline_is_refused_and_sends_nothing(correlator):
    sent = []

    async def send(request_id):
        sent.append(request_id)

    with request_scope(timeout=1.0):
        await elapse(1.0)
        with pytest.raises(RequestTimeout, match="nothing was registered or sent"):
            correlator.register("a")
        with pytest.raises(RequestTimeout) as error:
            await correlator.correlate("a", send=send)
    assert error.value.request_id == "a"
    assert not sent
    stats = balanced(correlator)
    assert (stats.registered, stats.refused) == (0, 2)


async def test_a_pendings_block_makes_it_the_one_at_hand(correlator):
    with request_scope("trace"), correlator.register("a", timeout=4.0) as pending:
        assert current_pending() == PendingRef("a", pending.deadline)
        assert current_request_id() == "trace", "the id for logs is another than the key"
        assert remaining_time() == 4.0
        with correlator.register("b", timeout=60.0) as inner:
            assert current_pending() == PendingRef("b", inner.deadline)
            assert inner.deadline == pending.deadline
        assert current_pending() == PendingRef("a", pending.deadline)
    assert nothing_is_ambient()


async def test_the_pending_at_hand_keeps_its_own_deadline_in_a_shorter_scope(correlator):
    with correlator.register("a", timeout=4.0) as pending, request_scope(timeout=1.0):
        assert remaining_time() == 1.0
        assert current_pending() == PendingRef("a", pending.deadline)


async def test_a_send_runs_with_its_pending_at_hand(correlator):
    seen = []

    async def send(request_id):
        seen.append((request_id, current_pending(), remaining_time()))
        correlator.resolve(request_id, "done")

    assert await correlator.correlate("a", send=send, timeout=4.0) == "done"
    assert seen == [("a", PendingRef("a", time() + 4.0), 4.0)]
    assert nothing_is_ambient()


async def test_a_failed_send_puts_the_context_back(correlator):
    async def send(request_id):
        raise LookupError

    with pytest.raises(LookupError):
        await correlator.correlate(send=send)
    assert nothing_is_ambient()


async def test_a_task_inherits_the_scope_and_changes_nothing_outside():
    async def child():
        inherited = current_request_id()
        with request_scope("child"):
            return inherited, current_request_id()

    with request_scope("parent"):
        assert await asyncio.create_task(child()) == ("parent", "child")
        assert current_request_id() == "parent"


async def test_a_block_may_be_left_in_another_context_than_it_was_entered_in(correlator):
    """As a fixture or an async generator may do: there is nothing to put back, and no error."""
    pending = correlator.register("a")
    contextvars.Context().run(pending.__enter__)
    assert current_pending() is None
    pending.__exit__(None, None, None)
    assert nothing_is_ambient()
    assert len(correlator) == 0


async def test_a_scope_is_for_one_block():
    """Else one that is kept in a variable would put back for one task what was another's."""
    scope = request_scope("a")
    with scope:
        with pytest.raises(RuntimeError, match="make a new one"), scope:
            raise AssertionError("never got here")
        assert current_request_id() == "a"
    assert current_request_id() is None
    with pytest.raises(RuntimeError, match="make a new one"), scope:
        raise AssertionError("never got here")
    assert current_request_id() is None


async def test_a_scope_may_be_left_in_another_context_and_hides_no_error():
    """A fixture may do that: what was set went with the context in which it was."""

    async def fixture():
        with request_scope("a"):
            yield

    opened = fixture()
    await asyncio.create_task(anext(opened))
    with pytest.raises(KeyError):
        await asyncio.create_task(opened.athrow(KeyError("in the block")))
    assert current_request_id() is None
