"""Intake: takes requests from a stream of Redis, as one consumer of a group of workers.

A request is acknowledged when its answer is out. One that a worker took and never acknowledged,
since it crashed, is another's after a minute, if it has any time left by then. So a request is
handled once, or more than once if things break, as long as somebody waits for its answer.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import Any

from redis.exceptions import ResponseError

from .base import Transport
from .message import Message, check_request_id
from .outgoing import Outgoing
from .redis_link import BLOCK, Link, checked, delays, pack
from .redis_server import Server
from .redis_wire import KEY, entries_of, message_of, values_of
from .redis_words import reason
from .serving import ACKNOWLEDGED, Service

__all__ = ["Acknowledgement", "Intake"]

_log = logging.getLogger("correlator")

_IDLE = 60.0  # seconds after which a request belongs to whoever claims it
_TRIES = 5  # to send an answer

_NOTHING = Message(b"")


class Acknowledgement(Outgoing):
    """Takes an entry out of its stream, once the answer to it is out, if there is an `address`.

    Attributes:
        stream: the key of the stream.
        entry_id: the entry's.
    """

    __slots__ = ("entry_id", "stream")

    def __init__(
        self,
        stream: str,
        entry_id: bytes,
        reply_to: str = "",
        request_id: str = "",
        message: Message = _NOTHING,
    ) -> None:
        super().__init__(reply_to, request_id, message)
        self.stream = stream
        self.entry_id = entry_id


class Intake:
    """Takes the requests of one destination for a service.

    Attributes:
        link: the connection it reads from.
        in_hand: the entries that are being answered.
    """

    def __init__(
        self,
        transport: Transport[Any],
        server: Server,
        group: str,
        destination: str,
        service: Service,
    ) -> None:
        self.link = Link(server)
        self.in_hand: set[bytes] = set()
        self._transport = transport
        self._group = group
        self._destination = destination
        self._service = service
        self._consumer = (group, transport.owner)
        self._has_place = False  # one that was waited for, and not used yet
        self._cursor: bytes | str = "0-0"
        self._claim_cursor: bytes | str = "0-0"
        self._claim_at = 0.0

    async def join(self) -> None:
        """See to it that there is a group. Raises ConnectionError."""
        create = ("XGROUP", "CREATE", self._destination, self._group, "0", "MKSTREAM")
        (answer,) = await self.link.call(pack(*create))
        checked(answer)
        self._cursor = "0-0"  # first what was delivered to us and got lost on the way here

    async def run(self) -> None:
        """Take requests, until it is cancelled."""
        while True:
            try:
                while True:
                    await self._take()
            except Exception as error:
                _log.warning("%r could not take requests: %s", self._transport, reason(error))
            for delay in delays():
                await asyncio.sleep(delay)
                with suppress(ConnectionError):
                    await self.join()
                    break

    async def leave(self) -> None:
        """Take what was delivered up to now, answer what was taken, and leave the group."""
        self._cursor = "0-0"
        there = False
        with suppress(ConnectionError):
            while self._connected and self._cursor != ">":
                await self._take()
            there = self._connected
        await self._service.drain()
        if there:
            pending = ("XPENDING", self._destination, self._group, "-", "+", 1)
            delete = ("XGROUP", "DELCONSUMER", self._destination, *self._consumer)
            with suppress(ConnectionError):
                (left,) = await self.link.call(pack(*pending, self._transport.owner))
                if left == []:  # or it would be forgotten, instead of claimed by another
                    await self.link.call(pack(*delete))

    @property
    def _connected(self) -> bool:
        return self._transport._ready.is_set()

    def keep(self) -> bytes:
        """Return the command that says that what is in hand is not idle."""
        return pack("XCLAIM", self._destination, *self._consumer, 0, *self.in_hand, "JUSTID")

    async def _take(self) -> None:
        """Take as many requests as there are places for."""
        if not self._has_place:
            await self._service.wait_for_place()
            self._has_place = True
        count = 1 + self._service.places
        time = asyncio.get_running_loop().time()
        claims = self._cursor == ">" and time >= self._claim_at
        # The time of the broker's clock, for an entry's id is of that as well.
        if claims:
            answer, now = await self.link.call(self._claim(count), pack("TIME"))
            self._claim_cursor, entries, *_ = checked(answer)
            if self._claim_cursor == b"0-0":
                self._claim_at = time + _IDLE / 2
        elif self._cursor == ">":
            # What wakes us is the first of what was written at once. The second reads the rest.
            reads = [self._read(1, BLOCK)] + [self._read(count - 1)] * (count > 1)
            *answers, now = await self.link.call(*reads, pack("TIME"), block=BLOCK)
            entries = [entry for answer in answers for entry in entries_of(checked(answer))]
        else:
            answer, now = await self.link.call(self._read(count), pack("TIME"))
            entries = entries_of(checked(answer))
            self._cursor = entries[-1][0] if entries else ">"
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        for entry in entries:
            # Redis 6.2 has None for one that was claimed and is no longer there.
            if entry is not None and entry[0] not in self.in_hand:
                await self._take_request(entry[0], entry[1], now_ms)

    def _read(self, count: int, block: float = 0.0) -> bytes:
        much = ("COUNT", count, "BLOCK", int(block * 1000)) if block else ("COUNT", count)
        which = ("STREAMS", self._destination, self._cursor)
        return pack("XREADGROUP", "GROUP", *self._consumer, *much, *which)

    def _claim(self, count: int) -> bytes:
        """Return the command that takes over what others took and will not answer."""
        which = (int(_IDLE * 1000), self._claim_cursor, "COUNT", count)
        return pack("XAUTOCLAIM", self._destination, *self._consumer, *which)

    async def _take_request(self, entry_id: bytes, fields: Any, now_ms: int) -> None:
        try:
            values = values_of(fields)
            request_id = values[b"id"].decode()
            check_request_id(request_id)
            reply_to = values[b"reply_to"].decode()
            # A key that is written to because a stranger says so.
            if KEY.fullmatch(reply_to) is None or reply_to == self._destination:
                raise ValueError("reply_to is no key of a reply stream")
            message = message_of(values)
            waited = max(0, now_ms - int(entry_id.partition(b"-")[0])) / 1000
        except Exception as error:
            self._transport._received_nonsense(error)
            self._transport._put(Acknowledgement(self._destination, entry_id))
            return
        if not self._has_place:
            await self._service.wait_for_place()
        self._has_place = False
        self.in_hand.add(entry_id)
        answer = partial(self._answer, entry_id, reply_to, request_id)
        self._service.handle(message, answer, partial(self._acknowledge, entry_id), waited)

    async def _answer(
        self, entry_id: bytes, reply_to: str, request_id: str, message: Message
    ) -> object:
        """Send an answer, and again if need be: to come twice does no harm, to be lost does.

        The request is taken out in the same write, of which the server keeps the order.
        """
        try:
            for left in reversed(range(_TRIES)):
                out = Acknowledgement(self._destination, entry_id, reply_to, request_id, message)
                try:
                    await self._transport._send_out(out)
                    break
                except ConnectionError:
                    if not left:
                        raise
        except (ResponseError, ValueError) as error:  # it is refused, as it would be next time
            _log.warning("%r could not answer: %s", self._transport, reason(error))
            return None
        finally:
            self.in_hand.discard(entry_id)  # if it failed, it may be claimed
        return ACKNOWLEDGED

    async def _acknowledge(self, entry_id: bytes) -> None:
        """Take out what nobody answers."""
        try:
            async with asyncio.timeout(_IDLE):
                await self._transport._send_out(Acknowledgement(self._destination, entry_id))
        finally:
            self.in_hand.discard(entry_id)
