"""For aiohttp's client: the propagation middleware."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

from aiohttp import ClientHandlerType, ClientMiddlewareType, ClientRequest, ClientResponse
from yarl import URL

from ..headers import DEADLINE_HEADER, REQUEST_ID_HEADER, ambient_headers, check_headers

__all__ = ["HeaderGuard", "propagation_middleware"]

_REDIRECTS = (301, 302, 303, 307, 308)


Origin = tuple[str, str | None, int | None]  # scheme, host and port, in one spelling
_NOWHERE: Origin = ("", None, None)


class HeaderGuard:
    """Puts headers on requests, but not on those that a redirect leads to another origin.

    `put` before a request is sent, `follow` with its response (not one coroutine around both, which
    would cost every request one more).

    A client middleware runs once for each hop, and is not told which hop it is. But all hops of a
    request run in one context, one after the other: a redirect leaves a note there of where it
    leads and whether the request has been anywhere else, for the next hop to find. A request that
    only looks like that hop (one made by hand after a redirect that was not followed) goes without
    the headers too: it errs towards saying less.
    """

    def __init__(self, name: str) -> None:
        self._note: ContextVar[tuple[bool, Origin] | None] = ContextVar(name, default=None)

    def forget(self) -> None:
        """Take the next request for a new one, whatever went before it in this context."""
        if self._note.get() is not None:
            self._note.set(None)

    def put(self, request: ClientRequest, headers: Mapping[str, str]) -> bool:
        """Put on a request those of `headers` that it does not have; tell whether it may have them.

        What it tells is for `follow`, which is to be called with the response.
        """
        note = self._note.get()
        at_home = note is None or note[0] or note[1] != _origin(request.url)
        if at_home:
            for name, value in headers.items():
                request.headers.setdefault(name, value)
        return at_home

    def follow(self, request: ClientRequest, response: ClientResponse, *, at_home: bool) -> None:
        """Leave a note of where a redirect leads, or take away the one that led here."""
        if response.status in _REDIRECTS:
            location = response.headers.get("Location") or response.headers.get("URI")
            if location is not None:
                target = _origin(request.url, location)
                # Once it has left, it never gets them again, wherever it is led.
                self._note.set((at_home and target == _origin(request.url), target))
                return
        self.forget()


def _origin(base: URL, location: str = "") -> Origin:
    """Return where a redirect leads from `base`; without one, where `base` is."""
    try:
        # Parsed anew: the hop of a redirect may come in the other's own spelling.
        url = URL(str(base.join(URL(location))))
    except ValueError:  # no such place: aiohttp will not go there either
        return _NOWHERE
    return url.scheme, url.host, url.port


_guard = HeaderGuard("correlator_propagation")


def propagation_middleware(
    *, header: str = REQUEST_ID_HEADER, deadline_header: str | None = DEADLINE_HEADER
) -> ClientMiddlewareType:
    """Return a client middleware that passes on the ambient request id and the remaining time.

    For ``ClientSession(middlewares=(propagation_middleware(),))``; where there are others, put it
    first. Headers that a request has already stay as they are. A redirect to another origin
    carries neither.

    Args:
        header: where the request id goes.
        deadline_header: where the milliseconds left until the ambient deadline go; None to not
            send them.

    Raises:
        TypeError, ValueError: a header's name is not one.

    The middleware raises `RequestTimeout`, and sends nothing, once the ambient deadline has passed.
    """
    check_headers(header, deadline_header)

    async def middleware(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        at_home = _guard.put(request, ambient_headers(header, deadline_header))
        response = await handler(request)
        _guard.follow(request, response, at_home=at_home)
        return response

    return middleware
