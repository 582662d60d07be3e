"""The gateway of the examples under load, beside the same handler with a bare leaky dict.

Processes of their own: an upstream that answers 202 and calls back at once, and the two gateways.
The load comes from this one, over connections that stay open, written by hand so that it takes as
little of the machine as can be: what is to be the bottleneck is the gateway. All on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import statistics
import sys
import time
from pathlib import Path

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from prometheus_client import CollectorRegistry
from yarl import URL

from correlator import Correlator
from correlator.aiohttp import CallbackReply
from correlator.observers.prometheus import PrometheusObserver
from correlator.observers.structlog import StructlogObserver
from correlator.transports import MemoryReplyStore
from examples.gateway import app as gateway
from examples.gateway.jobs import Jobs
from examples.gateway.logs import access_log, configure_logging
from examples.gateway.options import parse_options
from examples.gateway.serving import address_of, listen, serve, tune_collector

from .contenders import LEAKY
from .measuring import progress

GATEWAY = "the gateway"
BARE = f"its handler, {LEAKY}"
RATIO = "the gateway, x the other"
CLIENTS = 64
_WARM_UP = 250
_ROUND_TAKES = 120.0  # seconds at most
_START_TAKES = 30.0


# The processes under test.


class LeakyClient:
    """In the place of `CallbackClient`: a future for each request, by the id in the callback."""

    def __init__(self, session, callback_url):
        self._session = session
        self._callback_url = callback_url
        self.futures = {}

    async def request(self, method, url, *, data, headers, request_id=None, **_unused):
        request_id = request_id or secrets.token_urlsafe(16)
        future = self.futures[request_id] = asyncio.get_running_loop().create_future()
        headers = {**headers, "Callback-URL": f"{self._callback_url}/{request_id}"}
        async with self._session.request(method, url, data=data, headers=headers) as response:
            if response.status != 202:
                raise web.HTTPBadGateway
        return await future

    async def call_back(self, request):
        body = await request.read()
        reply = CallbackReply(200, request.headers, body)
        self.futures.pop(request.match_info["id"]).set_result(reply)
        return web.Response(status=204)


@web.middleware
async def request_id_header(request, handler):
    request_id = request.headers.get("X-Request-ID") or secrets.token_urlsafe(16)
    response = await handler(request)
    response.headers["X-Request-ID"] = request_id
    return response


def make_bare_app(options, public_url, upstream):
    """Do what `make_app` does, with the same handlers, but for all that is the correlator's."""
    app = web.Application(middlewares=[request_id_header, access_log, gateway.problems])

    async def start(app):
        app[gateway.JOBS] = Jobs(
            [secrets.token_bytes(32)],
            timeout=options.timeout,
            ttl=options.job_ttl,
            store=MemoryReplyStore(),
        )
        async with ClientSession(
            connector=TCPConnector(limit=0),
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=None),
        ) as session:
            app[gateway.CLIENT] = LeakyClient(session, public_url / "callbacks")
            yield

    async def call_back(request):
        return await request.app[gateway.CLIENT].call_back(request)

    async def stats(request):
        return web.json_response({"pending": len(request.app[gateway.CLIENT].futures)})

    app[gateway.OPTIONS] = options
    app[gateway.UPSTREAM] = upstream
    app[gateway.READINESS] = gateway.Readiness()
    app.cleanup_ctx.append(start)
    app.add_routes(
        [
            web.post("/v1/jobs", gateway.post_job),
            web.get("/v1/jobs/{id}", gateway.get_job),
            web.post("/callbacks/{id}", call_back),
            web.get("/healthz", gateway.healthz),
            web.get("/readyz", gateway.readyz),
            web.get("/stats", stats),
        ]
    )
    return app


def make_gateway_app(options, public_url, upstream):
    """Make the gateway as ``python -m examples.gateway`` does."""
    metrics = CollectorRegistry()
    correlator = Correlator(
        timeout=options.timeout,
        max_pending=options.max_pending,
        observers=[StructlogObserver(), PrometheusObserver(metrics)],
        name="gateway",
        track_origin=True,
    )
    return gateway.make_app(
        options,
        correlator,
        public_url=public_url,
        upstream=upstream,
        keys=[secrets.token_bytes(32)],
        metrics=metrics,
    )


def make_upstream_app(_options, _public_url, _upstream):
    """Make an upstream that takes every job, and calls back at once with ``{"result": job}``."""
    app = web.Application()
    tasks = set()

    async def run(app):
        async with ClientSession(
            connector=TCPConnector(limit=0),
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=30),
        ) as session:
            app["session"] = session
            yield
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def call_back(url, job):
        headers = {"Content-Type": "application/json"}
        body = b'{"result": ' + job + b"}"
        async with app["session"].post(url, data=body, headers=headers) as response:
            if response.status != 204:
                print(f"callback: {response.status}", file=sys.stderr)

    async def take(request):
        job = await request.read()
        task = asyncio.create_task(call_back(request.headers["Callback-URL"], job))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return web.Response(status=202)

    app.cleanup_ctx.append(run)
    app.router.add_post("/jobs", take)
    return app


APPS = {"upstream": make_upstream_app, GATEWAY: make_gateway_app, BARE: make_bare_app}


