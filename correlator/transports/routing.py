"""CallbackRouter: a callback that arrives at any replica reaches the one that waits, or is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..aiohttp import CallbackReply  # before what comes with it: it says which extra is missing

# isort: split
from multidict import CIMultiDict

from ..checks import check_instance, check_seconds
from .base import Transport
from .message import Message, check_headers
from .replies import ReplyStore

__all__ = ["CallbackRouter", "callback_reply"]


def callback_reply(message: Message) -> CallbackReply:
    """Return a forwarded callback as what it was. It is the `decode` to give to `connect`."""
    headers = CIMultiDict(message.headers)
    if message.content_type:
        headers.setdefault("Content-Type", message.content_type)
    return CallbackReply(200, headers, message.body)


class CallbackRouter:
    """Forwards callbacks to their owners, and keeps those whose owner has gone.

    Give it to `callback_route`, and its `owner` to `CallbackClient` or `callback_middleware`::

        connect(url, correlator, decode=callback_reply)

    Args:
        transport: the link to the other replicas.
        store: keeps the replies whose owner has gone. Where it is None they are lost.
        ttl: seconds for which it does.

    Attributes:
        owner: this replica's name.

    Raises:
        TypeError, ValueError: an argument is no good.
    """

    def __init__(
        self, transport: Transport[Any], *, store: ReplyStore | None = None, ttl: float = 300.0
    ) -> None:
        check_instance("transport", transport, Transport)
        for verb in ("put", "get"):
            if store is not None and not callable(getattr(store, verb, None)):
                raise TypeError(f"store must be a ReplyStore, not {type(store).__name__}")
        self.owner: str = transport.owner
        self._transport = transport
        self._kept = store
        self._ttl = check_seconds("ttl", ttl)

    async def route(self, owner: str, request_id: str, reply: CallbackReply) -> bool:
        """Take a callback to its owner, or else keep it; tell whether either was done.

        Raises:
            ConnectionError: the broker or the store cannot be reached.
            CorrelatorClosed: the transport is closed.
        """
        message = _message(reply)
        if await self._transport.forward(owner, request_id, message):
            return True
        if self._kept is None:
            return False
        await self._kept.put(request_id, message, self._ttl)
        return True  # also where another is kept already: the first wins, and it was not lost


# Those of the connection it came by (RFC 9110, section 7.6.1) and of how its body was sent, and
# secrets that are for whoever took it.
_NOT_FORWARDED = {
    *("connection", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding"),
    *("upgrade", "content-encoding", "content-length", "content-type"),
    *("authorization", "cookie", "proxy-authorization"),
}


def _message(reply: CallbackReply) -> Message:
    """Return a callback as what can be forwarded, with those of its headers that can be."""
    headers = {
        name: value
        for name, value in reply.headers.items()
        if name.lower() not in _NOT_FORWARDED and _can_go({name: value})
    }
    return Message(reply.body, headers, reply.headers.get("Content-Type", ""))


def _can_go(headers: Mapping[str, str]) -> bool:
    try:
        check_headers(headers)
    except ValueError:
        return False
    return True
