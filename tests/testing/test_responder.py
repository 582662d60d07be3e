"""The scripted responder does what its script says, and leaves nothing behind."""

import asyncio

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
    with pytest.raises(AssertionError, match="the script has 1 steps, and this is request 2"):
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
    with pytest.raises(RuntimeError, match="needs a pending at hand"):
        await Responder(correlator, late()).send("a")


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
