"""NatsTransport: requests and replies over NATS, so that any NATS service can answer.

A request is published with a reply subject, ``<prefix>.<replica>.<epoch>.<request id>~<left>``; one
wildcard subscription takes all replies of a replica. ``left`` is how many milliseconds the request
has left: there, and not in a header, since headers cost a responder in Python half as much again.

Delivery is at most once, as NATS promises: a reply that is sent while its replica reconnects is
lost, unless its sender asks to be told.

Errors are those of NATS's service API (ADR-32 of its architecture): the headers
``Nats-Service-Error`` and ``Nats-Service-Error-Code``.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl as tls
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from inspect import signature
from typing import Any
from urllib.parse import SplitResult

import nats.errors
from nats.aio.client import Client
from typing_extensions import TypeVar

from ..checks import check_instance
from ..core import Correlator
from .base import Transport
from .message import TIMEOUT_HEADER, Message, plain_message
from .nats_link import End, Link, checked_url, dial
from .outgoing import Outgoing
from .serving import Service

__all__ = ["NatsTransport"]

V = TypeVar("V", default=Message)

_log = logging.getLogger("correlator")

_SUBJECT = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_TOKENS = re.compile(r"[^.]+(?:\.[^.]+)*")
_CONTENT_TYPE = "Content-Type"
_LEFT = "~"  # before the milliseconds that a request has left, in its reply subject
_FORWARDED = "+"  # begins what stands for an id in the address of a forwarded reply; no id has it
_LEAVE = 1.0  # seconds that taking leave may take
_AGAIN = 0.25  # seconds between attempts to connect


class NatsTransport(Transport[V]):
    """A link to NATS. See `connect` for the other arguments.

    Args:
        prefix: begins the reply subjects: ``<prefix>.<replica>.<epoch>.<request id>``. Let each
            replica's user subscribe to its own only: ``<prefix>.<replica>.>``.
        group: the queue group in which `serve` shares requests.
        ssl: for ``tls:``, a context of one's own, with a private certificate authority for example.
        client_options: go to ``nats.connect``: ``user_credentials``, ``nkeys_seed``, ``token``, ...
    """

    error_header = "Nats-Service-Error"
    error_code_header = "Nats-Service-Error-Code"

    def __init__(
        self,
        url: SplitResult,
        correlator: Correlator[str, V],
        *,
        prefix: str = "_INBOX",
        group: str = "workers",
        ssl: tls.SSLContext | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(correlator, **options)
        for name, value in (("prefix", prefix), ("group", group)):
            check_instance(name, value, str)
            if _SUBJECT.fullmatch(value) is None:
                raise ValueError(
                    f"{name} must be words of A-Z a-z 0-9 _ -, with dots, not {value!r}"
                )
        if ssl is not None:
            check_instance("ssl", ssl, tls.SSLContext)
            if url.scheme != "tls":
                raise ValueError(f"ssl is for tls:, not for {url.scheme}:")
        if client_options is not None:
            check_instance("client_options", client_options, dict)
            unknown = set(client_options) - set(signature(Client.connect).parameters)
            if unknown:
                raise TypeError(f"client_options must be nats.connect's, not {sorted(unknown)!r}")
        self._url = checked_url(url)
        self._prefix = prefix
        self._queue = group
        self._options = {} if client_options is None else dict(client_options)
        if ssl is not None:
            self._options["tls"] = ssl
        self._address = self._address_of(self.owner)
        self._skipped = len(self._address) + 1  # characters of a subject, before the id
        self._nats = Link(secure=url.scheme == "tls")
        self._forwards: dict[str, Outgoing] = {}
        self._forward_number = 0
        # What subscribes a service, and what ends that.
        self._serving: dict[Callable[[Link], Awaitable[None]], End] = {}

    def _check_name(self, destination: str) -> None:
        if _TOKENS.fullmatch(destination) is None:
            raise ValueError(
                f"destination must have no empty part between its dots for NATS, "
                f"not {destination!r}"
            )

    def _address_of(self, owner: str) -> str:
        replica, _, epoch = owner.partition("-")
        return f"{self._prefix}.{replica}.{epoch}" if epoch else f"{self._prefix}.{owner}"

    # -- the connection ------------------------------------------------------------------------

    async def _open(self) -> None:
        await self._dial()

    async def _dial(self) -> None:
        client = self._nats = Link(secure=self._url.scheme == "tls")
        try:
            await self._listen(client)
        except BaseException:
            client.abort()
            raise

    async def _listen(self, client: Link) -> None:
        task = asyncio.current_task()
        cancelling = 0 if task is None else task.cancelling()
        await dial(
            client,
            self._url,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=partial(self._on_reconnected, client),
            closed_cb=partial(self._on_closed, client),
            **{"name": f"correlator {self.replica}", **self._options},
        )
        self._unsubscribe = await client.take(f"{self._address}.*", "", self._take_reply)
        for serve in list(self._serving):
            await serve(client)
        if task is not None and task.cancelling() > cancelling:  # the client has kept it to itself
            raise asyncio.CancelledError
        self._connected()

    async def _shut(self) -> None:
        self._fail_forwards()
        # In a task, for the client keeps cancellations to itself, and may wait for ever for a
        # server that has gone silent.
        leaving = self._start(self._take_leave(), "leaving")
        await asyncio.wait([leaving], timeout=_LEAVE)
        if not leaving.done():
            self._nats.abort()
            await asyncio.wait([leaving], timeout=_LEAVE)
            leaving.cancel()

    async def _take_leave(self) -> None:
        with suppress(nats.errors.Error, OSError, TimeoutError):
            if self._was_ready:
                await self._unsubscribe()
            if self._nats.has_begun:
                await self._nats.close()

    async def _on_disconnected(self) -> None:
        self._disconnected()
        self._fail_forwards()

    async def _on_reconnected(self, client: Link) -> None:
        """The client has subscribed anew by now; once the server has seen that, go on."""
        # However long that takes: a slow link has what was buffered before it.
        while client is self._nats and client.is_connected:
            with suppress(nats.errors.Error, OSError, TimeoutError):
                await client.sync()
                self._connected()
                return
            await asyncio.sleep(_AGAIN)

    async def _on_closed(self, client: Link) -> None:
        """The client gave up, as it does on some errors of the server. We do not."""
        if self._state == "open" and client is self._nats and self._was_ready:
            self._disconnected()
            self._fail_forwards()
            self._start(self._dial_again(), "reconnect")

    async def _dial_again(self) -> None:
        while True:
            await asyncio.sleep(_AGAIN)
            try:
                await self._dial()
            except Exception as error:
                what = str(error) if isinstance(error, ConnectionError) else type(error).__name__
                _log.warning("%r could not connect: %s", self, what)
            else:
                return

    # -- sending -------------------------------------------------------------------------------

    async def _write(self, batch: list[Outgoing]) -> None:
        now = asyncio.get_running_loop().time()
        commands: list[bytes] = []
        forwards: list[str] = []
        address, largest = self._address, self._nats.max_payload
        for out in batch:
            number = ""
            if out.deadline is not None:
                to = f"{out.address} {address}.{out.request_id}{_LEFT}{out.left_ms(now)}"
            elif out.sent is not None:
                # With a reply subject, so that the server tells if nobody is there.
                self._forward_number += 1
                number = f"{_FORWARDED}{self._forward_number}"
                to = f"{out.address}.{out.request_id} {address}.{number}"
            else:
                to = out.address
            try:
                commands.append(_publish(to, out.message, largest))
            except Exception as error:  # it costs that one
                self._unsent(out, error)
                if out.deadline is None and out.sent is None:  # an answer: whoever asked is told
                    names = self.error_header, self.error_code_header
                    told = dict(zip(names, (type(error).__name__, "500"), strict=True))
                    commands.append(_publish(to, Message(b"", told), sys.maxsize))
                continue
            if number:
                self._forwards[number] = out
                forwards.append(number)
        if not commands:
            return
        await self._nats.send(commands)
        if forwards:
            # The server says that nobody is there before it answers this.
            pong = await self._nats.ping()
            pong.add_done_callback(partial(self._forwarded_to_somebody, forwards))

    def _forwarded_to_somebody(self, forwards: list[str], _pong: object) -> None:
        for number in forwards:
            self._end_forward(number, reached=True)

    def _end_forward(self, number: str, *, reached: bool) -> None:
        out = self._forwards.pop(number, None)
        if out is not None and out.sent is not None and not out.sent.done():
            out.sent.set_result(reached)

    def _fail_forwards(self) -> None:
        forwards, self._forwards = self._forwards, {}
        for out in forwards.values():
            self._unsent(out, ConnectionError("the connection was lost"))

    # -- taking --------------------------------------------------------------------------------

    def _take_reply(
        self, subject: bytes, _reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        """Settle what a message is for. Never raises: this runs in the client's reader."""
        try:
            # In Latin-1 every byte is something, and nothing that is not ASCII is part of an id.
            request_id, _, _left = subject[self._skipped :].decode("latin-1").partition(_LEFT)
            if headers is None:
                self._received_reply(request_id, plain_message(data))
            elif not headers.startswith(b"NATS/1.0 503"):
                self._received_reply(request_id, _message(data, headers))
            elif request_id.startswith(_FORWARDED):
                self._end_forward(request_id, reached=False)
            else:
                self._no_responder(request_id)
        except Exception as error:
            self._received_nonsense(error)

    @asynccontextmanager
    async def _serve(self, destination: str, service: Service) -> AsyncIterator[None]:
        def take(_subject: bytes, to: bytes, data: bytes, headers: bytes | None) -> None:
            reply = to.decode(errors="replace")  # whatever bytes a stranger put there
            try:
                message = Message(data) if headers is None else _message(data, headers)
            except ValueError as error:
                self._received_nonsense(error)
                return
            _, mark, left = reply.rpartition(_LEFT)
            if mark:  # where all brokers have it
                headers_too = {TIMEOUT_HEADER: left, **message.headers}
                message = Message(message.body, headers_too, message.content_type)
            service.take(message, partial(self._answer, reply) if reply else None)

        async def serve(client: Link) -> None:
            self._serving[serve] = await client.take(destination, self._queue, take)

        await serve(self._nats)
        try:
            yield
        finally:
            end = self._serving.pop(serve)
            await end()
            await service.drain()
            with suppress(nats.errors.Error, OSError, TimeoutError):
                await self._nats.sync(1)  # the last answers are out

    async def _answer(self, subject: str, message: Message) -> None:
        self._put(Outgoing(subject, "", message))


