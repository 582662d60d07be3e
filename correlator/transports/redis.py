"""RedisTransport: requests and replies over the streams of Redis or Valkey, 6.2 or newer.

Requests and replies are entries of streams, `correlator.transports.redis_wire` says how. Each
replica has one stream for replies, which it reads from the last id it has seen: a reply that is
sent while it reconnects is waiting there.

The server is one, with replicas of its own or without, and no cluster: the streams of one exchange
would lie on several of its nodes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl as tls
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar
from urllib.parse import SplitResult

from typing_extensions import TypeVar

from ..checks import check_instance, check_seconds
from .base import Transport
from .message import Message, check_request_id
from .outgoing import Outgoing
from .redis_intake import Acknowledgement, Intake
from .redis_link import BLOCK, Link, Server, checked, delays, reason
from .redis_wire import entries_of, fields_of, message_of, values_of
from .serving import Service

__all__ = ["RedisTransport"]

V = TypeVar("V", default=Message)

_log = logging.getLogger("correlator")

_NAME = re.compile(r"[A-Za-z0-9._:/{}-]{1,100}")

_READ = 100  # replies a read at most, since each exchange has a time to be done in
_TRIM = 100  # replies that were read, and go as soon as there are so many
_MIN_MAXLEN = 20_000  # of a reply stream: whoever answers does not know its owner's `max_pending`
_BEAT = 5.0  # seconds between two heartbeats at most: they are also how a silent end is noticed
_SHUT = 1.0  # seconds to take leave


class RedisTransport(Transport[V]):
    """A link to Redis or Valkey. See `connect` for the other arguments.

    The URL may hold a user, a password, and a database's number as its path.

    Args:
        prefix: begins the keys of reply streams: ``<prefix>:replies:<owner>``.
        reply_ttl: seconds for which the reply stream stays, and takes replies, after this replica
            has died or lost its connection; at least 1.
        group: the consumer group in which `serve` shares requests.
        ssl: for ``rediss:`` and ``valkeys:``, a context of one's own, with a private certificate
            authority for example.
    """

    schemes: ClassVar = ("redis", "rediss", "valkey", "valkeys")

    def __init__(
        self,
        url: SplitResult,
        correlator: Any,
        *,
        prefix: str = "correlator",
        reply_ttl: float = 60.0,
        group: str = "workers",
        ssl: tls.SSLContext | None = None,
        **options: Any,
    ) -> None:
        super().__init__(correlator, **options)
        for name, value in (("prefix", prefix), ("group", group)):
            check_instance(name, value, str)
            if _NAME.fullmatch(value) is None:
                raise ValueError(
                    f"{name} must be 1 to 100 characters out of A-Z a-z 0-9 . _ : / {{ }} -, "
                    f"not {value!r:.300}"
                )
        if check_seconds("reply_ttl", reply_ttl) < 1:
            raise ValueError(f"reply_ttl must be at least 1 second, not {reply_ttl!r}")
        self._server = Server.at(url, ssl)
        self._prefix = prefix
        self._group = group
        self._ttl = reply_ttl
        self._address = self._address_of(self.owner)
        self._maxlen = max(2 * correlator._max_pending, _MIN_MAXLEN)
        self._reader = Link(self._server)
        self._writer = Link(self._server)
        self._last: bytes | str = "0-0"
        self._count = _READ
        self._untrimmed = 0
        self._intakes: set[Intake] = set()

    def _address_of(self, owner: str) -> str:
        return f"{self._prefix}:replies:{owner}"

    # -- the connections -----------------------------------------------------------------------

    async def _open(self) -> None:
        try:
            await self._listen()
        except ConnectionError as error:
            raise ConnectionError(
                f"could not connect to Redis at {self._server}: {error}"
            ) from None
        self._connected()
        self._start(self._read(), "reader")
        self._start(self._beat(), "heartbeat")

    async def _listen(self) -> None:
        """Connect, see to it that replies have somewhere to go, and take those that are there."""
        (pong,) = await self._writer.call(self._writer.pack("PING"))
        checked(pong)
        pack = self._reader.pack
        existed, *made = await self._reader.call(
            pack("EXISTS", self._address),
            # What makes a stream without an entry in it.
            pack("XGROUP", "CREATE", self._address, self.owner, "$", "MKSTREAM"),
            pack("XGROUP", "DESTROY", self._address, self.owner),
            self._prolong(),
        )
        for answer in made:
            checked(answer)
        if not checked(existed):
            # The ids of another stream, maybe on another server, may well be below the last seen.
            self._last = "0-0"
        await self._take_replies(0)

    def _prolong(self) -> bytes:
        return self._writer.pack("PEXPIRE", self._address, int(self._ttl * 1000))

    async def _read(self) -> None:
        while True:
            try:
                while self._ready.is_set():
                    await self._take_replies(BLOCK)
            except Exception as error:
                _log.debug("%r could not read: %s", self, reason(error))
            self._disconnected()
            for delay in delays():
                await asyncio.sleep(delay)
                try:
                    await self._listen()
                except Exception as error:
                    _log.warning("%r could not connect: %s", self, reason(error))
                else:
                    self._connected()
                    break

    async def _beat(self) -> None:
        """Prolong the reply stream's life, and that of the requests that are being answered."""
        while True:
            await asyncio.sleep(min(self._ttl / 3, _BEAT))
            if not self._ready.is_set():
                continue
            claims = [intake.keep() for intake in self._intakes if intake.in_hand]
            try:
                prolonged, *_ = await self._writer.call(self._prolong(), *claims)
            except ConnectionError:
                prolonged = 0
            if prolonged != 1:  # the server is lost, or the stream is
                self._broken()

    def _broken(self) -> None:
        """Have the reader connect anew: it sees to both connections."""
        self._disconnected()
        self._reader.interrupt()

    async def _shut(self) -> None:
        try:
            if self._was_ready:
                with suppress(ConnectionError, TimeoutError):
                    async with asyncio.timeout(_SHUT):
                        await self._writer.call(self._writer.pack("DEL", self._address))
        finally:
            await self._reader.close()
            await self._writer.close()

    # -- sending -------------------------------------------------------------------------------

    async def _write(self, batch: list[Outgoing]) -> None:
        now = asyncio.get_running_loop().time()
        commands: list[bytes] = []
        out: list[Outgoing] = []  # whom each answer is for
        for each in batch:
            try:
                packed = self._pack(each, now)
            except UnicodeEncodeError as error:  # a header with half of a surrogate pair
                self._unsent(each, error)
            else:
                commands += packed
                out += [each] * len(packed)
        if not commands:
            return
        try:
            answers = await self._writer.call(*commands)
        except ConnectionError as error:
            self._broken()
            for each in batch:
                if each.sent is not None:
                    self._unsent(each, error)
                # A request may have gone, and its reply may come: so it stays, and is not resent.
            return
        for each, answer in zip(out, answers, strict=True):
            if isinstance(answer, Exception):
                self._unsent(each, answer)
            elif each.sent is not None and not each.sent.done():
                each.sent.set_result(answer is not None)

    def _pack(self, out: Outgoing, now: float) -> list[bytes]:
        pack = self._writer.pack
        if isinstance(out, Acknowledgement):
            return [
                pack("XACK", out.address, self._group, out.request_id),
                pack("XDEL", out.address, out.request_id),
            ]
        fields = fields_of(out.request_id, out.message)
        if out.deadline is None:
            bound = ("NOMKSTREAM", "MAXLEN", "~", self._maxlen, "*")
            return [pack("XADD", out.address, *bound, *fields)]
        left = ("reply_to", self._address, "timeout_ms", out.left_ms(now))
        return [pack("XADD", out.address, "*", *left, *fields)]

    # -- taking --------------------------------------------------------------------------------

    async def _take_replies(self, block: float) -> None:
        pack = self._reader.pack
        waiting = ("BLOCK", int(block * 1000)) if block else ()
        commands = [
            pack("XREAD", "COUNT", self._count, *waiting, "STREAMS", self._address, self._last)
        ]
        if self._untrimmed >= _TRIM:
            commands.insert(0, pack("XTRIM", self._address, "MINID", self._last))
            self._untrimmed = 0
        try:
            *_, answer = await self._reader.call(*commands, block=block)
        except ConnectionError:
            # As many may be too much for the time and the link: then the next read would be, too.
            self._count = max(1, self._count // 4)
            raise
        self._count = min(2 * self._count, _READ)
        for entry_id, fields in entries_of(checked(answer)):
            self._last = entry_id
            self._untrimmed += 1
            self._take_reply(fields)

    def _take_reply(self, fields: Any) -> None:
        try:
            values = values_of(fields)
            request_id = values[b"id"].decode()
            check_request_id(request_id)
            message = message_of(values)
        except Exception as error:
            self._received_nonsense(error)
        else:
            self._received_reply(request_id, message)

    # -- serving -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _serve(self, destination: str, service: Service) -> AsyncIterator[None]:
        intake = Intake(self, self._server, self._group, destination, service)
        try:
            try:
                await intake.join()
            except ConnectionError as error:
                raise ConnectionError(f"could not serve {destination!r}: {error}") from None
            task = self._start(intake.run(), "intake")
            self._intakes.add(intake)
            try:
                yield
            finally:
                try:
                    task.cancel()
                    await asyncio.wait([task])
                    await intake.leave()
                finally:
                    self._intakes.discard(intake)
        finally:
            await intake.link.close()
