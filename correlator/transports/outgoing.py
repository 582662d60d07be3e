"""Outgoing: something to be sent, and how it becomes known whether it was."""

from __future__ import annotations

import asyncio

from .message import Message

__all__ = ["Outgoing"]


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
