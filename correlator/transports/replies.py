"""ReplyStore: keeps replies for whoever asks later, at any replica."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl as tls
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from ..checks import check_bound, check_instance, check_seconds
from ..store import ExpiringStore
from .message import Message, check_headers

__all__ = ["MemoryReplyStore", "ReplyStore", "foreign", "found", "open_store", "pack", "unpack"]

_log = logging.getLogger("correlator")


class ReplyStore(Protocol):
    """Keeps replies by the id of their request, each for a time."""

    async def put(self, request_id: str, reply: Message, ttl: float) -> bool:
        """Keep a reply for `ttl` seconds, unless there is one already: the first wins.

        Returns:
            Whether it is kept.

        Raises:
            ConnectionError: the store cannot be reached; it may be kept or not.
            TypeError, ValueError: an argument is no good, or `ttl` longer than the store keeps
                anything.
        """
        ...

    async def get(self, request_id: str) -> Message | None:
        """Return the reply, or None if there is none or its time is up.

        What somebody else has put in its place is no reply: that is logged, and None as well.

        Raises:
            ConnectionError: the store cannot be reached.
        """
        ...


class MemoryReplyStore:
    """Keeps replies in this process: for a single replica, and for tests.

    Args:
        max_replies: how many at most. When there are so many, those that would go soonest go.
        max_bytes: the size of their bodies at most.

    Raises:
        TypeError, ValueError: an argument is no good.
    """

    def __init__(self, *, max_replies: int = 10_000, max_bytes: int = 64 * 1024 * 1024) -> None:
        check_bound("max_replies", max_replies)
        self._max_bytes = check_bound("max_bytes", max_bytes)
        self._replies: ExpiringStore[str, Message] = ExpiringStore(
            resolution=1.0, max_size=max_replies, max_bytes=max_bytes, evict=True
        )

    async def put(self, request_id: str, reply: Message, ttl: float) -> bool:
        """Keep a reply for `ttl` seconds: see `ReplyStore.put`. One too large is not kept."""
        check_reply(request_id, reply, ttl)
        now = asyncio.get_running_loop().time()
        self._forget(now)
        if request_id in self._replies or len(reply.body) > self._max_bytes:
            return False
        self._replies.add(request_id, reply, now + ttl, len(reply.body))
        return True

    async def get(self, request_id: str) -> Message | None:
        """Return the reply, or None: see `ReplyStore.get`."""
        self._forget(asyncio.get_running_loop().time())
        return self._replies.get(request_id)

    def _forget(self, now: float) -> None:
        while self._replies.purge(now, limit=1000):
            pass

    def __repr__(self) -> str:
        return f"<MemoryReplyStore with {len(self._replies)} replies>"


@asynccontextmanager
async def open_store(_url: str, _ssl: tls.SSLContext | None) -> AsyncIterator[ReplyStore]:
    """Give a store of this process's own, for the length of a block."""
    yield MemoryReplyStore()


def check_reply(request_id: Any, reply: Any, ttl: Any) -> None:
    """Check the arguments of `ReplyStore.put`. Raises TypeError or ValueError."""
    check_instance("request_id", request_id, str)
    check_instance("reply", reply, Message)
    check_seconds("ttl", ttl)


def pack(reply: Message) -> bytes:
    """Return a reply as bytes: a line of JSON that says what it is, and then its body."""
    head = {"headers": dict(reply.headers), "content_type": reply.content_type}
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + reply.body


def unpack(packed: bytes) -> Message:
    """Return what `pack` was given.

    Raises:
        ValueError: it is nothing that `pack` made.
    """
    head, line_break, body = packed.partition(b"\n")
    try:
        known = json.loads(head)
        headers, content_type = check_headers(known["headers"]), known["content_type"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError("a stored reply is none that was put there") from error
    if not line_break or not isinstance(content_type, str):
        raise ValueError("a stored reply is none that was put there")
    return Message(body, headers, content_type)


def found(store: ReplyStore, packed: bytes) -> Message | None:
    """Return the reply that a store has found, or None if it is none of ours."""
    try:
        return unpack(packed)
    except ValueError:
        foreign(store)
        return None


def foreign(store: ReplyStore) -> None:
    """Log that something lies there that is none of ours. Not what: it may be secret."""
    _log.warning("%r holds something in the place of a reply that is none", store)
