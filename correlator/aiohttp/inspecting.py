"""The inspector: a page that shows what a correlator does, live, and who asked for what is stuck.

A sub-application to mount: ``app.add_subapp("/inspector", inspector(correlator, authorize=...))``.
Read-only; it shows ids, labels, ages and lines of code, and never a context or a response.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_sse import sse_response

from ..checks import check_callable, check_instance
from ..core import Correlator
from ..inspection import Inspection
from .access import Access, Authorize
from .problems import problem_response
from .replicas import Connect, Replicas

__all__ = ["inspector"]

_log = logging.getLogger("correlator")

_PAGE = Path(__file__).parent / "page"
_FILES: Final = {
    "index.html": "text/html",
    "icon.svg": "image/svg+xml",
    "inspector.css": "text/css",
    "inspector.js": "text/javascript",
}
_TICK = 1.0  # seconds between two snapshots
_MAX_STREAMS = 16
_SEND_TIMEOUT = 10.0  # seconds until a client that takes nothing is given up
_CHECK_AGAIN = 60.0  # seconds after which it is asked again whether a stream may go on
_FAILED = "The inspector failed: the server's log says why."
_OVER = "There is nothing to see any more."
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def inspector(
    correlator: Correlator[Any, Any],
    *,
    authorize: Authorize | None = None,
    replicas: Connect | None = None,
) -> web.Application:
    """Return the inspector, to be mounted with ``add_subapp``.

    Args:
        correlator: what it shows.
        authorize: asked for each request whether it may see that, and for a stream again each
            minute; returns a bool; may be async, and may raise an ``aiohttp.web.HTTPException`` of
            its own. Without it only clients on this machine may, by an address of this machine,
            and not by way of a proxy. A proxy on this machine that adds no header cannot be told
            from a client: behind any proxy, give `authorize`.
        replicas: makes a link to the other replicas out of a correlator that the inspector has for
            that: ``lambda own: connect(url, own, replica="web")``. They then are on the page too.

    Raises:
        TypeError: an argument is of the wrong type.
    """
    check_instance("correlator", correlator, Correlator)
    for name, value in (("authorize", authorize), ("replicas", replicas)):
        if value is not None:
            check_callable(name, value)
    access = Access(authorize)
    others = None if replicas is None else Replicas(correlator, replicas)
    feed = _Feed(correlator, access, others)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        reason = await access.why_not(request)
        if reason is not None:
            return problem_response(403, reason)
        return problem_response(503, _OVER) if feed.is_shut else await handler(request)

    async def link(_app: web.Application) -> AsyncIterator[None]:
        if others is None:
            yield
            return
        async with others.linked():
            yield

    async def shut(_app: web.Application) -> None:
        feed.shut()

    async def set_headers(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(_HEADERS)

    app = web.Application(middlewares=[guard])
    app.cleanup_ctx.append(link)
    app.on_shutdown.append(shut)
    app.on_response_prepare.append(set_headers)
    app.router.add_get("", _to_the_page)
    app.router.add_get("/", _file_of("index.html"))
    for name in ("icon.svg", "inspector.css", "inspector.js"):
        app.router.add_get(f"/{name}", _file_of(name))
    app.router.add_get("/snapshot", feed.snapshot)
    app.router.add_get("/events", feed.events)
    return app


# -- the page ------------------------------------------------------------------------------------


async def _to_the_page(request: web.Request) -> web.StreamResponse:
    raise web.HTTPPermanentRedirect(f"{request.rel_url.raw_path}/")


def _file_of(name: str) -> Handler:
    async def serve(_request: web.Request) -> web.StreamResponse:
        body = await asyncio.to_thread((_PAGE / name).read_bytes)
        return web.Response(body=body, content_type=_FILES[name], charset="utf-8")

    return serve


# -- what it shows -------------------------------------------------------------------------------


def _too_many() -> web.Response:
    return problem_response(503, "Too many look already.", headers={"Retry-After": "10"})


class _Feed:
    """One snapshot a second, for all who look; none while nobody does.

    Attributes:
        is_shut: whether there will be no more.
    """

    def __init__(
        self, correlator: Correlator[Any, Any], access: Access, replicas: Replicas | None
    ) -> None:
        self._name = correlator.name
        self._inspection = Inspection(correlator)
        self._access = access
        self._replicas = replicas
        self._streams = 0
        self._transports: set[asyncio.Transport] = set()  # of the streams
        self._tasks: list[asyncio.Task[None]] = []
        self._next: asyncio.Future[str] | None = None
        self.is_shut = False

    async def snapshot(self, _request: web.Request) -> web.StreamResponse:
        """Answer with one snapshot, of the second that follows."""
        if self._streams >= _MAX_STREAMS:
            return _too_many()
        async with self._looking() as seen:
            data = await seen()
        if not data:
            return problem_response(503, _OVER) if self.is_shut else problem_response(500, _FAILED)
        return web.Response(text=data, content_type="application/json")

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Send snapshots for as long as the client is there."""
        if self._streams >= _MAX_STREAMS:
            return _too_many()
        transport = request.transport
        if transport is None or transport.is_closing():
            return web.Response(status=499)  # the client has left; what nginx writes for it
        time = asyncio.get_running_loop().time
        check_at = time() + _CHECK_AGAIN
        async with (
            self._looking() as seen,
            sse_response(request, send_timeout=_SEND_TIMEOUT) as response,
        ):
            self._transports.add(transport)
            try:
                while response.is_connected() and (data := await seen()):
                    if time() > check_at:
                        if await self._is_over(request):
                            break
                        check_at = time() + _CHECK_AGAIN
                    await response.send(data, event="snapshot")
            except (ConnectionError, TimeoutError):
                pass  # the client has gone, or takes nothing
            finally:
                self._transports.discard(transport)
            return response

    async def _is_over(self, request: web.Request) -> bool:
        """Tell whether somebody may look no longer."""
        try:
            async with asyncio.timeout(_SEND_TIMEOUT):
                return await self._access.why_not(request) is not None
        except (web.HTTPException, TimeoutError):
            return True

    @asynccontextmanager
    async def _looking(self) -> AsyncIterator[Callable[[], Awaitable[str]]]:
        """Look for the length of the block: yield what waits for the next snapshot.

        That is empty when there will be no more.
        """
        self._streams += 1
        self._inspection.open()
        if self._streams == 1:
            loop = asyncio.get_running_loop()
            self._next = loop.create_future()
            works = [self._tick()]
            if self._replicas is not None:
                works.append(self._replicas.ask())
            # In a context of nobody's: they go on after the request that started them.
            self._tasks = [
                loop.create_task(work, name="correlator-inspector", context=contextvars.Context())
                for work in works
            ]
        try:
            yield self._wait
        finally:
            self._streams -= 1
            self._inspection.close()
            if not self._streams:
                self._stop()

    async def _wait(self) -> str:
        assert self._next is not None, "somebody looks"
        return await asyncio.shield(self._next)

    def shut(self) -> None:
        """End all streams. That of a client which is behind is cut: it would hold up the rest."""
        self.is_shut = True
        self._stop()
        for transport in self._transports:
            if transport.get_write_buffer_size():
                transport.abort()

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        if self._next is not None and not self._next.done():
            self._next.set_result("")

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TICK)
            assert self._next is not None, "somebody looks"
            try:
                data = json.dumps(self._see(), ensure_ascii=True)
            except Exception:
                _log.exception("the inspector cannot show correlator %r", self._name)
                self._stop()
                return
            seen, self._next = self._next, loop.create_future()
            seen.set_result(data)

    def _see(self) -> dict[str, Any]:
        seen = self._inspection.snapshot()
        others = self._replicas
        return {
            **seen,
            "owner": None if others is None else others.owner,
            "replicas": [] if others is None else others.rows(seen["stats"]),
        }
