"""Link: one AMQP 0-9-1 connection, on which no task, future or queue is made for a message.

The frames are pamqp's; the order in which they come is known here. aiormq knows it too, but its
connection ends with the first message that pamqp cannot read (a timestamp beyond the year 9999 is
enough). That message goes back to its queue, and so ends each connection after it. Here it costs
itself.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.commands import Channel as OfChannel
from pamqp.commands import Connection as OfConnection
from pamqp.frame import marshal, unmarshal
from pamqp.header import ContentHeader, ProtocolHeader
from pamqp.heartbeat import Heartbeat

from ..errors import fresh
from .amqp_broker import Broker

__all__ = ["HEARTBEAT", "Channel", "Content", "Link", "Refused"]

HEARTBEAT: Final = 4
"""Seconds; who hears nothing for twice as long takes the other side for dead."""

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8  # kinds of frames: AMQP 0-9-1, section 4.2.3
_END = 0xCE
_AROUND = 8  # bytes of a frame around its payload: kind, channel and size before it, the end after
_DELIVER = struct.pack(">HH", 60, 60)
_CLOSE_CHANNEL: Final = OfChannel.Close(reply_code=200, class_id=0, method_id=0)


class Refused(ConnectionError):
    """The broker has closed the connection, or a channel, for a reason.

    Attributes:
        code: the reason, as AMQP 0-9-1 counts them (section 1.2).
    """

    def __init__(self, code: int | None, text: str | None) -> None:
        super().__init__(f"{code} {text}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Content:
    """A message that came in.

    Attributes:
        tag: acknowledges it; 0 for one that was returned.
        routing_key: of one that was returned.
        properties: None if they cannot be read.
        body: the bytes.
    """

    tag: int
    routing_key: str | None
    properties: Basic.Properties | None
    body: bytes


class Channel:
    """A channel of a link. What comes in on it goes to `on_delivery`, `on_return` and `on_confirm`.

    These are called as it is read, and must not raise.

    Attributes:
        closed: done when the channel is closed; its result is why.
    """

    def __init__(self, link: Link, number: int) -> None:
        self.closed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.on_delivery: Callable[[Content], None] = _ignore
        self.on_return: Callable[[Content], None] = _ignore
        self.on_confirm: Callable[[int, bool, bool], None] = _ignore
        self._link = link
        self._number = number
        self._answers: deque[asyncio.Future[Any]] = deque()
        self._settled = self._acknowledged = 0
        self._coming: tuple[int, str | None] | None = None
        self._properties: Basic.Properties | None = None
        self._missing = 0
        self._parts: list[bytes] = []

    @property
    def usable(self) -> bool:
        """Whether something can be sent on it."""
        return not (self.closed.done() or self._link.lost)

    def answer(self) -> asyncio.Future[Any]:
        """Return what will be the next answer to a method; they come in the order of the calls."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        return answer

    async def call(self, method: Frame) -> Any:
        """Send a method and return its answer.

        Raises:
            Refused: the broker has closed the channel, or the connection.
            ConnectionError: the connection is lost.
        """
        self.send(method)
        return await self.answer()

    def send(self, method: Frame) -> None:
        """Send a method.

        Raises:
            ConnectionError: the channel is closed.
        """
        if self.closed.done():
            raise fresh(self.closed.result())
        self._link.write(marshal(method, self._number))

    def acknowledge(self, tag: int) -> None:
        """Acknowledge a delivery, and all before it, once for all that came in one read."""
        if self._settled == self._acknowledged:
            asyncio.get_running_loop().call_soon(self._acknowledge)
        self._settled = tag

    def _acknowledge(self) -> None:
        if self.usable:
            self.send(Basic.Ack(self._settled, multiple=True))
        self._acknowledged = self._settled

    def marshal(self, routing_key: str, properties: Basic.Properties, body: bytes) -> bytes:
        """Return the frames of a message to a queue, which have it returned if there is none.

        Raises:
            ValueError, TypeError: that cannot go over AMQP.
        """
        number = self._number
        room = self._link.frame_max - _AROUND
        header = marshal(ContentHeader(0, len(body), properties), number)
        if len(header) - _AROUND > room:  # the broker would close the connection, to all
            raise ValueError(f"the headers are too large: the broker takes {room} bytes")
        frames = [marshal(Basic.Publish(routing_key=routing_key, mandatory=True), number), header]
        frames.extend(
            marshal(ContentBody(body[start : start + room]), number)
            for start in range(0, len(body), room)
        )
        return b"".join(frames)

    async def close(self) -> None:
        """Close it: what was delivered and not acknowledged goes back to its queue."""
        if self.usable:
            self.send(_CLOSE_CHANNEL)
            await asyncio.wait([self.closed])

    def end(self, error: Exception) -> None:
        """It is closed, for that reason."""
        if self.closed.done():
            return
        self.closed.set_result(error)
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(fresh(error))
                answer.exception()  # who called gets it; if it has left, nobody need hear of it

    def received(self, kind: int, frame: bytes) -> None:
        """Take a frame."""
        if kind == _METHOD:
            if frame.startswith(_DELIVER, 7):
                # Not by pamqp: it fails at names that are no UTF-8, and all we want is the tag.
                (tag,) = struct.unpack_from(">Q", frame, 12 + frame[11])
                self._coming = tag, ""
            else:
                self._received_method(unmarshal(frame)[2])
            return
        if self._coming is None:
            raise ValueError("content without a method")
        if kind == _HEADER:
            (self._missing,) = struct.unpack_from(">Q", frame, 11)
            header = ContentHeader()
            try:
                header.unmarshal(frame[7:-1])
                self._properties = header.properties
            except Exception:  # whatever pamqp meets in what anybody may have sent
                self._properties = None
        elif kind == _BODY:
            self._parts.append(frame[7:-1])
            self._missing -= len(frame) - _AROUND
        if self._missing > 0:
            return
        content = Content(*self._coming, self._properties, b"".join(self._parts))
        (self.on_delivery if content.tag else self.on_return)(content)
        self._coming = self._properties = None  # nothing of it is to be kept
        self._parts.clear()

    def _received_method(self, method: Any) -> None:
        match method:
            case Basic.Return():
                self._coming = 0, method.routing_key
            case Basic.Ack() | Basic.Nack():
                done = isinstance(method, Basic.Ack)
                self.on_confirm(method.delivery_tag, method.multiple, done)
            case Basic.Cancel():
                self.send(_CLOSE_CHANNEL)
                self.end(ConnectionError("the queue that was consumed is gone"))
            case OfChannel.CloseOk():
                self._link.forget(self._number)
                self.end(ConnectionError("the channel is closed"))
            case OfChannel.Close():
                self._link.write(marshal(OfChannel.CloseOk(), self._number))
                self._link.forget(self._number)
                self.end(Refused(method.reply_code, method.reply_text))
            case OfConnection.Close():
                self.send(OfConnection.CloseOk())
                self._link.fail(Refused(method.reply_code, method.reply_text))
            case OfConnection.Blocked() | OfConnection.Unblocked():
                pass  # the broker stops reading, and so we stop writing
            case _ if self._answers:
                answer = self._answers.popleft()
                if not answer.done():
                    answer.set_result(method)