async def _serve(name, upstream):
    """Serve an application; say where, and for each line that comes in, the CPU seconds used.

    It ends when the input does: also when the process that started it was killed.
    """
    configure_logging("warning")
    listener = listen("127.0.0.1", 0)
    address = address_of(listener)
    runner = await serve(APPS[name](parse_options([]), URL(address), URL(upstream)), listener)
    tune_collector()
    try:
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
        )
        print(address, flush=True)
        while await lines.readline():
            print(time.process_time(), flush=True)
    finally:
        await runner.cleanup()


# The load.


class Served:
    """A process that serves one of `APPS`, for as long as the context lasts."""

    def __init__(self, name, upstream=""):
        self._call = [sys.executable, "-m", __name__, name, upstream]

    async def __aenter__(self):
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._call,
            stdin=pipe,
            stdout=pipe,
            cwd=Path(__file__).parent.parent,
            env={name: value for name, value in os.environ.items() if name != "GATEWAY_KEYS"},
            process_group=0,  # Ctrl-C is for this process; it then ends the others
        )
        try:
            self.address = URL(await self._line(_START_TAKES))
        except BaseException:
            await self.__aexit__(*sys.exc_info())
            raise
        return self

    async def __aexit__(self, kind=None, *_):
        self._process.stdin.close()
        if kind is not None and self._process.returncode is None:
            self._process.kill()  # what it has to say about requests that are cut off is noise
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()

    async def cpu_seconds(self):
        self._process.stdin.write(b"\n")
        return float(await self._line(_ROUND_TAKES))

    async def _line(self, seconds):
        async with asyncio.timeout(seconds):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process has ended: {self._call}")
        return line.decode().strip()


_HEAD = re.compile(
    rb"HTTP/1\.1 200 .*?\r\nContent-Length: (\d+)\r\n.*?\r\n\r\n", re.IGNORECASE | re.DOTALL
)


class Client(asyncio.Protocol):
    """Sends one job after the other over one connection, and checks that the result is its own."""

    def __init__(self, host):
        self._head = (
            f"POST /v1/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            "Content-Length: %d\r\n\r\n"
        ).encode()

    def connection_made(self, transport):
        self.transport = transport

    async def run(self, numbers):
        """Send a job for each of those numbers; several clients may share them."""
        self._numbers = numbers
        self._done = asyncio.get_running_loop().create_future()
        self._send()
        await self._done

    def _send(self):
        self._received = b""
        number = next(self._numbers, None)
        if number is None:
            self._done.set_result(None)
            return
        job = b'{"order": %d, "items": ["apples", "pears"], "note": "as usual"}' % number
        self._expected = b'{"result": ' + job + b"}"
        self.transport.write(self._head % len(job) + job)

    def data_received(self, data):
        self._received += data
        if b"\r\n\r\n" not in self._received or self._done.done():
            return
        head = _HEAD.match(self._received)
        if head is not None:
            if len(self._received) - head.end() < int(head[1]):
                return
            if self._received[head.end() :] == self._expected:
                self._send()
                return
        self._done.set_exception(RuntimeError(f"not what was asked for: {self._received!r:.500}"))

    def connection_lost(self, error):
        if not self._done.done():
            self._done.set_exception(error or ConnectionError("the gateway has hung up"))


async def load(served, requests):
    """Return what it took: by the clock of the wall, and of the CPU of the gateway's process."""
    loop = asyncio.get_running_loop()
    host = f"{served.address.host}:{served.address.port}"
    async with asyncio.timeout(_ROUND_TAKES), contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(CLIENTS):
            _, client = await loop.create_connection(
                lambda: Client(host), served.address.host, served.address.port
            )
            stack.callback(client.transport.abort)
            clients.append(client)
        numbers = iter(range(requests))
        cpu = await served.cpu_seconds()
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.run(numbers))
        seconds = time.perf_counter() - start
        cpu = await served.cpu_seconds() - cpu
    return {
        "requests_per_s": requests / seconds,
        "cpu_us": cpu / requests * 1e6,
        # Near 100 it was the bottleneck. Well below, on a machine that has other things to do, the
        # requests per second show the machine more than the gateway: look at its CPU then.
        "busy_%": cpu / seconds * 100,
    }


async def measure_gateway(rounds, requests):
    """Return, of both gateways, the medians of all rounds, and those of the rounds' ratios."""
    async with contextlib.AsyncExitStack() as stack:
        progress("gateway", "starting")
        upstream = await stack.enter_async_context(Served("upstream"))
        jobs = str(upstream.address / "jobs")
        served = {
            name: await stack.enter_async_context(Served(name, jobs)) for name in (GATEWAY, BARE)
        }
        for each in served.values():
            await load(each, _WARM_UP)
        taken = {name: [] for name in (*served, RATIO)}
        for number in range(rounds):
            for name in list(served)[:: -1 if number % 2 else 1]:
                progress("gateway", f"round {number + 1} of {rounds}: {name}")
                taken[name].append(await load(served[name], requests))
            ours, bare = (taken[name][-1] for name in served)
            taken[RATIO].append(
                {name: ours[name] / bare[name] for name in ("requests_per_s", "cpu_us")}
            )
    return {
        name: {what: statistics.median(one[what] for one in all_rounds) for what in all_rounds[0]}
        for name, all_rounds in taken.items()
    }


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this ends it
    asyncio.run(_serve(*sys.argv[1:]))
