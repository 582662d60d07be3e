"""The scripted responder does what its script says, and leaves nothing behind."""

import asyncio
import math
import sys
import threading

import pytest

from correlator import Correlator, Disposition, RequestTimeout
from correlator.testing import (
    Responder,
    assert_nothing_pending,
    delay,
    drop,
    duplicate,
    error,
    late,
    reply,
)

from ..clock import elapse

pytestmark = pytest.mark.virtual_time


async def test_each_request_gets_its_step(correlator):
    loop = asyncio.get_running_loop()
    responder = Responder(
        correlator,
        reply("shipped"),
        delay(0.5, reply("at last")),
        error(ValueError("no")),
        delay(1.0, delay(1.0, error(KeyError("no")))),
    )
    assert await correlator.correlate("a", send=responder.send) == "shipped"
    began = loop.time()
    assert await correlator.correlate("b", send=responder.send) == "at last"
    assert loop.time() - began == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no"):
        await correlator.correlate("c", send=responder.send)
    with pytest.raises(KeyError):
        await correlator.correlate("d", send=responder.send)
    assert loop.time() - began == pytest.approx(2.5)
    assert responder.asked == ["a", "b", "c", "d"]
    assert responder.dispositions == [Disposition.MATCHED] * 4


async def test_drops_duplicates_and_late_replies(correlator):
    responder = Responder(correlator, drop(), duplicate("x", times=3), late("y", by=0.5))
    with pytest.raises(RequestTimeout):
        await correlator.correlate(send=responder.send, timeout=1.0)
    assert await correlator.correlate(send=responder.send) == "x"
    with pytest.raises(RequestTimeout):
        await correlator.correlate(send=responder.send, timeout=1.0)
    await elapse(1.0)
    matched, *others = responder.dispositions
    assert matched is Disposition.MATCHED
    assert others == [Disposition.DUPLICATE, Disposition.DUPLICATE, Disposition.LATE]


async def test_after_its_script_it_does_what_it_was_told_or_complains(correlator):
    responder = Responder(correlator, reply(1), then=reply(2))
    assert [await correlator.correlate(send=responder.send) for _ in range(3)] == [1, 2, 2]
    responder = Responder(correlator, reply(1))
    await correlator.correlate(send=responder.send)
    with pytest.raises(AssertionError, match="the script has 1 step, and this is request 2"):
        await correlator.correlate(send=responder.send)


async def test_left_it_answers_no_more_and_has_no_timer(correlator):
    loop = asyncio.get_running_loop()
    with Responder(correlator, delay(5.0, reply(1))) as responder, correlator.register("a"):
        await responder.send("a")
    timers = [handle for handle in loop._scheduled if not handle.cancelled()]
    assert "Responder" not in repr(timers)
    await elapse(10.0)
    assert responder.dispositions == []


async def test_what_is_no_step_is_refused(correlator):
    with pytest.raises(TypeError, match="steps must be made by reply"):
        Responder(correlator, "shipped")
    with pytest.raises(RuntimeError, match="and 'a' is not pending"):
        await Responder(correlator, late()).send("a")


@pytest.mark.parametrize("by", [0.001, 0.05, 1.0, 59.0])
async def test_late_is_late_however_late_the_request_ends(correlator, by):
    responder = Responder(correlator, late("x", by=by), late("y", by=by))
    with pytest.raises(RequestTimeout):
        await correlator.correlate(send=responder.send, timeout=1.0)
    await elapse(by + 0.1)
    assert responder.dispositions == [Disposition.LATE]
    # A reaper that is held up besides: its turn comes after that of the answer's timer.
    with pytest.raises(RequestTimeout), correlator.register(timeout=1.0) as pending:
        await responder.send(pending.request_id)
        asyncio.get_running_loop().stall(70.0)
        await pending
    await elapse(0.1)
    assert responder.dispositions == [Disposition.LATE] * 2


