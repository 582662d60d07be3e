"""RedisReplyStore: keeps replies on Redis or Valkey, for all replicas."""

from __future__ import annotations

import ssl as tls
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from ..checks import check_instance
from . import redis_link
from .message import Message
from .redis_server import Server
from .redis_words import reason
from .replies import ReplyStore, check_reply, foreign, found, pack

__all__ = ["RedisReplyStore", "open_store"]


def open_store(url: str, ssl: tls.SSLContext | None) -> AbstractAsyncContextManager[ReplyStore]:
    """Return a store at that server, to be used as a context manager. Raises as `Server.at`."""
    return _opened(Server.at(urlsplit(url), ssl))


@asynccontextmanager
async def _opened(server: Server) -> AsyncIterator[ReplyStore]:
    await _see(server)
    options: dict[str, Any] = {"connection_class": Connection}
    if server.ssl is not None:
        options = {"connection_class": _TlsConnection, "context": server.ssl}
    pool = ConnectionPool(
        host=server.host,
        port=server.port,
        db=server.database,
        username=server.user,
        password=server.password,
        # Without retries: of a `SET NX` that is done twice the second says that it was not done.
        retry=Retry(NoBackoff(), 0),
        **options,
    )
    async with Redis.from_pool(pool) as client:
        yield RedisReplyStore(client)


async def _see(server: Server) -> None:
    """See whether the server is there, and lets us in. Raises ConnectionError."""
    link = redis_link.Link(server)
    try:
        (pong,) = await link.call(redis_link.pack("PING"))
        if not str(pong).startswith("NOPERM"):  # who may not ask may well be let in
            redis_link.checked(pong)
    except ConnectionError as error:
        raise ConnectionError(f"could not connect to Redis at {server}: {error}") from None
    finally:
        await link.close()


class _TlsConnection(SSLConnection):
    """A connection with a context that was given, which redis-py has no argument for."""

    def __init__(self, *, context: tls.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = context


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
            raise ConnectionError(f"the reply store is not there: {reason(error)}") from None
        return kept is not None

    async def get(self, request_id: str) -> Message | None:
        """Return the reply, or None: see `ReplyStore.get`."""
        try:
            packed = await self._client.get(self._prefix + request_id)
        except RedisError as error:
            if isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE"):
                foreign(self)
                return None
            raise ConnectionError(f"the reply store is not there: {reason(error)}") from None
        return None if packed is None else found(self, packed)

    def __repr__(self) -> str:
        return f"<RedisReplyStore {self._prefix!r}>"
