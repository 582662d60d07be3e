"""For aiohttp's client: the propagation middleware."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

from aiohttp import ClientHandlerType, ClientMiddlewareType, ClientRequest, ClientResponse
from yarl import URL

from ..context import current_request_id, remaining_time
from ..ids import is_valid_request_id
from ..refusals import too_late
from .server import DEADLINE_HEADER, REQUEST_ID_HEADER, check_header

__all__ = ["HeaderGuard", "propagation_middleware"]

_REDIRECTS = (301, 302, 303, 307, 308)


class HeaderGuard:
    """Puts headers on requests, but not on those that a redirect leads to another origin.

    A client middleware runs once for each hop, and is not told which hop it is. But all hops of a
    request run in one context, one after the other: a redirect leaves a note there of where the
    request was first sent and where it goes now, for the next hop to find. A request that only
    looks like that hop (one made by hand after a redirect that was not followed) goes without the
    headers too: it errs towards saying less.
    """

    def __init__(self, name: str) -> None:
        self._note: ContextVar[tuple[URL, URL] | None] = ContextVar(name, default=None)

    async def send(
        self, request: ClientRequest, handler: ClientHandlerType, headers: Mapping[str, str]
    ) -> ClientResponse:
        """Send a request through `handler`, with those of `headers` that it does not have."""
        first = origin = request.url.origin()
        note = self._note.get()
        if note is not None and note[1] == origin:
            first = note[0]
        if first == origin:
            for name, value in headers.items():
                request.headers.setdefault(name, value)
        response = await handler(request)
        location = response.headers.get("Location") or response.headers.get("URI")
        if response.status in _REDIRECTS and location is not None:
            self._note.set((first, _origin(request.url, location)))
        else:
            self._note.set(None)
        return response


def _origin(base: URL, location: str) -> URL:
    try:
        return base.join(URL(location)).origin()
    except ValueError:  # no such place: aiohttp will not go there either
        return base.origin()


_guard = HeaderGuard("correlator_propagation")


def propagation_middleware(
    *, header: str = REQUEST_ID_HEADER, deadline_header: str | None = DEADLINE_HEADER
) -> ClientMiddlewareType:
    """Return a client middleware that passes on the ambient request id and the remaining time.

    For ``ClientSession(middlewares=(propagation_middleware(),))``. Headers that a request has
    already stay as they are. A redirect to another origin carries neither.

    Args:
        header: where the request id goes.
        deadline_header: where the milliseconds left until the ambient deadline go; None to not
            send them.

    Raises:
        TypeError, ValueError: a header's name is not one.

    The middleware raises `RequestTimeout`, and sends nothing, once the ambient deadline has passed.
    """
    check_header("header", header)
    if deadline_header is not None:
        check_header("deadline_header", deadline_header)

    async def middleware(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        headers = {}
        request_id = current_request_id()
        if is_valid_request_id(request_id):
            headers[header] = str(request_id)
        remaining = remaining_time()
        if remaining is not None:
            if remaining == 0:
                raise too_late(request_id)
            if deadline_header is not None:
                headers[deadline_header] = str(max(1, int(remaining * 1000)))
        return await _guard.send(request, handler, headers)

    return middleware
