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
from typing import Any
from urllib.parse import SplitResult

from typing_extensions import TypeVar

from ..checks import check_instance, check_seconds
from ..core import Correlator
from .base import Transport
from .message import Message, check_request_id
from .outgoing import Outgoing
from .redis_intake import Acknowledgement, Intake
from .redis_link import BLOCK, Link, checked, delays, pack
from .redis_server import Server
from .redis_wire import entries_of, fields_of, message_of, values_of
from .redis_words import reason
from .serving import Service

__all__ = ["RedisTransport"]

V = TypeVar("V", default=Message)

_log = logging.getLogger("correlator")

_NAME = re.compile(r"[A-Za-z0-9._:/{}-]{1,100}")

_READ = 100  # replies a read at most
_SLOW = 1.0  # seconds that a read may take: then the next is for fewer
_MAX_BODY = 512 << 20  # bytes: what servers take by default (proto-max-bulk-len)
_LARGE = 1 << 20  # bytes; what is more goes in several writes
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

    def __init__(
        self,
        url: SplitResult,
        correlator: Correlator[str, V],
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
        self._in_bursts = False
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
        (pong,) = await self._writer.call(pack("PING"))
        checked(pong)
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
        return pack("PEXPIRE", self._address, int(self._ttl * 1000))

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
                        await self._writer.call(pack("DEL", self._address))
        finally:
            await self._reader.close()
            await self._writer.close()

    # -- sending -------------------------------------------------------------------------------

    async def _write(self, batch: list[Outgoing]) -> None:
        part: list[Outgoing] = []
        commands: list[bytes] = []
        size = 0
        loop = asyncio.get_running_loop()
        now = loop.time()
        for out in batch:
            if len(out.message.body) > _MAX_BODY:  # the server would hang up, on all of them
                size_of = f"a body of {len(out.message.body)} bytes is too large"
                self._unsent(out, ValueError(f"{size_of}: Redis takes {_MAX_BODY}"))
                continue
            if out.address:
                command = self._pack(out, now)
                commands.append(command)
                size += len(command)
            part.append(out)
            if size >= _LARGE:
                await self._write_part(part, commands)
                part, commands, size = [], [], 0
                await self._ready.wait()
                now = loop.time()
        if part:
            await self._write_part(part, commands)

    async def _write_part(self, part: list[Outgoing], commands: list[bytes]) -> None:
        """Send what has an address by its command, and then take out what is acknowledged."""
        acknowledged: dict[str, list[bytes]] = {}  # entries by stream
        for out in part:
            if isinstance(out, Acknowledgement):
                acknowledged.setdefault(out.stream, []).append(out.entry_id)
        for stream, entries in acknowledged.items():
            commands.append(pack("XACK", stream, self._group, *entries))
            commands.append(pack("XDEL", stream, *entries))
        try:
            answers = iter(await self._writer.call(*commands))
        except ConnectionError as error:
            self._broken()
            for out in part:
                if out.sent is not None:
                    self._unsent(out, error)
                # A request may have gone, and its reply may come: so it stays, and is not resent.
            return
        added = [next(answers) if out.address else None for out in part]
        refused: dict[str, Exception] = {}
        for stream in acknowledged:
            both = next(answers), next(answers)
            refused.update((stream, each) for each in both if isinstance(each, Exception))
        for out, answer in zip(part, added, strict=True):
            became = answer
            if isinstance(out, Acknowledgement):
                became = refused.get(out.stream, answer)
            if isinstance(became, Exception):
                self._unsent(out, became)
            elif out.sent is not None and not out.sent.done():
                out.sent.set_result(answer is not None)

    def _pack(self, out: Outgoing, now: float) -> bytes:
        fields = fields_of(out.request_id, out.message)
        if out.deadline is None:
            bound = ("NOMKSTREAM", "MAXLEN", "~", self._maxlen, "*")
            return pack("XADD", out.address, *bound, *fields)
        left = ("reply_to", self._address, "timeout_ms", out.left_ms(now))
        return pack("XADD", out.address, "*", *left, *fields)

    # -- taking --------------------------------------------------------------------------------

    async def _take_replies(self, block: float) -> None:
        commands = []
        if self._untrimmed >= _TRIM:
            commands.append(pack("XTRIM", self._address, "MINID", self._last))
            self._untrimmed = 0
        which = ("STREAMS", self._address, self._last)
        waiting = ("BLOCK", int(block * 1000), *which) if block else which
        if block and self._in_bursts:
            # What wakes us is the first of what is written at once. The second read has them all.
            commands.append(pack("XREAD", "COUNT", 1, *waiting))
            waiting = which
        commands.append(pack("XREAD", "COUNT", self._count, *waiting))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        *_, answer = await self._reader.call(*commands, block=block)
        entries = entries_of(checked(answer))
        # As many may be too much for the link: each has a time to be here in.
        slow = loop.time() - begun > block + _SLOW
        self._count = max(1, self._count // 4) if slow else min(2 * self._count, _READ)
        self._in_bursts = len(entries) > 1 and self._count == _READ
        for entry_id, fields in entries:
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
