"""RedisReplyStore: keeps replies on Redis or Valkey, for all replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ..checks import check_instance
from .message import Message
from .redis_link import Server
from .replies import ReplyStore, check_reply, pack, unpack

__all__ = ["RedisReplyStore", "open_store"]


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[ReplyStore]:
    """Give a store at that server, for the length of a block."""
    server = Server.at(urlsplit(url), None)
    # Without retries: of a `SET NX` that is done twice the second says that it was not done.
    async with Redis(
        host=server.host,
        port=server.port,
        db=server.database,
        username=server.user,
        password=server.password,
        ssl=server.ssl is not None,
        retry=Retry(NoBackoff(), 0),
    ) as client:
        yield RedisReplyStore(client)


class RedisReplyStore:
    """A `ReplyStore` of keys ``<prefix><request id>``, each with its own expiry (``SET NX PX``).

    Args:
        client: a client of redis-py's that gives bytes (``decode_responses=False``). It stays the
            caller's.
        prefix: begins the keys.
    """

    def __init__(self, client: Redis, *, prefix: str = "correlator:kept:") -> None:
        check_instance("client", client, Redis)
        check_instance("prefix", prefix, str)
        self._client: Any = client
        self._prefix = prefix

    async def put(self, request_id: str, reply: Message, ttl: float) -> bool:
        """Keep a reply for `ttl` seconds: see `ReplyStore.put`."""
        check_reply(request_id, reply, ttl)
        milliseconds = max(1, round(ttl * 1000))
        try:
            kept = await self._client.set(
                self._prefix + request_id, pack(reply), nx=True, px=milliseconds
            )
        except RedisError as error:
            raise ConnectionError(f"the reply store is not there: {type(error).__name__}") from None
        return kept is not None

    async def get(self, request_id: str) -> Message | None:
        """Return the reply, or None: see `ReplyStore.get`."""
        try:
            packed = await self._client.get(self._prefix + request_id)
        except RedisError as error:
            raise ConnectionError(f"the reply store is not there: {type(error).__name__}") from None
        return None if packed is None else unpack(packed)

    def __repr__(self) -> str:
        return f"<RedisReplyStore {self._prefix!r}>"
