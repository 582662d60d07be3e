"""Gateways for the tests: shared ones, which stay up, and a test's own, which it may stop."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import BinaryIO

import pytest
from aiohttp import ClientSession, TCPConnector, web

from .client import Client, eventually
from .process import Gateway

# The gateway's loop is its own process's; which loop its clients run on makes no difference.
LOOP = {"asyncio": asyncio.SelectorEventLoop}


def pytest_asyncio_loop_factories(config, item):
    return LOOP


@pytest.fixture(scope="session")
def shared_gateways() -> Iterator[Callable[..., Gateway]]:
    """Gateways that tests share, by their options: starting one takes half a second."""
    running: dict[tuple[str, ...], Gateway] = {}

    def start(*options: str) -> Gateway:
        if options not in running:
            running[options] = Gateway(*options)
        return running[options]

    yield start
    for gateway in running.values():
        gateway.signal(signal.SIGTERM)  # to all of them first: so they stop at the same time
    for gateway in running.values():
        gateway.stop()


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    # By default a session has 100 connections at most: more clients would wait for each other.
    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        yield session


@pytest.fixture
async def client_of(
    shared_gateways: Callable[..., Gateway], session: ClientSession
) -> AsyncIterator[Callable[..., Client]]:
    """A client of a shared gateway with such options. In the end nothing may be left in it."""
    clients: list[Client] = []

    def connect(*options: str) -> Client:
        clients.append(Client(shared_gateways(*options), session))
        return clients[-1]

    yield connect
    for client in clients:
        await client.idle()
        client.gateway.check_log()


@pytest.fixture
def client(client_of: Callable[..., Client]) -> Client:
    """A client of a gateway whose upstream answers everything, and soon."""
    return client_of("--", "--delay", "0.01", "--distribution", "fixed")


@pytest.fixture
async def own(session: ClientSession) -> AsyncIterator[Callable[..., Client]]:
    """A client of a gateway of the test's own. It stops when the test ends, with code 0."""
    clients: list[Client] = []

    def start(*options: str, **environment: str) -> Client:
        clients.append(Client(Gateway(*options, **environment), session))
        return clients[-1]

    yield start
    for client in clients:
        await asyncio.to_thread(client.gateway.stop)


class Upstream:
    """An upstream that does what a test tells it to.

    Attributes:
        url: where it listens.
        answer: answers a job.
        seen: the requests it got, and their bodies.
    """

    def __init__(self, url: str, session: ClientSession) -> None:
        self.url = url
        self.seen: list[tuple[web.BaseRequest, bytes]] = []
        self._session = session

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=202)

    async def take(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((request, await request.read()))
        return await self.answer(request)

    async def job_taken(self, count: int = 1) -> str:
        """Wait until there are so many jobs, and return the URL of the last to call back."""

        async def are_there() -> bool:
            return len(self.seen) >= count

        await eventually(are_there, f"{count} jobs taken")
        return self.seen[-1][0].headers["Callback-URL"]

    async def call_back(self, url: str, body: bytes | BinaryIO = b"{}", **options) -> int:
        """Call back, and return the status of the answer."""
        async with self._session.post(url, data=body, **options) as response:
            await response.read()
            return response.status


@pytest.fixture(scope="session")
def upstream_listener() -> Iterator[socket.socket]:
    """A socket for the scripted upstream, of whichever test runs: gateways know its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
async def upstream(
    upstream_listener: socket.socket, session: ClientSession
) -> AsyncIterator[Upstream]:
    """The scripted upstream, for as long as a test runs."""
    port = upstream_listener.getsockname()[1]
    upstream = Upstream(f"http://127.0.0.1:{port}/jobs", session)
    runner = web.ServerRunner(
        web.Server(lambda request: upstream.take(request)), shutdown_timeout=0.1
    )
    await runner.setup()
    await web.SockSite(runner, upstream_listener.dup()).start()
    yield upstream
    await runner.cleanup()


@pytest.fixture
def scripted(client_of: Callable[..., Client], upstream: Upstream) -> Client:
    """A client of a gateway whose upstream is the scripted one."""
    return client_of("--timeout", "2", "--upstream", upstream.url)
