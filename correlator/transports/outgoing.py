"""Outgoing: something to be sent; and Outbox: what waits to be."""

from __future__ import annotations

import asyncio

from .message import Message

__all__ = ["Outbox", "Outgoing"]


class Outgoing:
    """Something to be sent.

    Attributes:
        address: a destination, or a reply address.
        request_id: the id that pairs it.
        message: what is sent.
        deadline: when nobody wants it any more, on the loop's clock; None for a reply.
        sent: where given, gets whether it reached a place where somebody takes it.
    """

    __slots__ = ("address", "deadline", "message", "request_id", "sent")

    def __init__(
        self,
        address: str,
        request_id: str,
        message: Message,
        deadline: float | None = None,
        sent: asyncio.Future[bool] | None = None,
    ) -> None:
        self.address = address
        self.request_id = request_id
        self.message = message
        self.deadline = deadline
        self.sent = sent

    def left_ms(self, now: float) -> int:
        """Return the milliseconds left of a request at `now`, on the loop's clock."""
        assert self.deadline is not None, "a reply has no deadline"
        return max(0, int((self.deadline - now) * 1000))


class Outbox:
    """What waits to be sent, in order. What has ended meanwhile leaves it at once."""

    __slots__ = ("_idle", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[Outgoing, None] = {}
        self._idle: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, outgoing: Outgoing) -> None:
        """Add something, and wake who waits in `filled`."""
        self._waiting[outgoing] = None
        if self._idle is not None:
            self._idle.set_result(None)
            self._idle = None

    def discard(self, outgoing: Outgoing) -> None:
        """Take something out, if it is there."""
        self._waiting.pop(outgoing, None)

    def clear(self) -> None:
        """Take everything out."""
        self._waiting.clear()

    async def filled(self) -> None:
        """Wait until there is something. For one task at a time."""
        if not self._waiting:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    def take(self) -> list[Outgoing]:
        """Take everything out, and return it."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken
