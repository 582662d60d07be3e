"""Serving an application so that a client that leaves takes its request with it."""

from __future__ import annotations

import json
import socket
from http import HTTPStatus

from aiohttp import web
from aiohttp.web_request import BaseRequest

__all__ = ["address_of", "listen", "serve"]


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
        problem = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": "The request is not valid HTTP.",
        }
        response.body = json.dumps(problem).encode()
        response.headers["Content-Type"] = "application/problem+json"
        return response


class _Server(web.Server):
    """Makes a `_Protocol` for each connection."""

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    """Serves with `_Server`. aiohttp has no public way to choose the class of a connection."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        return server


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; port 0 takes a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=1024)


def address_of(listener: socket.socket) -> str:
    """Return the URL under which this machine reaches a listening socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # no bind: a lookup
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(
    app: web.Application, listener: socket.socket, *, shutdown_timeout: float = 5.0
) -> web.AppRunner:
    """Serve `app` on a socket; ``await runner.cleanup()`` ends it.

    With `handler_cancellation`, which aiohttp leaves off by default: without it a client that
    leaves would hold its pending until the timeout.
    """
    runner = _Runner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=shutdown_timeout
    )
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return runner