class Link(asyncio.Protocol):
    """A connection. Made by `connect`.

    Attributes:
        closed: done when the connection is lost and its socket given back; its result is why.
        frame_max: bytes that a frame may have.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[Exception] = self._loop.create_future()
        self.frame_max = 131_072
        self._channels: dict[int, Channel] = {}
        self._control = self._channels[0] = Channel(self, 0)
        self._start = self._control.answer()
        self._error: Exception | None = None
        self._rest = b""
        self._writable = asyncio.Event()
        self._writable.set()
        self._heard = self._loop.time()
        self._beat: asyncio.TimerHandle | None = None

    @classmethod
    async def connect(cls, broker: Broker, context: ssl.SSLContext | None, name: str) -> Link:
        """Connect to a broker and return the link.

        Raises:
            Refused: the broker does not let us in.
            OSError: it cannot be reached.
        """
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(cls, broker.host, broker.port, ssl=context)
        try:
            await link._greet(broker, name)
        except BaseException:
            await link.drop()
            raise
        return link

    async def _greet(self, broker: Broker, name: str) -> None:
        await self._start
        able = ("authentication_failure_close", "basic.nack", "consumer_cancel_notify")
        tune = await self._control.call(
            OfConnection.StartOk(
                {
                    "product": "correlator",
                    "connection_name": name,
                    "capabilities": dict.fromkeys((*able, "publisher_confirms"), True),
                },
                "PLAIN",
                f"\0{broker.user}\0{broker.password}",
            )
        )
        self.frame_max = min(tune.frame_max or self.frame_max, self.frame_max)
        self._control.send(OfConnection.TuneOk(tune.channel_max, self.frame_max, HEARTBEAT))
        self._keep_alive()
        await self._control.call(OfConnection.Open(broker.vhost))

    async def channel(self) -> Channel:
        """Return a new channel."""
        number = next(number for number in itertools.count(1) if number not in self._channels)
        channel = self._channels[number] = Channel(self, number)
        await channel.call(OfChannel.Open())
        return channel

    def forget(self, number: int) -> None:
        """Both sides have closed that channel: its number is free."""
        self._channels.pop(number, None)

    def write(self, data: bytes) -> None:
        """Send frames."""
        if self.lost:
            raise ConnectionResetError("the connection to the broker is lost")
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the broker has read enough for more to be sent."""
        await self._writable.wait()

    @property
    def lost(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport.is_closing()

    async def close(self) -> None:
        """Take leave of the broker. Whoever has no time for that calls `drop`."""
        await self._control.call(OfConnection.Close(reply_code=200, class_id=0, method_id=0))
        await self.drop()

    async def drop(self) -> None:
        """Drop the connection, and return when the socket is given back."""
        self.fail(ConnectionError("the connection is closed"))
        await asyncio.wait([self.closed])

    def fail(self, error: Exception) -> None:
        """Drop the connection, for that reason. `closed` is done soon after."""
        self._error = self._error or error
        # Not `close`: that would wait for a dead broker to read the rest.
        self._transport.abort()

    def _keep_alive(self) -> None:
        silence = self._loop.time() - self._heard
        if silence > 2 * HEARTBEAT:
            self.fail(ConnectionError(f"nothing was heard of the broker for {silence:.0f} s"))
        elif not self.lost:
            self.write(Heartbeat().marshal())
            self._beat = self._loop.call_later(HEARTBEAT / 2, self._keep_alive)

    # -- what asyncio calls ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by their class
        self._transport.write(ProtocolHeader().marshal())

    def data_received(self, data: bytes) -> None:
        """Take what has come: some frames, and perhaps a part of one."""
        self._heard = self._loop.time()
        data = self._rest + data
        start = 0
        try:
            while len(data) - start >= _AROUND and self._error is None:
                kind, number, size = struct.unpack_from(">BHI", data, start)
                if size > self.frame_max:
                    raise ValueError("a frame is too large")
                end = start + size + _AROUND
                if end > len(data):
                    break
                if data[end - 1] != _END:
                    raise ValueError("a frame has no end")
                channel = self._channels.get(number)
                if channel is not None and kind != _HEARTBEAT:
                    channel.received(kind, data[start:end])
                start = end
            self._rest = data[start:]
        except Exception as error:
            self.fail(ConnectionError(f"this is no AMQP 0-9-1: {type(error).__name__}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """End all that waits."""
        error = self._error or exc or ConnectionResetError("the broker has closed the connection")
        if self._beat is not None:
            self._beat.cancel()
        self._writable.set()
        for channel in list(self._channels.values()):
            channel.end(error)
        self.closed.set_result(error)

    def pause_writing(self) -> None:
        """Wait: the broker reads slower than we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._writable.set()


def _ignore(*_: object) -> None:
    """Nobody wants it."""
