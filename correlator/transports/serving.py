"""Service: answers requests, so many at once, and drops what nobody waits for any more."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from inspect import isasyncgenfunction, isawaitable, iscoroutinefunction
from types import CoroutineType
from typing import Any, Final

import anyio

from ..checks import MAX_SECONDS, check_callable
from ..context import request_scope
from ..errors import CorrelationError, shown
from ..ids import is_valid_request_id
from .message import REQUEST_ID_HEADER, TIMEOUT_HEADER, Message, check_message

__all__ = ["ACKNOWLEDGED", "Dropped", "Handler", "Service", "check_handler"]

Handler = Callable[[Message], Awaitable[Message | bytes]]
"""Answers a request."""

Reply = Callable[[Message], Awaitable[object]]
"""Sends an answer. Returns `ACKNOWLEDGED` if that has acknowledged the request as well."""

ACKNOWLEDGED: Final = object()

_log = logging.getLogger("correlator")

_SENDING = 5.0  # seconds that an answer may take to go out, if its request does not say
_MAX_BACKLOG = 10_000  # requests that wait for a place, where a broker cannot be told to hold back

# What annotations say that is no awaitable.
_ANSWERS: Final = (
    *(Message, bytes, Message | bytes, None),
    *("Message", "bytes", "Message | bytes", "None"),
)


def check_handler(handler: Any) -> None:
    """Raise TypeError if `handler` is known to be no async function.

    Any other may return an awaitable, and what decorators make does: that is not known before it is
    called.
    """
    check_callable("handler", handler)
    function = handler
    while isinstance(function, partial):
        function = function.func
    if not isinstance(function, type) and not hasattr(function, "__code__"):
        function = function.__call__
    if iscoroutinefunction(function):
        return
    # What was decorated keeps its annotations, and they say nothing of the decorator's function.
    wraps = hasattr(function, "__wrapped__")
    returns = getattr(function, "__annotations__", {}).get("return", "unknown")
    if (
        isinstance(function, type)
        or isasyncgenfunction(function)
        or (returns in _ANSWERS and not wraps)
    ):
        raise TypeError(f"handler must be an async function, not {shown(handler)}")


@dataclass(slots=True)
class Dropped:
    """Counts the requests that nobody answers.

    Attributes:
        expired: those that had no time left when their turn came.
        overflowed: those that came while too many waited for their turn.
    """

    expired: int = 0
    overflowed: int = 0


async def _nothing() -> None:
    """There is nothing to acknowledge."""


class Service:
    """Runs a handler for each request of one destination."""

    def __init__(
        self,
        destination: str,
        handler: Handler,
        concurrency: int,
        error_headers: tuple[str, str],
        dropped: Dropped,
    ) -> None:
        self.destination = destination
        self.concurrency = concurrency
        self._dropped = dropped
        self._handler = handler
        self._error_headers = error_headers
        self._free = anyio.Semaphore(concurrency)
        self._backlog: deque[tuple[Message, Reply | None, float]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def run(
        self, taking: AbstractAsyncContextManager[None], services: set[Service]
    ) -> AsyncIterator[None]:
        """Serve while the block runs.

        `taking` takes requests and calls `handle` with each. When it is left it takes no more, and
        then waits for `drain`, while it can still send answers.
        """
        services.add(self)
        try:
            async with taking:
                yield
        finally:
            services.discard(self)
            self.cancel()
            await self.drain()

    def cancel(self) -> None:
        """Drop what waits and interrupt what runs: its answers can go nowhere."""
        self._backlog.clear()
        for task in self._running:
            task.cancel()

    async def drain(self) -> None:
        """Wait until nothing runs any more."""
        while self._running:
            await asyncio.wait(self._running)

    async def wait_for_place(self) -> None:
        """Wait until another request may be taken. Each wait is for one `handle`."""
        if self._free.value:
            self._free.acquire_nowait()  # without a turn of the loop for each
        else:
            await self._free.acquire()

    @property
    def places(self) -> int:
        """How many more may be taken at once."""
        return self._free.value

    def take(self, message: Message, reply: Reply | None) -> None:
        """Answer a request as soon as there is a place: for a broker that does not wait for one."""
        if len(self._backlog) >= _MAX_BACKLOG:
            self._dropped.overflowed += 1
            return
        self._backlog.append((message, reply, asyncio.get_running_loop().time()))
        self._take_next()

    def _take_next(self) -> None:
        if self._backlog and self._free.value:
            self._free.acquire_nowait()
            message, reply, since = self._backlog.popleft()
            self.handle(message, reply, waited=asyncio.get_running_loop().time() - since)

    def handle(
        self,
        message: Message,
        reply: Reply | None,
        acknowledge: Callable[[], Awaitable[object]] = _nothing,
        waited: float = 0.0,
    ) -> None:
        """Answer a request in a task of its own. Takes a place that was waited for.

        Args:
            message: the request.
            reply: sends an answer; None where none is wanted.
            acknowledge: awaited when the answer is out, and for what is dropped.
            waited: seconds the request has lain at the broker.
        """
        loop = asyncio.get_running_loop()
        left = time_left(message)
        until = None if left is None else loop.time() + left - waited
        task = loop.create_task(self._answer(message, reply, acknowledge, until), context=Context())
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._free.release()
        self._take_next()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("an answer of %r could not be sent: %s", self, type(error).__name__)

    async def _answer(
        self,
        message: Message,
        reply: Reply | None,
        acknowledge: Callable[[], Awaitable[object]],
        until: float | None,
    ) -> None:
        left = None if until is None else until - asyncio.get_running_loop().time()
        if left is not None and left <= 0:
            self._dropped.expired += 1
            await acknowledge()
            return
        request_id = message.headers.get(REQUEST_ID_HEADER)
        if not is_valid_request_id(request_id):
            request_id = None
        with request_scope(request_id, left):
            answer = await self._call(message)
        if reply is not None:
            # Nobody wants the answer after that; and the broker may be gone, for good perhaps.
            at_most = _SENDING if left is None else max(_SENDING, left)
            try:
                async with asyncio.timeout(at_most):
                    if await reply(answer) is ACKNOWLEDGED:
                        return
            except TimeoutError:
                _log.warning("an answer of %r did not go out in %.1f s", self, at_most)
        async with asyncio.timeout(_SENDING):
            await acknowledge()

    async def _call(self, message: Message) -> Message:
        """Return the handler's answer, or the error reply that stands for what it raised."""
        try:
            answering = self._handler(message)
            # The first question is what the second begins with, without the call.
            if answering.__class__ is not CoroutineType and not isawaitable(answering):
                kind = type(answering).__name__
                raise TypeError(f"a handler must be an async function; this one returned {kind}")
            answer = await answering
            if isinstance(answer, bytes):
                return Message(answer)
            if not isinstance(answer, Message):
                kind = type(answer).__name__
                raise TypeError(f"a handler must return a Message or bytes, not {kind}")
            check_message("a handler's answer", answer)
        except Exception as error:
            _log.exception("the handler of %r failed", self)
            status = error.status if isinstance(error, CorrelationError) else 500
            # The class alone: what an exception says is for this side's log.
            name, code = self._error_headers
            return Message(b"", {name: type(error).__name__, code: str(status)})
        return answer

    def __repr__(self) -> str:
        return f"<Service {self.destination!r}, {len(self._running)} of {self.concurrency} at work>"


def time_left(message: Message) -> float | None:
    """Return the seconds that a request had left when it was sent, or None if it does not say."""
    text = message.headers.get(TIMEOUT_HEADER, "")
    if not (text.isascii() and text.isdigit() and len(text) < 13):
        return None
    return min(int(text) / 1000, MAX_SECONDS)
