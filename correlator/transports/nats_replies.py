"""NatsReplyStore: keeps replies in a key-value bucket of NATS's JetStream, for all replicas."""

from __future__ import annotations

import ssl as tls
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import ceil
from typing import Any
from urllib.parse import SplitResult, urlsplit

import nats.errors
from nats.aio.client import Client
from nats.js.api import KeyValueConfig
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from ..checks import check_bound, check_instance, check_seconds
from .message import Message
from .nats_link import Link, checked_url, dial
from .replies import ReplyStore, check_reply, found, pack

__all__ = ["NatsReplyStore", "open_store"]


def open_store(url: str, ssl: tls.SSLContext | None) -> AbstractAsyncContextManager[ReplyStore]:
    """Return a store at that server, to be used as a context manager.

    Raises:
        ValueError: the URL names no server, or `ssl` is given and it does not ask for TLS.
        TypeError: `ssl` is no context.
    """
    server = checked_url(urlsplit(url))
    if ssl is None:
        return _opened(server, {})
    check_instance("ssl", ssl, tls.SSLContext)
    if server.scheme != "tls":
        raise ValueError(f"ssl is for tls:, not for {server.scheme}:")
    return _opened(server, {"tls": ssl})


@asynccontextmanager
async def _opened(server: SplitResult, options: dict[str, Any]) -> AsyncIterator[ReplyStore]:
    client = Link(secure=server.scheme == "tls")
    await dial(client, server, **options)
    try:
        yield NatsReplyStore(client)
    finally:
        await client.close()


class NatsReplyStore:
    """A `ReplyStore` in a bucket, which is made where there is none.

    Needs NATS 2.11 or newer, with JetStream.

    Args:
        client: a client of nats-py's, connected. It stays the caller's.
        bucket: the bucket's name.
        longest: seconds for which the bucket keeps anything at most.
        replicas: on how many servers of a cluster the bucket lies.
    """

    def __init__(
        self,
        client: Client,
        *,
        bucket: str = "correlator-kept",
        longest: float = 86_400.0,
        replicas: int = 1,
    ) -> None:
        check_instance("client", client, Client)
        check_instance("bucket", bucket, str)
        self._longest = check_seconds("longest", longest)
        check_bound("replicas", replicas)
        self._streams = client.jetstream()
        self._config = KeyValueConfig(bucket=bucket, ttl=longest, replicas=replicas)
        self._bucket: KeyValue | None = None

    async def put(self, request_id: str, reply: Message, ttl: float) -> bool:
        """Keep a reply for `ttl` seconds, in whole ones: see `ReplyStore.put`.

        Raises:
            ValueError: also if `ttl` is more than `longest`, after which the server would forget
                it in any case.
        """
        check_reply(request_id, reply, ttl)
        if ttl > self._longest:
            raise ValueError(f"ttl must be at most {self._longest} s, not {ttl!r}: see `longest`")
        try:
            bucket = await self._open()
            await bucket.create(request_id, pack(reply), msg_ttl=ceil(ttl))
        except KeyWrongLastSequenceError:
            return False
        except (OSError, nats.errors.Error) as error:
            raise ConnectionError(f"the reply store is not there: {type(error).__name__}") from None
        return True

    async def get(self, request_id: str) -> Message | None:
        """Return the reply, or None: see `ReplyStore.get`."""
        try:
            entry = await (await self._open()).get(request_id)
        except KeyNotFoundError:
            return None
        except (OSError, nats.errors.Error) as error:
            raise ConnectionError(f"the reply store is not there: {type(error).__name__}") from None
        return None if entry.value is None else found(self, entry.value)

    async def _open(self) -> KeyValue:
        if self._bucket is None:
            try:
                self._bucket = await self._streams.key_value(self._config.bucket)
            except BucketNotFoundError:
                self._bucket = await self._streams.create_key_value(self._config)
        return self._bucket

    def __repr__(self) -> str:
        return f"<NatsReplyStore {self._config.bucket!r}>"
