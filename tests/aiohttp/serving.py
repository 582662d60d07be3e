"""Applications on a loopback port, run as users run them, and sockets to talk to them by the byte.

Not by aiohttp's `TestServer`, which forces `handler_cancellation=True` and hides how much hangs on
it: `AppRunner` gets it here as a user gives it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import ClientSession, ClientTimeout, web
from multidict import CIMultiDictProxy
from yarl import URL

from correlator import Correlator
from correlator.aiohttp import inspector

PATIENCE = 5.0  # real seconds that nothing here needs, after which it is taken to hang


class Served(NamedTuple):
    """An application that runs: where, and in what."""

    runner: web.AppRunner
    port: int

    def url(self, path: str = "/") -> URL:
        return URL(f"http://127.0.0.1:{self.port}{path}")


@asynccontextmanager
async def serving(
    app: web.Application, *, handler_cancellation: bool = True, shutdown_timeout: float = PATIENCE
):
    """Run `app` on a free loopback port for as long as the block lasts."""
    # The access log is the application's own, and would write a line for each of thousands.
    runner = web.AppRunner(
        app,
        handler_cancellation=handler_cancellation,
        shutdown_timeout=shutdown_timeout,
        access_log=None,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Served(runner, runner.addresses[0][1])
    finally:
        await runner.cleanup()


def inspected(correlator: Correlator, **options) -> web.Application:
    """Return an application whose inspector shows `correlator`."""
    app = web.Application()
    app.add_subapp("/inspector", inspector(correlator, **options))
    return app


class Seen(NamedTuple):
    """A request as a server got it."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    body: bytes


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Origin:
    """A server that writes down what it is sent, and answers each path as it is told, else 200."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.answers: dict[str, Answer] = {}
        self.served: Served

    def url(self, path: str = "/") -> URL:
        return self.served.url(path)

    def redirect(self, path: str, to: URL | str, status: int = 302) -> None:
        """Answer `path` with a redirect."""

        async def answer(_request):
            return web.Response(status=status, headers={"Location": str(to)})

        self.answers[path] = answer

    def reply(self, path: str, **response) -> None:
        """Answer `path` with what `web.Response` makes of the rest."""

        async def answer(_request):
            return web.Response(**response)

        self.answers[path] = answer

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(Seen(request.method, request.path, request.headers, body))
        answer = self.answers.get(request.path)
        return web.Response() if answer is None else await answer(request)


@asynccontextmanager
async def origin():
    """An `Origin` on a port of its own, so an origin of its own."""
    it = Origin()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", it._handle)
    async with serving(app) as it.served:
        yield it


def http_session(**options) -> ClientSession:
    """A client session that does not wait for ever."""
    options.setdefault("timeout", ClientTimeout(total=2 * PATIENCE))
    return ClientSession(**options)


def http_request(
    path: str = "/", *headers: tuple[str, bytes], method: str = "GET", body: bytes | None = None
) -> bytes:
    """The bytes of a request after which the server is to close; header values as they are."""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: test", b"Connection: close"]
    lines += [name.encode() + b": " + value for name, value in headers]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


async def exchange(port: int, data: bytes, *, eof: bool = False) -> bytes:
    """Send bytes, and return all that comes back until the server closes.

    Raises:
        TimeoutError: the server hangs.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(PATIENCE):
            try:
                writer.write(data)
                if eof:
                    writer.write_eof()
                return await reader.read()
            except ConnectionError:  # it closed while there was more to send it
                return b""
    finally:
        writer.transport.abort()


def status_of(answer: bytes) -> int:
    """The status of the (first) response in `answer`, which must begin with a status line."""
    version, status, _rest = answer.split(b" ", 2)
    assert version in (b"HTTP/1.1", b"HTTP/1.0")
    return int(status)


def header_of(answer: bytes, name: str) -> list[str]:
    """The values a header has in the first response in `answer`."""
    head = answer.split(b"\r\n\r\n", 1)[0].decode("latin-1").split("\r\n")[1:]
    fields = [line.split(": ", 1) for line in head]
    return [value for field, value in fields if field.lower() == name.lower()]


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition()` is true.

    It really sleeps: what another end of a socket has noticed cannot be awaited from this one.
    """
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, f"still not true after {PATIENCE} s"
        await asyncio.sleep(0.001)
