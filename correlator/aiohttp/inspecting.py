"""The inspector: a page that shows what a correlator does, live, and who asked for what is stuck.

A sub-application to mount: ``app.add_subapp("/inspector", inspector(correlator, authorize=...))``.
Read-only; it shows ids, labels, ages and lines of code, and never a context or a response.
"""

from __future__ import annotations

import asyncio
import contextvars
import ipaddress
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import asdict
from inspect import isawaitable
from pathlib import Path
from typing import Any, Final, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_sse import sse_response

from ..checks import check_callable, check_instance
from ..core import Correlator
from ..errors import CorrelationError
from ..inspection import Inspection
from .problems import problem_response

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
_ASK = 0.25  # seconds between two questions to the other replicas, while somebody looks
_FORGET = 30.0  # seconds after which a replica that was not seen is taken for gone
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

Authorize = Callable[[web.Request], bool | Awaitable[bool]]


class _Reply(Protocol):
    @property
    def body(self) -> bytes: ...


class _Link(Protocol):
    """What the inspector uses of a transport."""

    @property
    def owner(self) -> str: ...

    async def request(self, destination: str, body: bytes, *, timeout: float) -> Any: ...

    def serve(
        self, destination: str, handler: Callable[[Any], Awaitable[bytes]]
    ) -> AbstractAsyncContextManager[None]: ...


Replicas = Callable[[Correlator[str, Any]], AbstractAsyncContextManager[Any]]


