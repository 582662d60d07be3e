"""Taker: takes the requests of a queue for a service, over one connection after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pamqp.commands import Basic, Queue

from .amqp_content import message_of
from .amqp_link import Channel, Content, Link, Refused
from .message import Message
from .serving import Service

if TYPE_CHECKING:
    from .amqp import AmqpTransport

__all__ = ["FIRST_DELAY", "LAST_DELAY", "LEAVING", "TAG", "Taker", "bounded"]

TAG: Final = "correlator"
"""Names the one consumer that each channel of ours has."""
FIRST_DELAY, LAST_DELAY = 0.1, 5.0
"""Seconds between attempts; each delay is twice the one before."""
LEAVING: Final = 1.0
"""Seconds that a broker is given to answer when we leave."""

Acknowledge = Callable[[], Awaitable[None]]

_DIRECT = "amq.rabbitmq.reply-to."  # begins the addresses of direct replies
_log = logging.getLogger("correlator")

_MAX_PREFETCH = 2**16 - 1
_NOT_FOUND = 404


class Taker:
    """Takes requests. One of each service.

    Attributes:
        listening: done when it listens for the first time, or cannot.
    """

    def __init__(self, transport: AmqpTransport[Any], destination: str, service: Service) -> None:
        self.listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport = transport
        self._destination = destination
        self._service = service
        self._channel: Channel | None = None
        self._requests: asyncio.Queue[tuple[Content, float] | None]

    async def take(self) -> None:
        """Hand over what comes, for as long as this runs."""
        delay = FIRST_DELAY
        while True:
            session = await self._transport._present()
            try:
                await self._listen(session.link)
            except Exception as error:
                if session.lost:  # that is no answer: the next session is asked
                    continue
                if not self.listening.done():
                    self.listening.set_exception(error)
                    self.listening.exception()  # whoever waits gets it; nobody else need hear of it
                    return
                _log.warning("%r cannot listen: %s", self._service, type(error).__name__)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LAST_DELAY)
                continue
            delay = FIRST_DELAY
            if not self.listening.done():
                self.listening.set_result(None)
            await self._hand_over()

    async def _listen(self, link: Link) -> None:
        requests = self._requests = asyncio.Queue()
        clock = asyncio.get_running_loop()
        if not await _exists(link, self._destination):
            declaring = await link.channel()
            await declaring.call(Queue.Declare(queue=self._destination, durable=True))
            await declaring.close()
        channel = self._channel = await link.channel()
        channel.closed.add_done_callback(lambda _: requests.put_nowait(None))
        channel.on_delivery = lambda content: requests.put_nowait((content, clock.time()))
        # The broker holds back what is beyond that, for others that serve.
        prefetch = min(self._service.concurrency, _MAX_PREFETCH)
        await channel.call(Basic.Qos(prefetch_count=prefetch))
        await channel.call(Basic.Consume(queue=self._destination, consumer_tag=TAG))

    async def _hand_over(self) -> None:
        channel = self._channel
        assert channel is not None
        while (request := await self._requests.get()) is not None:
            if not channel.closed.done():  # else it is back in its queue
                await self._handle(channel, *request)
            del request  # or it would be kept until the next one comes

    async def _handle(self, channel: Channel, content: Content, since: float) -> None:
        properties = content.properties
        acknowledge = partial(_acknowledge, channel, content.tag)
        if properties is None or (properties.reply_to and not properties.correlation_id):
            self._transport._received_nonsense("a request with no correlation id, or unreadable")
            await acknowledge()
            return
        reply = None
        if properties.reply_to and properties.correlation_id:
            address = properties.reply_to, properties.correlation_id
            reply = partial(self._reply, acknowledge, *address)
        await self._service.wait_for_place()
        waited = asyncio.get_running_loop().time() - since
        self._service.handle(message_of(properties, content.body), reply, acknowledge, waited)

    async def _reply(
        self, acknowledge: Acknowledge, address: str, request_id: str, answer: Message
    ) -> None:
        direct = address.startswith(_DIRECT)
        send = self._transport._direct.send if direct else self._transport._send
        try:
            await send(address, request_id, answer)
        except Exception:
            # If the connection is lost, the request comes again. Otherwise it must not stay: with
            # as many as run at once the broker would send no more.
            await acknowledge()
            raise

    async def leave(self) -> None:
        """Take no more, wait for the handlers that run, and give back what did not come to one."""
        channel = self._channel
        if channel is None:
            return
        answers = await bounded(channel.call(Basic.Cancel(consumer_tag=TAG)))
        await self._service.drain()
        await bounded(channel.close(), LEAVING if answers else 0)


async def _acknowledge(channel: Channel, tag: int) -> None:
    if channel.usable:  # else it is back in its queue, and will come again
        channel.send(Basic.Ack(tag))


async def _exists(link: Link, queue: str) -> bool:
    """Return whether there is such a queue, with whatever arguments."""
    asking = await link.channel()  # which the broker closes if there is none
    try:
        await asking.call(Queue.Declare(queue=queue, passive=True))
    except Refused as error:
        if error.code == _NOT_FOUND:
            return False
        raise
    await asking.close()
    return True


async def bounded(leaving: Coroutine[Any, Any, Any], seconds: float = LEAVING) -> bool:
    """Await what takes leave of the broker, and tell whether that answered. It may be gone."""
    try:
        async with asyncio.timeout(seconds):
            await leaving
    except OSError:
        return False
    return True
