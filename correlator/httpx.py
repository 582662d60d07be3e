"""For httpx: a hook that passes on the ambient request id and the remaining time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from weakref import ref

from .headers import DEADLINE_HEADER, REQUEST_ID_HEADER, ambient_headers, check_headers

try:
    import httpx
except ModuleNotFoundError as error:
    raise ImportError(
        "correlator.httpx needs the extra 'httpx', as in aiocorrelator[httpx]"
    ) from error

__all__ = ["propagation_hook"]


def propagation_hook(
    *, header: str = REQUEST_ID_HEADER, deadline_header: str | None = DEADLINE_HEADER
) -> Callable[[httpx.Request], Awaitable[None]]:
    """Return a hook for requests: ``AsyncClient(event_hooks={"request": [propagation_hook()]})``.

    httpx calls it for each hop of a redirect. What the hook has put on a request is taken off where
    a redirect leads to another origin, and stays off wherever that leads. Headers that a request
    has already stay as they are, on each hop.

    Args:
        header: where the request id goes.
        deadline_header: where the milliseconds left until the ambient deadline go; None to not
            send them.

    Raises:
        TypeError, ValueError: a header's name is not one.

    The hook raises `RequestTimeout`, and nothing is sent, once the ambient deadline has passed.
    """
    check_headers(header, deadline_header)
    names = {name for name in (header, deadline_header) if name is not None}
    # What is noted among a request's extensions, which the hops of a redirect hand on.
    key = f"correlator {header} {deadline_header}"

    async def hook(request: httpx.Request) -> None:
        headers = ambient_headers(header, deadline_header)
        note: dict[str, Any] | None = request.extensions.get(key)
        if note is None:
            own = {name for name in names if name in request.headers}
            note = {"first": ref(request), "origin": _origin(request.url), "own": own}
            request.extensions = {**request.extensions, key: note}
        if note["first"]() is request:  # also when it is sent once more
            note["at_home"] = True
        # Once it has left, it never gets them again, wherever it is led.
        note["at_home"] = note["at_home"] and note["origin"] == _origin(request.url)
        for name in names - note["own"]:
            if note["at_home"] and name in headers:
                request.headers[name] = headers[name]
            elif name in request.headers:  # that of the hop before
                del request.headers[name]

    return hook


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
