"""What a service does with requests and answers, whatever the broker: on a clock that leaps."""

from __future__ import annotations

import asyncio

import pytest

from correlator import remaining_time
from correlator.transports.message import ERROR_CODE_HEADER, ERROR_HEADER, Message
from correlator.transports.serving import Dropped, Service, time_left

pytestmark = pytest.mark.virtual_time


def service(handler, concurrency=1):
    errors = ERROR_HEADER, ERROR_CODE_HEADER
    return Service("a.destination", handler, concurrency, errors, Dropped())


def request(left_ms=None):
    return Message(b"x", {} if left_ms is None else {"Correlator-Timeout-Ms": str(left_ms)})


async def echo(message):
    return message.body


class Broker:
    """Takes answers and acknowledgements, in their order; may hang."""

    def __init__(self, *, hangs=False):
        self.events = []
        self.hangs = hangs

    async def reply(self, message):
        if self.hangs:
            await asyncio.Event().wait()
        self.events.append(("reply", message.body))

    async def acknowledge(self):
        self.events.append("acknowledged")


async def test_a_request_is_acknowledged_after_its_answer_is_out():
    broker, serving = Broker(), service(echo)
    await serving.wait_for_place()
    serving.handle(request(), broker.reply, broker.acknowledge)
    await serving.drain()
    assert broker.events == [("reply", b"x"), "acknowledged"]


@pytest.mark.parametrize(("left_ms", "after"), [(None, 5.0), (100, 5.0), (9_000, 9.0)])
async def test_an_answer_that_does_not_go_out_gives_its_place_back(left_ms, after, caplog):
    """RabbitMQ sends no more than there are places: one that is kept would be kept for ever."""
    broker, serving = Broker(hangs=True), service(echo)
    started = asyncio.get_running_loop().time()
    await serving.wait_for_place()
    serving.handle(request(left_ms), broker.reply, broker.acknowledge)
    await serving.wait_for_place()
    assert broker.events == ["acknowledged"]
    assert asyncio.get_running_loop().time() - started == pytest.approx(after)
    assert "did not go out" in caplog.text


async def test_what_has_no_time_left_when_its_turn_comes_is_dropped_and_acknowledged():
    done, broker = [], Broker()

    async def handler(message):
        done.append(message.body)
        return b""

    serving = service(handler)
    for left_ms, waited in ((0, 0.0), (1_000, 1.0), (1_000, 5.0)):
        await serving.wait_for_place()
        serving.handle(request(left_ms), broker.reply, broker.acknowledge, waited)
    await serving.drain()
    assert done == []
    assert broker.events == ["acknowledged"] * 3
    assert serving._dropped == Dropped(expired=3)


async def test_the_time_it_has_waited_is_off_the_handlers_deadline():
    left = []

    async def handler(_message):
        left.append(remaining_time())
        return b""

    serving = service(handler)
    await serving.wait_for_place()
    serving.handle(request(8_000), Broker().reply, waited=3.0)
    await serving.drain()
    assert left == [pytest.approx(5.0)]


async def test_what_comes_while_all_are_at_work_waits_its_turn():
    done, broker = [], Broker()

    async def handler(message):
        await asyncio.sleep(1.0)
        done.append(message.headers["n"])
        return b""

    serving = service(handler, 2)
    for number in range(5):
        serving.take(Message(b"x", {"n": str(number)}), broker.reply)
    await asyncio.sleep(1.5)
    assert done == ["0", "1"]
    await serving.drain()
    assert done == ["0", "1", "2", "3", "4"]
    assert serving.places == 2


async def test_more_than_can_ever_be_done_is_dropped(monkeypatch):
    monkeypatch.setattr("correlator.transports.serving._MAX_BACKLOG", 3)
    serving = service(lambda _message: asyncio.sleep(1.0, b""))
    for _ in range(6):
        serving.take(request(), None)
    assert serving._dropped == Dropped(overflowed=2), "one is at work, three wait"
    await serving.drain()


async def test_cancelling_it_drops_what_waits_and_interrupts_what_runs():
    interrupted = []

    async def handler(_message):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            interrupted.append(1)
            raise

    serving = service(handler)
    for _ in range(3):
        serving.take(request(), None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    serving.cancel()
    await serving.drain()
    assert interrupted == [1]
    assert serving.places == 1


@pytest.mark.parametrize(
    ("text", "left"),
    [("5000", 5.0), ("0", 0.0), ("999999999999", 1e9 - 1e-3), ("", None), ("-1", None)],
)
def test_the_time_left_is_read_from_its_header(text, left):
    expected = None if left is None else pytest.approx(left, rel=1e-3)
    assert time_left(Message(b"", {"Correlator-Timeout-Ms": text})) == expected


@pytest.mark.parametrize("text", ["1e3", "5.0", "\u0665", " 5", "5\n", "9" * 13, "0x5", "5_0"])
def test_a_time_left_that_is_no_number_is_none(text):
    assert time_left(Message(b"", {"Correlator-Timeout-Ms": text})) is None
