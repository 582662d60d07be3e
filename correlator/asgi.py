"""CorrelationMiddleware: an id and a deadline for each request of an ASGI application.

ASGI 3 (https://asgi.readthedocs.io/en/stable/specs/main.html), and nothing else: it serves
Starlette, FastAPI and whatever else speaks that, under any server.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, TypeAlias

from .checks import check_callable
from .context import nothing_ambient, request_scope
from .errors import CorrelationError
from .headers import (
    DEADLINE_HEADER,
    REQUEST_ID_HEADER,
    check_headers,
    id_from,
    timeout_from,
)
from .ids import new_request_id
from .problems import PROBLEM_TYPE, problem_body, problem_of

bound_contextvars: Callable[..., AbstractContextManager[None]] | None
try:
    from structlog.contextvars import bound_contextvars
except ModuleNotFoundError:
    bound_contextvars = None

__all__ = ["CorrelationMiddleware"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_SERVED = "correlator.served"  # in a scope: another of these is around the application
# The messages that begin a response, and hold its headers.
_BEGINS = {"http.response.start", "websocket.accept", "websocket.http.response.start"}


class CorrelationMiddleware:
    """Gives each HTTP request and WebSocket an id and a deadline.

    As `correlator.aiohttp.correlation_middleware` does: the client's id is taken if it is valid,
    else replaced; it is for logs and headers only, never a key that pairs. It is the ambient id,
    and ``request_id`` in structlog's context variables where structlog is installed. The caller's
    deadline is the ambient one. The id goes on every response. An unhandled `CorrelationError` of
    an HTTP request becomes a problem document (RFC 9457) with the error's status; that of a
    WebSocket goes on to the server. After any other exception the client gets a 500 with the id on
    it, and the exception goes on to the server, which logs it.
    What was ambient before counts for nothing: a server may run a request in the context of another
    one (https://github.com/python/cpython/issues/140947). One within another does nothing.

    Put it around the application: ``app = CorrelationMiddleware(app)``. Within a framework's own
    list of middlewares it works too, but what the framework answers outside of it has no id.

    Args:
        app: the application.
        header: where the request id stands, in requests and in responses.
        deadline_header: where callers say how many milliseconds they will wait; None to not look.
            What is not a whole number above 0 is ignored.
        new_id: makes the id of a request that brings none, or none that is valid.

    Raises:
        TypeError, ValueError: an argument is no good.
    """

    def __init__(
        self,
        app: Application,
        *,
        header: str = REQUEST_ID_HEADER,
        deadline_header: str | None = DEADLINE_HEADER,
        new_id: Callable[[], str] = new_request_id,
    ) -> None:
        check_callable("app", app)
        check_headers(header, deadline_header)
        check_callable("new_id", new_id)
        self._app = app
        self._header = header.lower().encode("ascii")
        self._deadline_header = (
            None if deadline_header is None else deadline_header.lower().encode()
        )
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket") or _SERVED in scope:
            await self._app(scope, receive, send)
            return
        request_id = id_from(_sole(scope, self._header), self._new_id)
        timeout = (
            None
            if self._deadline_header is None
            else timeout_from(_sole(scope, self._deadline_header))
        )
        response = _Response(send, self._header, request_id.encode())
        is_http = scope["type"] == "http"
        # Starlette puts itself there: if it has, it is around this, and answers crashes itself.
        is_outermost = "app" not in scope
        # In place, not in a copy: what is around this may read what the application leaves there.
        scope[_SERVED] = True
        with nothing_ambient(), request_scope(request_id, timeout), _bound(request_id):
            try:
                await self._app(scope, receive, response.send)
            except CorrelationError as error:
                if response.has_left or not is_http:
                    raise
                await response.replace(*problem_of(error))
            except Exception:
                # What `send` raises once the client has gone, from version 2.4 of ASGI's HTTP
                # specification on: it must not hide what went wrong.
                with suppress(OSError):
                    if is_http and is_outermost and not (response.has_left or response.held):
                        await response.replace(500, "Something went wrong here.", {})
                    await response.let_go()
                raise
            else:
                await response.let_go()
            finally:
                scope.pop(_SERVED, None)


class _Response:
    """The response of one request on its way out: it gets the id.

    A framework may make a 500 of an error of ours, and raise that all the same (Starlette's
    outermost middleware does). So a 500 that is sent while such an error is handled is held back
    until that is known.
    """

    def __init__(self, send: Send, header: bytes, request_id: bytes) -> None:
        self._send = send
        self._field = (header, request_id)
        self.held: list[Message] = []
        self.has_left = False

    async def send(self, message: Message) -> None:
        if message["type"] in _BEGINS:
            others = [
                (name, value)
                for name, value in message.get("headers") or ()
                if name.lower() != self._field[0]
            ]
            message = {**message, "headers": [*others, self._field]}
            is_replaceable = (
                message["type"] == "http.response.start" and message.get("status") == 500
            )
            if is_replaceable and isinstance(sys.exc_info()[1], CorrelationError):
                self.held.append(message)
                return
            self.has_left = True
        elif self.held:
            self.held.append(message)
            if not message.get("more_body", False):
                return
            await self.let_go()
            return
        await self._send(message)

    async def let_go(self) -> None:
        """Send what was held back."""
        held, self.held = self.held, []
        self.has_left = self.has_left or bool(held)
        for message in held:
            await self._send(message)

    async def replace(self, status: int, detail: str, headers: dict[str, str]) -> None:
        """Send a problem document in place of what was held back."""
        self.held.clear()
        body = problem_body(status, detail)
        fields = {**headers, "Content-Type": PROBLEM_TYPE, "Content-Length": str(len(body))}
        encoded = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
        start = {"type": "http.response.start", "status": status, "headers": encoded}
        for message in (start, {"type": "http.response.body", "body": body}):
            await self.send(message)
        await self.let_go()  # it is sent while an error of ours is handled, and may be a 500


def _sole(scope: Scope, header: bytes) -> str | None:
    """Return a header's value if the request has it once: of several, none is to be trusted."""
    values = [value for name, value in scope["headers"] if name.lower() == header]
    return values[0].decode("latin-1") if len(values) == 1 else None


def _bound(request_id: str) -> AbstractContextManager[None]:
    """Bind the id for structlog, where that is installed, for the length of a block."""
    return nullcontext() if bound_contextvars is None else bound_contextvars(request_id=request_id)
