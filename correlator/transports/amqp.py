"""AmqpTransport: over RabbitMQ, in the way of its own request/reply tutorial (the sixth).

A request goes by the default exchange to the queue of its destination, with `correlation_id`,
`reply_to` and `expiration`; any RPC server written after the tutorial answers it. Replies come to
a queue of this replica's, which outlives a lost connection: what arrives meanwhile is delivered by
the next one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import ssl as tls
import sys
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final
from urllib.parse import SplitResult

from pamqp.commands import Basic, Confirm, Queue
from pamqp.common import FieldTable
from typing_extensions import TypeVar

from ..checks import check_instance, check_seconds
from ..core import Correlator
from .amqp_broker import Broker
from .amqp_content import headers_of, message_of
from .amqp_direct import DirectReplies
from .amqp_link import Channel, Content, Link
from .amqp_taking import FIRST_DELAY, LAST_DELAY, TAG, Taker, bounded
from .base import Transport
from .message import TIMEOUT_HEADER, Message, check_destination
from .outgoing import Outgoing
from .serving import Service

__all__ = ["AmqpTransport"]

V = TypeVar("V", default=Message)

_log = logging.getLogger("correlator")

_CONNECTING = 10.0  # seconds
_MAX_MS = 2**32 - 1  # RabbitMQ closes the channel of who gives a longer expiry
_MAX_PREFIX = 128
_NOTHING: Final = Message(b"")
_LARGEST = re.compile(
    r"message size \d+ is larger than .*max size (\d+)"
)  # what RabbitMQ says then


class AmqpTransport(Transport[V]):
    """A link to RabbitMQ. See `connect` for the other arguments.

    Args:
        prefix: begins the reply queue's name, ``<prefix>.replies.<owner>``.
        reply_ttl: seconds that the reply queue outlives its last connection.
        ssl: for ``amqps:``, a context of one's own, with a private certificate authority say.
    """

    def __init__(
        self,
        url: SplitResult,
        correlator: Correlator[str, V],
        *,
        prefix: str = "correlator",
        reply_ttl: float = 60.0,
        ssl: tls.SSLContext | None = None,
        **options: Any,
    ) -> None:
        super().__init__(correlator, **options)
        self._broker = Broker.at(url)
        self._secure = url.scheme == "amqps"
        check_destination(prefix, "prefix")
        if len(prefix) > _MAX_PREFIX:
            raise ValueError(f"prefix must be at most {_MAX_PREFIX} characters, not {len(prefix)}")
        self._prefix = prefix
        self._reply_ttl = max(1, int(check_seconds("reply_ttl", reply_ttl) * 1000))
        if self._reply_ttl > _MAX_MS:
            raise ValueError(
                f"reply_ttl must be at most {_MAX_MS // 1000} seconds, not {reply_ttl}"
            )
        if ssl is not None:
            check_instance("ssl", ssl, tls.SSLContext)
            if not self._secure:
                raise ValueError("ssl is for amqps:, and the url does not begin with that")
        self._ssl = ssl
        self._largest = sys.maxsize
        self._session: _Session | None = None
        self._direct = DirectReplies(
            partial(self._dial, " direct replies"),
            partial(self._received_nonsense, "an address for a direct reply, unreadable"),
        )

    def _address_of(self, owner: str) -> str:
        return f"{self._prefix}.replies.{owner}"

    # -- the connection ------------------------------------------------------------------------

    async def _open(self) -> None:
        if self._secure and self._ssl is None:
            self._ssl = tls.create_default_context()
        try:
            session = await self._connect()
        except OSError as error:
            why = str(error) or type(error).__name__
            raise ConnectionError(
                f"no connection to the broker at {self._broker}: {why}"
            ) from error
        self._start(self._stay_connected(session), "connection")

    async def _connect(self) -> _Session:
        async with asyncio.timeout(_CONNECTING):
            link = await self._dial()
            try:
                session = _Session(self, link, await link.channel())
                await session.listen(self._reply_ttl)
            except BaseException:
                await link.drop()
                raise
        self._session = session
        self._connected()
        return session

    async def _dial(self, purpose: str = "") -> Link:
        name = f"correlator {self.replica}{purpose}"
        async with asyncio.timeout(_CONNECTING):
            return await Link.connect(self._broker, self._ssl, name)

    async def _stay_connected(self, session: _Session) -> None:
        while True:
            await asyncio.wait([session.channel.closed])
            self._disconnected()
            error = session.channel.closed.result()
            # It costs the channel, and so must not be sent again: an answer would, for its request
            # comes again. The broker tells how much it takes only when that has happened.
            if told := _LARGEST.search(str(error)):
                self._largest = int(told[1])
            session.end(error)
            delay = FIRST_DELAY
            while True:
                # Replicas that lost the broker together are not to come back together.
                await asyncio.sleep(random.uniform(0, delay))  # noqa: S311 - it is no secret
                try:
                    session = await self._connect()
                    break
                except Exception as error:
                    _log.warning("%r could not connect: %s", self, type(error).__name__)
                    delay = min(2 * delay, LAST_DELAY)

    async def _present(self) -> _Session:
        """Return the session that is connected; wait for one, if need be."""
        while True:
            await self._ready.wait()
            assert self._session is not None
            if not self._session.lost:
                return self._session
            self._disconnected()  # this very turn, so that nobody has noticed yet

    async def _shut(self) -> None:
        session = self._session
        if session is None:
            return
        try:
            await self._direct.leave()
            await bounded(session.leave())  # where it fails, the queue expires by itself
        finally:
            session.end(ConnectionError("the transport is closed"))
            await asyncio.wait([session.link.closed])

    # -- what the base calls ---------------------------------------------------------------------

    async def _write(self, batch: list[Outgoing]) -> None:
        session = self._session
        assert session is not None
        if session.lost:
            # Nothing of the batch went out, so it may wait for the next session as others do.
            session = await self._present()
            batch = [each for each in batch if self._is_wanted(each)]
        session.publish(batch)
        del batch
        await session.link.drain()

    @asynccontextmanager
    async def _serve(self, destination: str, service: Service) -> AsyncIterator[None]:
        taker = Taker(self, destination, service)
        taking = self._start(taker.take(), "service")
        try:
            await asyncio.wait([taking, taker.listening], return_when=asyncio.FIRST_COMPLETED)
            if not taker.listening.done():
                self._check_open()  # it is not: that is what ended it
            taker.listening.result()
            yield
        finally:
            taking.cancel()
            await asyncio.wait([taking])
            await taker.leave()


class _Session:
    """One connection of a transport, with the channel for its requests and replies."""

    def __init__(self, transport: AmqpTransport[Any], link: Link, channel: Channel) -> None:
        self.link = link
        self.channel = channel
        self._transport = transport
        self._inbox = transport._address_of(transport.owner)
        self._published = 0
        # Ordered: the front of a dict is the slower to find the more was taken from it.
        self._unconfirmed: OrderedDict[int, Outgoing] = OrderedDict()
        self._returned: Counter[tuple[str | None, str | None]] = Counter()

    @property
    def lost(self) -> bool:
        return not self.channel.usable

    async def listen(self, reply_ttl: int) -> None:
        """Consume the reply queue, and be sure of it."""
        channel = self.channel
        channel.on_confirm = self._confirmed
        channel.on_return = self._came_back
        channel.on_delivery = self._take_reply
        # Classic whatever the virtual host's default is: a quorum queue a replica is too many.
        expiry: FieldTable = {"x-expires": reply_ttl, "x-queue-type": "classic"}
        await channel.call(Confirm.Select())
        await channel.call(Queue.Declare(queue=self._inbox, durable=True, arguments=expiry))
        await channel.call(Basic.Consume(queue=self._inbox, consumer_tag=TAG))

    async def leave(self) -> None:
        """Delete the reply queue and take leave of the broker."""
        await self.channel.call(Basic.Cancel(consumer_tag=TAG))
        await self.channel.call(Queue.Delete(queue=self._inbox))
        await self.link.close()

    def end(self, error: Exception) -> None:
        """The connection is lost, or of no use any more."""
        self.link.fail(error)
        for each in self._unconfirmed.values():
            # A request may have gone out, and its reply may come: it is not sent twice.
            if each.sent is not None:
                lost = ConnectionError("the connection was lost before the broker confirmed it")
                self._transport._unsent(each, lost)
        self._unconfirmed.clear()

    # -- out -----------------------------------------------------------------------------------

    def publish(self, batch: list[Outgoing]) -> None:
        """Send messages, as one write. The confirms come by themselves; none is waited for."""
        now = asyncio.get_running_loop().time()
        frames: list[bytes] = []
        for each in batch:
            try:
                frames.append(self._marshal(each, now))
            except Exception as error:
                self._transport._unsent(each, error)
                continue
            self._published += 1
            # Without the message: what has settled must not be kept by a broker slow to confirm.
            self._unconfirmed[self._published] = Outgoing(
                each.address, each.request_id, _NOTHING, each.deadline, each.sent
            )
        self.link.write(b"".join(frames))

    def _marshal(self, outgoing: Outgoing, now: float) -> bytes:
        message = outgoing.message
        largest = self._transport._largest
        if len(message.body) > largest:
            raise ValueError(f"the body is too large: the broker takes {largest} bytes")
        headers = headers_of(message)
        properties = Basic.Properties(
            content_type=message.content_type, headers=headers, correlation_id=outgoing.request_id
        )
        if outgoing.deadline is not None:
            left = outgoing.left_ms(now)
            headers[TIMEOUT_HEADER] = str(left)
            properties.expiration = str(min(left, _MAX_MS))
            properties.reply_to = self._inbox
        return self.channel.marshal(outgoing.address, properties, message.body)

    def _came_back(self, content: Content) -> None:
        """No queue has that name. RabbitMQ confirms it nevertheless, after this."""
        properties = content.properties
        assert properties is not None, "we sent them"
        if properties.reply_to is not None and properties.correlation_id is not None:
            self._transport._no_responder(properties.correlation_id)
        else:
            self._returned[content.routing_key, properties.correlation_id] += 1

    def _confirmed(self, tag: int, multiple: bool, taken: bool) -> None:
        if not multiple:
            each = self._unconfirmed.pop(tag, None)
            if each is not None:
                self._end_publish(each, taken)
            return
        while self._unconfirmed and next(iter(self._unconfirmed)) <= tag:
            self._end_publish(self._unconfirmed.popitem(last=False)[1], taken)

    def _end_publish(self, outgoing: Outgoing, taken: bool) -> None:
        if not taken:
            self._transport._unsent(outgoing, ConnectionError("the broker did not take it"))
        elif outgoing.sent is not None:
            key = outgoing.address, outgoing.request_id
            came_back = key in self._returned
            if came_back:
                self._returned -= Counter([key])  # which drops those at 0
            if not outgoing.sent.done():
                outgoing.sent.set_result(not came_back)

    # -- in ------------------------------------------------------------------------------------

    def _take_reply(self, content: Content) -> None:
        properties = content.properties
        if properties is None or not properties.correlation_id:
            self._transport._received_nonsense("a reply with no correlation id, or unreadable")
        else:
            message = message_of(properties, content.body)
            self._transport._received_reply(properties.correlation_id, message)
        self.channel.acknowledge(content.tag)
