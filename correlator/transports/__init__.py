"""Transports: a replica's link to a broker: requests go out, and replies find their owner."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Any, Literal, NamedTuple, TypedDict, overload
from urllib.parse import SplitResult, urlsplit

from typing_extensions import TypeVar, Unpack

from ..core import Correlator
from .base import Transport
from .message import Message
from .replies import MemoryReplyStore, ReplyStore
from .serving import Handler
from .stats import TransportStats

__all__ = [
    "SCHEMES",
    "BrokerOptions",
    "Handler",
    "MemoryReplyStore",
    "Message",
    "ReplyStore",
    "Transport",
    "TransportStats",
    "connect",
    "reply_store",
]

V = TypeVar("V", default=Message)


class BrokerOptions(TypedDict, total=False):
    """What else `connect` takes. Which of them a broker knows, its transport says."""

    prefix: str
    group: str
    reply_ttl: float
    ssl: ssl.SSLContext | None
    client_options: dict[str, Any] | None


class _Broker(NamedTuple):
    """A kind of broker: the module and its class, the store's module, and the extra they need."""

    module: str
    transport: str
    store: str
    extra: str = ""


_MEMORY = _Broker("memory", "MemoryTransport", "replies")
_NATS = _Broker("nats", "NatsTransport", "nats_replies", "nats")
_REDIS = _Broker("redis", "RedisTransport", "redis_replies", "redis")
_AMQP = _Broker("amqp", "AmqpTransport", "replies", "amqp")
_BROKERS = {
    "memory": _MEMORY,
    "nats": _NATS,
    "tls": _NATS,
    "redis": _REDIS,
    "rediss": _REDIS,
    "valkey": _REDIS,
    "valkeys": _REDIS,
    "amqp": _AMQP,
    "amqps": _AMQP,
}

SCHEMES = tuple(_BROKERS)
"""The schemes of URLs that `connect` takes."""


@overload
def connect(
    url: str,
    correlator: Correlator[str, Message],
    *,
    replica: str = ...,
    on_disconnect: Literal["wait", "fail"] = ...,
    **options: Unpack[BrokerOptions],
) -> Transport[Message]: ...


@overload
def connect(
    url: str,
    correlator: Correlator[str, V],
    *,
    decode: Callable[[Message], V],
    replica: str = ...,
    on_disconnect: Literal["wait", "fail"] = ...,
    **options: Unpack[BrokerOptions],
) -> Transport[V]: ...


def connect(
    url: str,
    correlator: Correlator[str, Any],
    *,
    decode: Callable[[Message], Any] | None = None,
    replica: str = "replica",
    on_disconnect: Literal["wait", "fail"] = "wait",
    **options: Unpack[BrokerOptions],
) -> Transport[Any]:
    """Return a link to the broker at `url`, to be used as an async context manager.

    Args:
        url: the broker's, by scheme: ``memory:``, ``nats:``, ``tls:`` (NATS over TLS), ``redis:``,
            ``rediss:``, ``valkey:``, ``valkeys:``, ``amqp:`` or ``amqps:``. A user and a password
            may be in it; it is never logged.
        correlator: pairs the replies. Enter it first.
        decode: makes of a reply what the correlator gives to callers; by default the `Message`.
        replica: begins this replica's name at the broker: 1 to 31 characters out of
            ``A-Z a-z 0-9 _``. Each start adds a fresh random epoch.
        on_disconnect: what becomes of pending requests when the connection is lost: ``"wait"``, for
            the reply may still come, or ``"fail"``: they end with `CorrelatorClosed`, and so do
            those that are made before it is back.
        **options: what else the broker's transport takes; see there.

    Raises:
        ValueError: an argument is no good, or the scheme is unknown.
        TypeError: an argument is of the wrong type.
        ImportError: the broker's client is not installed. The message names the extra.
    """
    parts, broker = _parse(url)
    transport = getattr(_load(broker.module, broker), broker.transport)
    made: Transport[Any] = transport(
        parts,
        correlator,
        replica=replica,
        on_disconnect=on_disconnect,
        decode=decode,
        **options,
    )
    return made


def reply_store(
    url: str, *, ssl: ssl.SSLContext | None = None
) -> AbstractAsyncContextManager[ReplyStore]:
    """Return the reply store that goes with a broker, to be used as an async context manager.

    On NATS and on Redis or Valkey all replicas share it. RabbitMQ has nothing of the kind, so with
    ``amqp:`` each replica keeps its own in memory, as with ``memory:``: give those another store.

    Args:
        url: as for `connect`.
        ssl: as for `connect`: a context of one's own, for a URL that asks for TLS. What is kept in
            memory has no use for one.

    Entering it raises `ConnectionError` if nobody is there, or refuses us.

    Raises:
        ValueError: the scheme is unknown, or the URL or `ssl` is no good for that broker.
        TypeError: an argument is of the wrong type.
        ImportError: the broker's client is not installed. The message names the extra.
    """
    _, broker = _parse(url)
    open_store = _load(broker.store, broker).open_store
    opened: AbstractAsyncContextManager[ReplyStore] = open_store(url, ssl)
    return opened


def _parse(url: Any) -> tuple[SplitResult, _Broker]:
    if not isinstance(url, str):
        raise TypeError(f"url must be a string, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
    except ValueError:  # which quotes all of it, and there may be a password in it
        raise ValueError("url must be one by RFC 3986, and is not") from None
    if parts.scheme not in _BROKERS:
        raise ValueError(
            f"url must begin with one of {', '.join(_BROKERS)} and a colon, not {parts.scheme!r}"
        )
    return parts, _BROKERS[parts.scheme]


def _load(module: str, broker: _Broker) -> Any:
    try:
        return import_module(f".{module}", __name__)
    except ModuleNotFoundError as error:
        if not broker.extra or (error.name or "").startswith("correlator"):
            raise
        raise ImportError(
            f"this broker needs the extra {broker.extra!r}, as in aiocorrelator[{broker.extra}]"
        ) from error
