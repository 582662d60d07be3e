"""Transports: a replica's link to a broker: requests go out, and replies find their owner."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal, overload
from urllib.parse import urlsplit

from typing_extensions import TypeVar

from ..core import Correlator
from .base import Transport, TransportStats
from .message import Message
from .serving import Handler

__all__ = ["Handler", "Message", "Transport", "TransportStats", "connect"]

V = TypeVar("V", default=Message)

# By scheme: the module, its class, and the extra that brings what it needs.
_BROKERS = {
    "memory": ("memory", "MemoryTransport", ""),
    "nats": ("nats", "NatsTransport", "nats"),
    "tls": ("nats", "NatsTransport", "nats"),
    "redis": ("redis", "RedisTransport", "redis"),
    "rediss": ("redis", "RedisTransport", "redis"),
    "valkey": ("redis", "RedisTransport", "redis"),
    "valkeys": ("redis", "RedisTransport", "redis"),
    "amqp": ("amqp", "AmqpTransport", "amqp"),
    "amqps": ("amqp", "AmqpTransport", "amqp"),
}


@overload
def connect(
    url: str,
    correlator: Correlator[str, Message],
    *,
    replica: str = ...,
    on_disconnect: Literal["wait", "fail"] = ...,
    **options: Any,
) -> Transport[Message]: ...


@overload
def connect(
    url: str,
    correlator: Correlator[str, V],
    *,
    decode: Callable[[Message], V],
    replica: str = ...,
    on_disconnect: Literal["wait", "fail"] = ...,
    **options: Any,
) -> Transport[V]: ...


def connect(
    url: str,
    correlator: Correlator[str, Any],
    *,
    decode: Callable[[Message], Any] | None = None,
    replica: str = "replica",
    on_disconnect: Literal["wait", "fail"] = "wait",
    **options: Any,
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
    if not isinstance(url, str):
        raise TypeError(f"url must be a string, not {type(url).__name__}")
    parts = urlsplit(url)
    if parts.scheme not in _BROKERS:
        raise ValueError(
            f"url must begin with one of {', '.join(_BROKERS)} and a colon, not {parts.scheme!r}"
        )
    module, kind, extra = _BROKERS[parts.scheme]
    try:
        transport = getattr(import_module(f".{module}", __name__), kind)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{parts.scheme}: needs the extra {extra!r}: pip install 'aiocorrelator[{extra}]'"
        ) from error
    made: Transport[Any] = transport(
        parts, correlator, replica=replica, on_disconnect=on_disconnect, decode=decode, **options
    )
    return made
