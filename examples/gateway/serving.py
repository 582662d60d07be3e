"""Serving an application so that a client that leaves takes its request with it."""

from __future__ import annotations

import errno
import gc
import socket

from aiohttp import web
from aiohttp.web_request import BaseRequest

from correlator.aiohttp import problem_response

__all__ = ["address_of", "listen", "no_listener", "serve", "tune_collector"]


class _Protocol(web.RequestHandler):
    """Answers what is not HTTP, before it reaches any route, with a problem document too."""

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        response = super().handle_error(request, status, exc, message)
        if status >= 500 or not isinstance(response, web.Response):
            return response
        problem = problem_response(status, "The request is not valid HTTP.")
        problem.force_close()
        return problem


class _Server(web.Server):
    """Makes a `_Protocol` for each connection."""

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    """Serves with `_Server`. aiohttp has no public way to choose the class of a connection."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        handle = server.request_handler

        async def handler(request: BaseRequest) -> web.StreamResponse:
            # aiohttp answers an expectation that it does not know before any middleware, and fails
            # where it cannot repeat it.
            if request.headers.get("Expect", "100-continue").lower() != "100-continue":
                return problem_response(417, "The only expectation met here is 100-continue.")
            return await handle(request)

        server.request_handler = handler
        return server


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; port 0 takes a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=1024)


def no_listener(host: str, port: int, error: OSError) -> str:
    """Say in one line why nothing listens there, and which option cures that."""
    words = (error.strerror or str(error)).partition(" (while ")[0]  # Python adds the address
    option = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
    return f"cannot listen on {host} port {port}: {words}; choose another with {option}"


def address_of(listener: socket.socket) -> str:
    """Return the URL under which this machine reaches a listening socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # no bind: a lookup
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(
    app: web.Application, listener: socket.socket, *, shutdown_timeout: float = 2.0
) -> web.AppRunner:
    """Serve `app` on a socket; ``await runner.cleanup()`` ends it.

    With `handler_cancellation`, which aiohttp leaves off by default: without it a client that
    leaves would hold its pending until the timeout.
    """
    runner = _Runner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=shutdown_timeout
    )
    try:
        await runner.setup()
        await web.SockSite(runner, listener).start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner


def tune_collector() -> None:
    """Fit the garbage collector to a service: it is to look at what requests leave behind.

    What the start has made stays for good, and would be gone through again and again; and a
    collection every 700 objects, which is CPython's default, is several for each turn of the loop.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
