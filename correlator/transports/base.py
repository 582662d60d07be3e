"""Transport: what all brokers have in common.

A replica has one reply address, which names it (the owner of its pendings) and its present life (a
fresh random epoch). A request goes out with that address and its id; whoever answers sends to the
address; the reader there resolves the id. No table of who owns what, no broadcast, and nothing is
made for a request but its pending.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Any, Literal, Self

from typing_extensions import TypeVar

from ..checks import check_bound, check_callable, check_instance, check_owner, check_seconds
from ..context import current_request_id
from ..core import Correlator
from ..errors import CorrelatorClosed, shown
from ..group import Group
from ..ids import new_request_id
from ..pending import RESOLVED
from .message import (
    Message,
    check_destination,
    check_message,
    check_request_id,
    message_from,
    plain_message,
)
from .outgoing import Outgoing
from .serving import Handler, Service, check_handler
from .traffic import Traffic

__all__ = ["Transport"]

V = TypeVar("V", default=Message)

_log = logging.getLogger("correlator")

_MAX_DESTINATIONS = 1000
_REPLICA = re.compile(r"[A-Za-z0-9_]{1,31}")


class Transport(Traffic[V]):
    """One replica's link to a broker. Made by `connect`, and used as an async context manager.

    Attributes:
        owner: names this replica, in this life, among all: 1 to 64 characters out of
            ``A-Z a-z 0-9 _ -``.
    """

    def __init__(
        self,
        correlator: Correlator[str, V],
        *,
        replica: Any,
        on_disconnect: Literal["wait", "fail"],
        decode: Callable[[Message], V] | None,
    ) -> None:
        check_instance("correlator", correlator, Correlator)
        if not isinstance(replica, str) or _REPLICA.fullmatch(replica) is None:
            raise ValueError(
                f"replica must be 1 to 31 characters out of A-Z a-z 0-9 _, not {shown(replica)}"
            )
        if on_disconnect not in ("wait", "fail"):
            raise ValueError(f'on_disconnect must be "wait" or "fail", not {on_disconnect!r}')
        if decode is not None:
            check_callable("decode", decode)
        super().__init__(correlator, replica=replica, decode=decode)
        self._fails = on_disconnect == "fail"
        self._fate: Group[str, V] | None = None  # of what is pending here, and ends together
        self._destinations: set[str] = set()  # that were checked
        self._tasks: set[asyncio.Task[None]] = set()
        self._services: set[Service] = set()
        self._was_ready = False

    # -- what a broker's module does -----------------------------------------------------------

    @abstractmethod
    async def _open(self) -> None:
        """Connect, listen at the reply address, and call `_connected`."""

    @abstractmethod
    async def _shut(self) -> None:
        """Give back what is held at the broker, and disconnect. Called also if `_open` failed."""

    @abstractmethod
    def _address_of(self, owner: str) -> str:
        """Return the reply address of a replica."""

    @abstractmethod
    def _serve(self, destination: str, service: Service) -> AbstractAsyncContextManager[None]:
        """Take requests for `destination` and hand each to `service`, until the block is left."""

    # -- life ----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise CorrelatorClosed(f"{self!r} was entered before: it is used once, connect anew")
        self._state = "open"
        try:
            await self._open()
        except BaseException:
            await self._leave()
            raise
        self._start(self._empty_outbox(), "outbox")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        """Stop. What is pending here can get no reply any more, so it ends."""
        self._state = "closed"
        self._ready.clear()
        self._end_all("was closed")
        for service in list(self._services):
            service.cancel()
        for sent in self._sending:
            if not sent.done():
                sent.set_exception(CorrelatorClosed(f"{self!r} was closed"))
        self._outbox.clear()
        try:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            await self._shut()

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start something that runs for as long as this does, in a context of nobody's."""
        task = asyncio.get_running_loop().create_task(
            work, name=f"correlator-{name}", context=contextvars.Context()
        )
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s of %r died: %s", task.get_name(), self, type(error).__name__)

    def _connected(self) -> None:
        """The reply address is listened at: from now on requests may go out."""
        if self._state != "open" or self._ready.is_set():
            return
        if self._was_ready:
            self._reconnects += 1
            _log.info("%r is connected again", self)
        self._was_ready = True
        if self._fate is None or self._fate.closed:
            with suppress(CorrelatorClosed):  # then nobody can ask, connected or not
                self._fate = self._correlator.group(f"transport {self.owner}")
        self._ready.set()

    def _disconnected(self) -> None:
        """The connection is lost. Whether what is pending waits for the next is the user's word."""
        if self._ready.is_set():
            _log.warning("%r has lost its connection", self)
        self._ready.clear()
        if self._fails:
            self._end_all("has lost its connection")

    def _end_all(self, why: str) -> None:
        if self._fate is not None and not self._fate.closed:
            self._fate.close(CorrelatorClosed(f"{self!r} {why}"))

    # -- asking --------------------------------------------------------------------------------

    async def request(
        self,
        destination: str,
        body: bytes,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str = "",
        context: Any = None,
        label: str | None = None,
    ) -> V:
        """Send a request and return its reply.

        Args:
            destination: where it goes: 1 to 255 characters out of ``A-Z a-z 0-9 . _ : / -``.
            body: what is sent.
            timeout: seconds for all of it; by default the correlator's.
            headers: go along.
            content_type: says what the body is.
            context: comes back as `Pending.context`.
            label: as for `Correlator.register`.

        Raises:
            RequestRejected: the responder answered with an error, its `reply`; or the request could
                not be sent, and its cause says why.
            NoResponder: the broker says that nobody listens.
            RequestTimeout, CapacityExceeded: as `Correlator.correlate`.
            CorrelatorClosed: it was not entered or is closed; or the connection is lost, with
                ``on_disconnect="fail"``.
            TypeError, ValueError: an argument is no good. Nothing was sent.
        """
        if destination.__class__ is not str or destination not in self._destinations:
            self._check_destination(destination)
        correlation_id = current_request_id()
        plain = headers is None and not content_type and correlation_id is None
        if plain and body.__class__ is bytes:
            message = plain_message(body)
        else:
            message = message_from(body, headers, content_type, correlation_id)
        if self._state != "open":
            self._check_open()  # before anything is registered
        # As `correlate` does, with a send that cannot wait: so there is nothing to interrupt.
        correlator, fate = self._correlator, self._fate
        size = len(body)
        if correlator._waits:
            pending = await correlator._admit(None, timeout, context, size, False, label, fate)
        else:
            pending = correlator._register(None, timeout, context, size, False, label, fate)
        request_id = pending.request_id
        outgoing = Outgoing(destination, request_id, message, pending.deadline)
        try:
            if correlator._new_id is not new_request_id:  # whose ids are known to be good
                check_request_id(request_id)
            self._put(outgoing)
        except BaseException:
            pending.cancel()
            raise
        # `return await pending`, written out as in `correlate`.
        try:
            if pending._outcome is None:
                new_waiter = correlator._new_waiter
                waiter = new_waiter()
                pending._waiters += (waiter,)
                try:
                    await waiter
                except BaseException:
                    pending._abandon(waiter)
                    raise
        finally:
            self._outbox.discard(outgoing)
        if pending._outcome is RESOLVED:
            return pending._result  # type: ignore[no-any-return]  # a V, by `resolve`
        return pending._response()

    async def forward(
        self, owner: str, request_id: str, message: Message, *, timeout: float = 5.0
    ) -> bool:
        """Send a reply that came here to the replica that waits for it; tell whether it is there.

        Args:
            owner: the other's `Transport.owner`.
            request_id: the id of its pending.
            message: the reply.
            timeout: seconds for that, and for the connection to come back if it is lost.

        Raises:
            ConnectionError: it could not be sent, or not in time; it may have gone out or not.
            CorrelatorClosed: it was not entered or is closed.
            TypeError, ValueError: an argument is no good. Nothing was sent.
        """
        check_owner(owner)
        check_message("message", message)
        check_seconds("timeout", timeout)
        check_request_id(request_id)
        self._check_open()
        try:
            async with asyncio.timeout(timeout):
                reached = await self._send(self._address_of(owner), request_id, message)
        except TimeoutError:
            raise ConnectionError(f"{self!r} could not forward a reply in {timeout} s") from None
        except (ConnectionError, CorrelatorClosed):
            raise
        except Exception as error:  # of the broker's client
            kind = type(error).__name__
            raise ConnectionError(f"{self!r} could not forward a reply: {kind}") from error
        self._forwarded += reached
        return reached

    # -- answering -----------------------------------------------------------------------------

    def serve(
        self, destination: str, handler: Handler, *, concurrency: int = 100
    ) -> AbstractAsyncContextManager[None]:
        """Answer the requests for a destination, for the length of an ``async with`` block.

        Several replicas may serve one destination; each request goes to one of them. What has no
        time left when its turn comes is dropped. What a handler raises is answered with an error
        reply, which names the exception's class and nothing else. Leaving the block takes no more
        requests and waits for the handlers that run.

        Args:
            destination: as for `request`.
            handler: an async function that is awaited with each `Message` and returns the reply: a
                `Message`, or bytes. What is left of the request's time is the ambient deadline.
            concurrency: how many run at once.

        Raises:
            CorrelatorClosed: it was not entered or is closed.
            TypeError, ValueError: an argument is no good.
        """
        self._check_destination(destination)
        check_handler(handler)
        check_bound("concurrency", concurrency)
        self._check_open()
        errors = (self.error_header, self.error_code_header)
        service = Service(destination, handler, concurrency, errors, self._dropped)
        return service.run(self._serve(destination, service), self._services)

    # -- checks --------------------------------------------------------------------------------

    def _check_destination(self, destination: str) -> None:
        """Refuse what is no destination, and remember what is. Raises ValueError or TypeError."""
        check_destination(destination)
        self._check_name(destination)
        if len(self._destinations) >= _MAX_DESTINATIONS:
            self._destinations.clear()
        self._destinations.add(destination)

    def _check_name(self, destination: str) -> None:
        """Refuse what this broker, other than others, cannot take for one. Raises ValueError."""
