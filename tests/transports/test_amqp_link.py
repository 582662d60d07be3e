"""Link: frames, as they come and in whatever pieces, and what is no AMQP."""

from __future__ import annotations

import asyncio
import struct

import pytest
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.commands import Channel as OfChannel
from pamqp.commands import Connection as OfConnection
from pamqp.frame import marshal
from pamqp.header import ContentHeader

from correlator.transports.amqp_broker import Broker
from correlator.transports.amqp_link import Channel, Link, Refused


class Wire:
    """The transport of a link that is connected to nothing."""

    def __init__(self, link):
        self.link = link
        self.written = b""
        self.closing = False
        link.connection_made(self)

    def write(self, data):
        self.written += data

    def is_closing(self):
        return self.closing

    def abort(self):
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.link.connection_lost, None)


@pytest.fixture
async def link():
    link = Link()
    Wire(link)
    yield link
    await link.drop()


@pytest.fixture
async def channel(link):
    channel = link._channels[1] = Channel(link, 1)
    channel.received_contents = []
    channel.on_delivery = channel.on_return = channel.received_contents.append
    return channel


def delivery(tag, body, properties=None, *, pieces=2, routing_key="q"):
    frames = [
        Basic.Deliver(consumer_tag="c", delivery_tag=tag, exchange="", routing_key=routing_key),
        ContentHeader(0, len(body), properties or Basic.Properties(correlation_id=str(tag))),
    ]
    size = max(1, -(-len(body) // pieces))
    frames += [ContentBody(body[at : at + size]) for at in range(0, len(body), size)]
    return b"".join(marshal(frame, 1) for frame in frames)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 100, 10_000])
async def test_messages_come_whole_in_whatever_pieces(link, channel, size):
    data = delivery(1, b"hello world") + delivery(2, b"") + delivery(3, b"\xce" * 50, pieces=5)
    for start in range(0, len(data), size):
        link.data_received(data[start : start + size])
    got = [(c.tag, c.properties.correlation_id, c.body) for c in channel.received_contents]
    assert got == [(1, "1", b"hello world"), (2, "2", b""), (3, "3", b"\xce" * 50)]


async def test_properties_that_cannot_be_read_cost_that_message(link, channel):
    whole = delivery(1, b"first", Basic.Properties(timestamp=None, correlation_id="A" * 20))
    broken = whole.replace(b"A" * 20, b"\xff" * 20)
    link.data_received(broken + delivery(2, b"second"))
    first, second = channel.received_contents
    assert (first.tag, first.properties, first.body) == (1, None, b"first")
    assert second.properties.correlation_id == "2"
    assert not link.lost


async def test_a_routing_key_that_is_no_text_harms_nothing(link, channel):
    data = delivery(1, b"body", routing_key="K" * 9).replace(b"K" * 9, b"\xff" * 9)
    link.data_received(data)
    assert channel.received_contents[0].body == b"body"


async def test_nothing_of_a_message_is_kept(link, channel):
    link.data_received(delivery(1, b"secret"))
    assert (channel._coming, channel._properties, channel._parts) == (None, None, [])
    assert link._rest == b""


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"AMQP\x00\x00\x08\x00",
        marshal(Basic.QosOk(), 1)[:-1] + b"\x00",
        struct.pack(">BHI", 1, 1, 2**31) + b"\x00",
        marshal(ContentBody(b"without a method"), 1),
        struct.pack(">BHI", 1, 1, 4) + b"\xff\xff\xff\xff\xce",
    ],
)
async def test_what_is_no_amqp_ends_the_connection(link, channel, data):
    link.data_received(data)
    assert isinstance(await link.closed, ConnectionError)
    assert isinstance(await channel.closed, ConnectionError)
    with pytest.raises(ConnectionError):
        channel.send(Basic.QosOk())
    with pytest.raises(ConnectionError):
        link.write(b"")


async def test_frames_of_a_channel_that_is_not_there_are_passed_over(link):
    link.data_received(marshal(Basic.QosOk(), 9))
    assert not link.lost


async def test_answers_come_in_the_order_of_the_calls_even_if_one_caller_has_left(link, channel):
    first = asyncio.create_task(channel.call(Basic.Qos()))
    second = asyncio.create_task(channel.call(Basic.Qos()))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    link.data_received(marshal(Basic.QosOk(), 1) + marshal(Basic.CancelOk("c"), 1))
    assert isinstance(await second, Basic.CancelOk)


async def test_a_channel_that_the_broker_closes_tells_why_to_each_that_waits(link, channel):
    calls = [asyncio.create_task(channel.call(Basic.Qos())) for _ in range(2)]
    await asyncio.sleep(0)
    link.data_received(marshal(OfChannel.Close(404, "NOT_FOUND", 0, 0), 1))
    errors = [(await asyncio.gather(call, return_exceptions=True))[0] for call in calls]
    assert [(type(error), error.code) for error in errors] == [(Refused, 404)] * 2
    assert errors[0] is not errors[1]
    assert marshal(OfChannel.CloseOk(), 1) in link._transport.written
    assert 1 not in link._channels
    assert not link.lost


async def test_a_channels_number_is_not_used_again_before_both_sides_have_closed_it(link, channel):
    link.data_received(marshal(Basic.Cancel("c", nowait=True), 1))
    assert channel.closed.done()
    opening = asyncio.create_task(link.channel())
    await asyncio.sleep(0)
    link.data_received(marshal(OfChannel.CloseOk(), 1) + marshal(OfChannel.OpenOk(), 2))
    assert (await opening)._number == 2
    assert set(link._channels) == {0, 2}


async def test_a_connection_that_the_broker_closes_tells_why(link, channel):
    link.data_received(marshal(OfConnection.Close(320, "CONNECTION_FORCED", 0, 0), 0))
    assert link.lost
    assert (await link.closed).code == (await channel.closed).code == 320


async def test_acknowledgements_of_one_read_are_one(link, channel):
    channel.on_delivery = lambda content: channel.acknowledge(content.tag)
    link._transport.written = b""
    link.data_received(b"".join(delivery(tag, b"x") for tag in range(1, 101)))
    await asyncio.sleep(0)
    assert link._transport.written == marshal(Basic.Ack(100, multiple=True), 1)
    link.data_received(delivery(101, b"x"))
    link._transport.closing = True  # it is lost before it could be acknowledged
    await asyncio.sleep(0)
    link._transport.closing = False


async def test_headers_that_no_frame_can_hold_are_refused(channel):
    large = Basic.Properties(headers={"a": "x" * 140_000})
    with pytest.raises(ValueError, match="headers are too large"):
        channel.marshal("q", large, b"")


async def test_writing_waits_while_the_broker_does_not_read(link):
    link.pause_writing()
    waiting = asyncio.create_task(link.drain())
    await asyncio.sleep(0)
    assert not waiting.done()
    link.resume_writing()
    await waiting


def test_who_asks_is_in_no_repr():
    broker = Broker("host", 5672, "somebody", "secret")
    assert "secret" not in f"{broker!r} {broker}"
    assert "somebody" not in f"{broker!r} {broker}"
