"""MemoryTransport: replicas in one process, for tests and for trying things out.

All that name the same bus (``memory:`` or ``memory:name``) and run on the same event loop reach
each other. What it promises is what a broker in the same process can: nothing is lost on the way.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import SplitResult
from weakref import WeakKeyDictionary

from typing_extensions import TypeVar

from ..core import Correlator
from .base import Transport
from .message import TIMEOUT_HEADER, Message
from .outgoing import Outgoing
from .serving import Service

__all__ = ["MemoryTransport"]

V = TypeVar("V", default=Message)


class _Bus:
    """Who listens where."""

    def __init__(self) -> None:
        self.inboxes: dict[str, Callable[[str, Message], None]] = {}
        self.services: dict[str, list[Service]] = {}

    def take_turns(self, destination: str) -> Service | None:
        """Return whose turn it is at a destination."""
        services = self.services.get(destination)
        if not services:
            return None
        services.append(services.pop(0))
        return services[-1]


_buses: WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.WeakValueDictionary[str, _Bus]] = (
    WeakKeyDictionary()
)


class MemoryTransport(Transport[V]):
    """A link to a bus in this process. See `connect` for the arguments."""

    def __init__(self, url: SplitResult, correlator: Correlator[str, V], **options: Any) -> None:
        super().__init__(correlator, **options)
        self._name = url.netloc + url.path

    async def _open(self) -> None:
        buses = _buses.setdefault(asyncio.get_running_loop(), weakref.WeakValueDictionary())
        self._bus = buses.setdefault(self._name, _Bus())
        self._bus.inboxes[self.owner] = self._received_reply
        self._connected()

    async def _shut(self) -> None:
        if self._was_ready:
            self._bus.inboxes.pop(self.owner, None)

    def _address_of(self, owner: str) -> str:
        return owner

    async def _write(self, batch: list[Outgoing]) -> None:
        loop = asyncio.get_running_loop()
        for each in batch:
            if each.deadline is None:
                inbox = self._bus.inboxes.get(each.address)
                if inbox is not None:
                    loop.call_soon(inbox, each.request_id, each.message)
                assert each.sent is not None, "a reply's sender wants to know"
                if not each.sent.done():
                    each.sent.set_result(inbox is not None)
                continue
            service = self._bus.take_turns(each.address)
            if service is None:
                self._no_responder(each.request_id)
                continue
            message = each.message
            headers = {**message.headers, TIMEOUT_HEADER: str(each.left_ms(loop.time()))}
            request = Message(message.body, headers, message.content_type)
            service.take(request, partial(self._send_back, self._bus, self.owner, each.request_id))

    @staticmethod
    async def _send_back(bus: _Bus, owner: str, request_id: str, message: Message) -> None:
        inbox = bus.inboxes.get(owner)
        if inbox is not None:
            inbox(request_id, message)

    @asynccontextmanager
    async def _serve(self, destination: str, service: Service) -> AsyncIterator[None]:
        services = self._bus.services.setdefault(destination, [])
        services.append(service)
        try:
            yield
        finally:
            services.remove(service)
            if not services:
                self._bus.services.pop(destination, None)
            await service.drain()