async def test_what_it_would_answer_after_the_close_is_dropped(loop_reports):
    async with Correlator() as correlator:
        responder = Responder(
            correlator, delay(5.0, duplicate(1)), late(2), delay(5.0, error(KeyError("no")))
        )
        for request_id in ("a", "b", "c"):
            correlator.register(request_id, timeout=10.0)
            await responder.send(request_id)
    await elapse(60.0)
    assert responder.dispositions == []
    assert loop_reports == []


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (lambda: error("no"), TypeError, "value must be an instance of Exception .* not str"),
        (lambda: error(KeyError), TypeError, "value must be an instance of Exception .* not type"),
        (lambda: late(by=-1), ValueError, "by must be above 0 .*-1"),
        (lambda: late(by=math.nan), ValueError, "by must be above 0 .*nan"),
        (lambda: late(by=math.inf), ValueError, "by must be above 0 .*inf"),
        (lambda: late(by="1"), TypeError, "by must be a number of seconds, not '1'"),
        (lambda: delay(-1, reply()), ValueError, "seconds must be above 0 .*-1"),
        (lambda: delay("1", reply()), TypeError, "seconds must be a number of seconds, not '1'"),
        (lambda: delay(1, "x"), TypeError, "step must be an instance of Step, not 'x'"),
        (lambda: duplicate(times=0), ValueError, "times must be at least 2, not 0"),
        (lambda: duplicate(times=1), ValueError, "times must be at least 2, not 1"),
        (lambda: duplicate(times=1.5), TypeError, "times must be a whole number, not 1.5"),
        (lambda: duplicate(times=True), TypeError, "times must be a whole number, not True"),
        (lambda: Responder(None), TypeError, "correlator must be an instance of Correlator, not N"),
    ],
)
def test_an_argument_that_is_no_good_is_named_with_its_value(make, kind, says):
    with pytest.raises(kind, match=says):
        make()


async def test_of_several_correlators_each_ones_leftovers_are_named(correlator):
    async with Correlator(name="orders") as orders, Correlator(name="idle") as idle:
        assert_nothing_pending(correlator, orders, idle)
        for owner, request_id in ((orders, "order-42"), (correlator, "a"), (correlator, "b")):
            owner.register(request_id)
        await elapse(0.00008)
        with pytest.raises(AssertionError) as raised:
            assert_nothing_pending(orders, idle, correlator)
        assert str(raised.value).splitlines() == [
            "1 request is pending:",
            "  'order-42' of correlator 'orders', 0.0001 s old",
            "  Correlator(track_origin=True) would say where they were registered",
            "2 requests are pending:",
            "  'a' of correlator 'tested', 0.0001 s old",
            "  'b' of correlator 'tested', 0.0001 s old",
            "  Correlator(track_origin=True) would say where they were registered",
        ]
        for request_id in ("a", "b"):
            correlator.resolve(request_id, None)
    with pytest.raises(TypeError, match="needs the correlators to look into: at least one"):
        assert_nothing_pending()
    with pytest.raises(TypeError, match="must be an instance of Correlator, not \\[\\]"):
        assert_nothing_pending(correlator, [])


def test_what_is_pending_is_seen_from_another_thread_while_it_changes():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # the threads take turns in the midst of what they do
    entered, left = threading.Event(), threading.Event()
    made = []

    async def main():
        async with Correlator() as correlator:
            made.append(correlator)
            while not left.is_set():
                pendings = [correlator.register() for _ in range(1_000)]
                await asyncio.sleep(0)
                for pending in pendings:
                    pending.cancel()
                entered.set()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    entered.wait()
    try:
        for _ in range(200):
            try:
                assert_nothing_pending(*made)
            except AssertionError:
                pass
    finally:
        left.set()
        thread.join()
        sys.setswitchinterval(interval)


async def test_what_is_pending_is_named():
    async with Correlator(track_origin=True, name="orders") as correlator:
        assert_nothing_pending(correlator)
        with correlator.register("order-42", label="bank"):
            await elapse(2.0)
            with pytest.raises(AssertionError) as raised:
                assert_nothing_pending(correlator)
        first, second = str(raised.value).splitlines()
        assert first == "1 request is pending:"
        assert second.startswith(
            "  'order-42' of correlator 'orders', 2 s old, labelled 'bank', registered at "
        )
        assert_nothing_pending(correlator)


async def test_what_was_answered_is_not_kept(correlator):
    responder = Responder(correlator, then=delay(1.0, reply("shipped")))
    for _ in range(3):
        assert await correlator.correlate(send=responder.send) == "shipped"
    assert not responder._timers
