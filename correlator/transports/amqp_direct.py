"""DirectReplies: answers to RabbitMQ's direct reply-to, over a connection of their own.

RabbitMQ makes such an address out of a process's id; but whoever asks may write one of his own, and
one from another cluster comes by federation. Where RabbitMQ cannot read one, it closes the whole
connection of who sends there, not only the channel (rabbitmq/rabbitmq-server#3751). So what that
costs must be nobody's else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from pamqp.commands import Basic

from .amqp_content import headers_of
from .amqp_link import Channel, Link, Refused
from .amqp_taking import bounded
from .message import Message

__all__ = ["DirectReplies"]

_INTERNAL_ERROR: Final = 541


class DirectReplies:
    """Sends answers to direct reply-to addresses. The connection is made for the first of them.

    No confirm is waited for: with these addresses RabbitMQ promises nothing to whoever asks, and
    who asks again is done with the sooner.

    Args:
        dial: returns a new connection.
        unreadable: called when the broker could not read an address.
    """

    def __init__(self, dial: Callable[[], Awaitable[Link]], unreadable: Callable[[], None]) -> None:
        self._dial = dial
        self._unreadable = unreadable
        self._opening = asyncio.Lock()
        self._link: Link | None = None
        self._channel: Channel | None = None
        self._left = False

    async def send(self, address: str, request_id: str, answer: Message) -> None:
        """Send an answer.

        Raises:
            OSError: there is no connection to be had.
            ValueError, TypeError: the answer cannot go over AMQP.
        """
        async with self._opening:
            link, channel = self._link, self._channel
            if link is None or channel is None or not channel.usable:
                link, channel = await self._open()
        properties = Basic.Properties(
            content_type=answer.content_type, headers=headers_of(answer), correlation_id=request_id
        )
        link.write(channel.marshal(address, properties, answer.body))
        await link.drain()

    async def _open(self) -> tuple[Link, Channel]:
        if self._link is not None:
            await self._link.drop()  # a connection of which the channel was closed is of no use
        link = self._link = await self._dial()
        if self._left:  # meanwhile, or before: a handler may go on though it was cancelled
            await link.drop()
            raise ConnectionError("the transport is closed")
        channel = self._channel = await link.channel()
        channel.closed.add_done_callback(self._closed)
        return link, channel

    def _closed(self, closed: asyncio.Future[Exception]) -> None:
        error = closed.result()
        if isinstance(error, Refused) and error.code == _INTERNAL_ERROR:
            self._unreadable()

    async def leave(self) -> None:
        """Let what was sent arrive, and drop the connection."""
        self._left = True
        link = self._link
        if link is None:
            return
        try:
            if not link.lost:
                await bounded(link.close())
        finally:
            await link.drop()