def inspector(
    correlator: Correlator[Any, Any],
    *,
    authorize: Authorize | None = None,
    replicas: Replicas | None = None,
) -> web.Application:
    """Return the inspector, to be mounted with ``add_subapp``.

    Args:
        correlator: what it shows.
        authorize: asked for each request whether it may see that; may be async, and may raise an
            ``aiohttp.web.HTTPException`` of its own. Without it only clients on this machine may,
            by an address of this machine, and not by way of a proxy.
        replicas: makes a link to the other replicas out of a correlator that the inspector has for
            that: ``lambda own: connect(url, own, replica="web")``. They then are on the page too.

    Raises:
        TypeError: an argument is of the wrong type.
    """
    check_instance("correlator", correlator, Correlator)
    for name, value in (("authorize", authorize), ("replicas", replicas)):
        if value is not None:
            check_callable(name, value)
    feed = _Feed(correlator)
    app = web.Application(middlewares=[_guard(authorize)])

    async def run(_app: web.Application) -> AsyncIterator[None]:
        if replicas is None:
            yield
            return
        async with feed.among(replicas):
            yield

    async def shut(_app: web.Application) -> None:
        feed.shut()

    async def set_headers(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(_HEADERS)

    app.cleanup_ctx.append(run)
    app.on_shutdown.append(shut)
    app.on_response_prepare.append(set_headers)
    app.router.add_get("", _to_the_page)
    app.router.add_get("/", _file_of("index.html"))
    for name in ("icon.svg", "inspector.css", "inspector.js"):
        app.router.add_get(f"/{name}", _file_of(name))
    app.router.add_get("/snapshot", feed.snapshot)
    app.router.add_get("/events", feed.events)
    return app


# -- who may look --------------------------------------------------------------------------------


def _guard(authorize: Authorize | None) -> Any:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        site = request.headers.get("Sec-Fetch-Site", "none")
        is_visit = request.headers.get("Sec-Fetch-Dest", "document") == "document"
        if site not in ("none", "same-origin") and not is_visit:
            return problem_response(403, "Pages of other sites cannot read this.")
        if authorize is None:
            if not _is_local(request):
                return problem_response(
                    403,
                    "Without authorize= the inspector answers only to clients on this machine, "
                    "which ask for an address of this machine.",
                )
        else:
            may = authorize(request)
            if isawaitable(may):
                may = await may
            if not may:
                return problem_response(403, "You may not see this.")
        return await handler(request)

    return guard


def _is_local(request: web.Request) -> bool:
    """Tell whether both ends are on this machine, and the client means to talk to it.

    The last is what keeps out a page of somewhere else whose name was made to lead here (DNS
    rebinding). Behind a proxy everybody comes from this machine, so then nobody may.
    """
    transport = request.transport
    if transport is None or any(
        name in request.headers for name in ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
    ):
        return False
    ends = [transport.get_extra_info(end) for end in ("sockname", "peername")]
    return _is_loopback_name(request.host) and all(
        isinstance(end, tuple) and _is_loopback(end[0]) for end in ends
    )


def _is_loopback_name(host: str) -> bool:
    name = re.sub(r":[0-9]+\Z", "", host).removeprefix("[").removesuffix("]")
    return name.lower() == "localhost" or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


# -- the page ------------------------------------------------------------------------------------


async def _to_the_page(request: web.Request) -> web.StreamResponse:
    raise web.HTTPPermanentRedirect(f"{request.rel_url.raw_path}/")


def _file_of(name: str) -> Handler:
    async def serve(_request: web.Request) -> web.StreamResponse:
        body = await asyncio.to_thread((_PAGE / name).read_bytes)
        return web.Response(body=body, content_type=_FILES[name], charset="utf-8")

    return serve


# -- what it shows -------------------------------------------------------------------------------


class _Feed:
    """One snapshot a second, for all who look; none while nobody does."""

    def __init__(self, correlator: Correlator[Any, Any]) -> None:
        self._correlator = correlator
        self._inspection = Inspection(correlator)
        self._streams = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._next: asyncio.Future[str] | None = None
        self._is_shut = False
        self._link: _Link | None = None
        # The others, by owner: what each said last, and when, on the loop's clock.
        self._replicas: dict[str, tuple[float, dict[str, Any]]] = {}
        name = re.sub(r"[^A-Za-z0-9_-]", "_", correlator.name)[:64]
        self._destination = f"correlator.inspector.{name}"

    async def snapshot(self, _request: web.Request) -> web.StreamResponse:
        """Answer with one snapshot, of the second that follows."""
        async with self._looking() as seen:
            data = await seen()
        if not data:
            raise web.HTTPServiceUnavailable
        return web.Response(text=data, content_type="application/json")

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Send snapshots for as long as the client is there."""
        if self._streams >= _MAX_STREAMS:
            return problem_response(503, "Too many look already.", headers={"Retry-After": "10"})
        async with self._looking() as seen, sse_response(request) as response:
            with suppress(ConnectionError):  # the client has gone
                while response.is_connected() and (data := await seen()):
                    await response.send(data, event="snapshot")
            return response

    @asynccontextmanager
    async def _looking(self) -> AsyncIterator[Callable[[], Awaitable[str]]]:
        """Look for the length of the block: yield what waits for the next snapshot.

        That is empty when there will be no more.
        """
        if self._is_shut:
            raise web.HTTPServiceUnavailable
        self._streams += 1
        self._inspection.open()
        if self._streams == 1:
            loop = asyncio.get_running_loop()
            self._next = loop.create_future()
            works = [self._tick()] if self._link is None else [self._tick(), self._ask()]
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
        """End all streams."""
        self._is_shut = True
        self._stop()

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
            seen, self._next = self._next, loop.create_future()
            seen.set_result(json.dumps(self._see(), ensure_ascii=True))

    def _see(self) -> dict[str, Any]:
        seen = self._inspection.snapshot()
        owner = None if self._link is None else self._link.owner
        replicas: list[dict[str, Any]] = []
        if owner is not None:
            now = asyncio.get_running_loop().time()
            replicas = [{"owner": owner, "seen_ago": 0.0, "stats": seen["stats"]}]
            for other, (when, stats) in sorted(self._replicas.items()):
                if now - when > _FORGET:
                    del self._replicas[other]
                elif other != owner:
                    ago = round(now - when, 1)
                    replicas.append({"owner": other, "seen_ago": ago, "stats": stats})
        return {**seen, "owner": owner, "replicas": replicas}

    # -- the other replicas ----------------------------------------------------------------------

    @asynccontextmanager
    async def among(self, replicas: Replicas) -> AsyncIterator[None]:
        """Answer the other replicas, and be able to ask them, for the length of the block."""
        async with (
            Correlator[str, Any](timeout=1.0, name="inspector") as own,
            replicas(own) as link,
            link.serve(self._destination, self._answer),
        ):
            self._link = link
            try:
                yield
            finally:
                self._link = None

    async def _answer(self, _message: Any) -> bytes:
        assert self._link is not None, "it serves for as long as there is a link"
        told = {"owner": self._link.owner, "stats": asdict(self._correlator.stats())}
        return json.dumps(told).encode()

    async def _ask(self) -> None:
        """Ask whichever replica the broker picks, again and again: in a while each has answered.

        So nobody needs to know who there is.
        """
        loop = asyncio.get_running_loop()
        while self._link is not None:
            await asyncio.sleep(_ASK)
            try:
                reply: _Reply = await self._link.request(self._destination, b"", timeout=1.0)
                told = json.loads(reply.body)
                self._replicas[str(told["owner"])] = (loop.time(), dict(told["stats"]))
            except CorrelationError:
                continue  # the next may be there
            except (ValueError, KeyError, TypeError) as error:
                _log.warning("the inspector was told nonsense: %s", type(error).__name__)