def _publish(to: str, message: Message, largest: int) -> bytes:
    """Return the command that publishes a message to a subject, with a reply subject or none.

    Raises:
        MaxPayloadError: it has more bytes, with its headers, than the server takes.
    """
    body = message.body
    if not message.headers and not message.content_type:
        if len(body) > largest:
            raise nats.errors.MaxPayloadError  # the server would end the connection
        return b"PUB %b %d\r\n%b\r\n" % (to.encode(), len(body), body)
    lines = f"{_CONTENT_TYPE}: {message.content_type}\r\n" if message.content_type else ""
    for name, value in message.headers.items():
        lines += f"{name}: {value}\r\n"
    head = f"NATS/1.0\r\n{lines}\r\n".encode()
    if len(head) + len(body) > largest:
        raise nats.errors.MaxPayloadError
    size = len(head)
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (to.encode(), size, size + len(body), head, body)


def _message(data: bytes, headers: bytes) -> Message:
    """Return a message with headers. Raises ValueError where they are none."""
    first, *lines = headers.decode().split("\r\n")
    if not first.startswith("NATS/1.0"):
        raise ValueError("its headers do not begin as NATS's do")
    parsed: dict[str, str] = {}
    content_type = ""
    for line in lines:
        if line:
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError("a header line has no colon")
            if name == _CONTENT_TYPE:
                content_type = value.strip()
            else:
                parsed[name] = value.strip()
    return Message(data, parsed, content_type)
