"""What the tests of the web hooks share: a gateway with an upstream that can call it back."""

from __future__ import annotations

import gc
import io
import json
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import structlog
from aiohttp import ClientSession, web

from correlator import Correlator
from correlator.aiohttp import CallbackClient, CallbackTokens, callback_route, setup

from ..conftest import balanced
from .serving import Origin, Served, http_session, origin, serving

KEY = b"the key that signs the callbacks"


@dataclass
class Gateway:
    """A service that calls an upstream which calls back."""

    app: web.Application
    correlator: Correlator
    tokens: CallbackTokens
    served: Served
    upstream: Origin
    session: ClientSession
    client: CallbackClient

    def callback(self, request_id: str, ttl: float = 60.0):
        """The URL where the reply to a request is to go."""
        return self.served.url(f"/callbacks/{self.tokens.issue(request_id, ttl)}")

    def calls_back(self, path: str, *bodies: bytes, status: int = 202):
        """Let the upstream call back, with each of `bodies`, before it answers with `status`."""
        statuses = []

        async def answer(request):
            for body in bodies:
                async with self.session.post(request.headers["Callback-URL"], data=body) as done:
                    statuses.append(done.status)
            return web.Response(status=status, body=b"the answer itself")

        self.upstream.answers[path] = answer
        return statuses


@asynccontextmanager
async def gateway_of(
    correlator: Correlator | None = None,
    *,
    tokens: CallbackTokens | None = None,
    session: dict | None = None,
    client: dict | None = None,
    shutdown_timeout: float = 5.0,
    **route,
):
    """A `Gateway`, and an upstream; in the end the store is empty and the counters balance."""
    correlator = Correlator(timeout=5.0) if correlator is None else correlator
    tokens = CallbackTokens([KEY]) if tokens is None else tokens
    app = web.Application()
    setup(app, correlator, drain_timeout=0.05)
    app.add_routes([callback_route(correlator, tokens=tokens, **route)])
    async with (
        origin() as upstream,
        serving(app, shutdown_timeout=shutdown_timeout) as served,
        http_session(**(session or {})) as http,
    ):
        url = served.url("/callbacks")
        calls = CallbackClient(http, correlator, callback_url=url, tokens=tokens, **(client or {}))
        yield Gateway(app, correlator, tokens, served, upstream, http, calls)
    balanced(correlator)


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """Spare the collection after each test what earlier modules left alive (Hypothesis, a lot)."""
    gc.collect()
    gc.freeze()


@pytest.fixture
async def gateway():
    async with gateway_of() as it:
        yield it
        balanced(it.correlator)


class LogLines:
    """What structlog writes, line by line."""

    def __init__(self, file: io.StringIO) -> None:
        self.file = file

    @property
    def text(self) -> str:
        return self.file.getvalue()

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log_lines():
    """structlog as an application has it: context variables merged in, one line of JSON each."""
    file = io.StringIO()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(file),
        cache_logger_on_first_use=False,
    )
    yield LogLines(file)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def everything_logged(caplog):
    """Every record of every logger, from debug upwards."""
    caplog.set_level(logging.DEBUG)
    return caplog
