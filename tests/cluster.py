"""Three gateways behind a real broker, under load: ``python -m tests.cluster --broker nats``.

The upstream calls back at another replica than the one that asked: each reply that a client gets
was forwarded over the broker. It exits with 1 if a client got another's answer, an error, or none,
or if the counters do not add up; with 130 if it was interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from .gateway.process import ROOT, Gateway
from .transports.servers import NatsServer, RabbitmqServer, Server, ServerMissing, ValkeyServer

SERVERS = {"nats": NatsServer, "valkey": ValkeyServer, "rabbitmq": RabbitmqServer}
INTERRUPTED = 130
SHOWN = (50, 90, 99, 99.9, 100)  # percentiles


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    add = parser.add_argument
    add("--broker", choices=SERVERS, default="nats", help="default: %(default)s")
    add("--replicas", type=int, default=3, help="default: %(default)s")
    add("--requests", type=int, default=10_000, help="default: %(default)s")
    add("--clients", type=int, default=50, help="how many ask at once; default: %(default)s")
    add("--never", type=float, default=0.01, help="share never answered; default: %(default)s")
    add("--timeout", type=float, default=5.0, help="seconds a job may take; default: %(default)s")
    options = parser.parse_args(argv)
    for name in ("replicas", "requests", "clients"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(options, name)}")
    if not 0 <= options.never < 1:
        parser.error(f"--never must be at least 0 and below 1, not {options.never}")
    if not 0 < options.timeout <= 3600:
        parser.error(f"--timeout must be above 0 and at most 3600, not {options.timeout}")
    return options


def free_ports(count: int) -> list[int]:
    with ExitStack() as listeners:
        sockets = [
            listeners.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [each.getsockname()[1] for each in sockets]


def start_upstream(options: argparse.Namespace, running: ExitStack, port: int) -> str:
    command = [sys.executable, "-m", "examples.gateway.upstream", "--port", str(port)]
    command += ["--delay", "0.02", "--never", str(options.never)]
    process = subprocess.Popen(  # noqa: S603  # our own code
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    running.callback(process.wait)
    running.callback(process.kill)
    assert process.stdout is not None
    running.enter_context(process.stdout)
    return f"{json.loads(process.stdout.readline())['upstream']}/jobs"


def start_replicas(
    options: argparse.Namespace, running: ExitStack, server: Server, upstream: str, ports: list[int]
) -> list[Gateway]:
    """Start the gateways, each with the address of the next as where it is reached."""
    keys = secrets.token_urlsafe(32)
    replicas = []
    for number, port in enumerate(ports):
        elsewhere = ports[(number + 1) % len(ports)]
        given = ["--broker", server.url, "--upstream", upstream, "--timeout", str(options.timeout)]
        given += ["--public-url", f"http://127.0.0.1:{elsewhere}", "--log-level", "error"]
        replicas.append(Gateway("--port", str(port), *given, GATEWAY_KEYS=keys))
        running.callback(replicas[-1].kill)
    return replicas


class Load:
    """Clients that ask one replica after the other.

    Attributes:
        outcomes: how the requests ended.
        seconds: how long each took that was answered.
    """

    def __init__(self, options: argparse.Namespace, urls: list[str]) -> None:
        self.options = options
        self.urls = urls
        self.outcomes: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.stopped = False
        self.began = time.monotonic()
        self._numbers = iter(range(options.requests))

    async def run(self) -> None:
        patience = ClientTimeout(total=self.options.timeout + 5)
        async with ClientSession(connector=TCPConnector(limit=0), timeout=patience) as session:
            progress = asyncio.create_task(self._show())
            try:
                clients = (self._client(session) for _ in range(self.options.clients))
                await asyncio.gather(*clients)
            finally:
                progress.cancel()
                sys.stderr.write("\n")

    async def _client(self, session: ClientSession) -> None:
        for number in self._numbers:
            if self.stopped:
                return
            url = f"{self.urls[number % len(self.urls)]}/v1/jobs"
            began = time.monotonic()
            try:
                async with session.post(url, json={"n": number}) as response:
                    body = await response.json(content_type=None)
                    outcome = str(response.status)
            except (ClientError, TimeoutError, ValueError) as error:
                outcome = type(error).__name__
            else:
                if outcome == "200":
                    self.seconds.append(time.monotonic() - began)
                    if body != {"result": {"n": number}}:
                        outcome = "crossed"
            self.outcomes[outcome] += 1

    async def _show(self) -> None:
        while True:
            await asyncio.sleep(1)
            done, since = self.outcomes.total(), time.monotonic() - self.began
            total = self.options.requests
            left = (total - done) * since / max(1, done)
            sys.stderr.write(
                f"\r{done:,} of {total:,}, {done / since:,.0f}/s, {left:,.0f} s left   "
            )
            sys.stderr.flush()


async def counters(urls: list[str]) -> list[dict[str, int | dict[str, int]]]:
    """Return what each replica counts, once nothing is pending any more."""
    async with ClientSession() as session, asyncio.timeout(30):
        while True:
            found = []
            for url in urls:
                async with session.get(f"{url}/stats") as response:
                    found.append(await response.json())
            if not any(each["pending"] for each in found):
                return found
            await asyncio.sleep(0.1)


def report(load: Load, stats: list[dict]) -> list[str]:
    """Print the closing table, and return what is wrong."""
    took = time.monotonic() - load.began
    total = load.outcomes.total()
    rows = {"requests": f"{total:,}", "requests a second": f"{total / took:,.0f}"}
    rows |= {f"answered {name}": f"{count:,}" for name, count in sorted(load.outcomes.items())}
    for name in ("registered", "resolved", "rejected", "timed_out", "cancelled", "late", "unknown"):
        rows[name.replace("_", " ")] = f"{sum(each[name] for each in stats):,}"
    forwarded = sum(each["transport"]["forwarded"] for each in stats)
    rows["replies forwarded"] = f"{forwarded:,}"
    taken = sorted(load.seconds)
    for percent in SHOWN if taken else ():
        at = min(len(taken) - 1, int(len(taken) * percent / 100))
        rows[f"latency, {percent} %"] = f"{taken[at] * 1000:,.1f} ms"
    width = max(map(len, rows))
    sys.stdout.write("".join(f"{name:{width}}  {value:>12}\n" for name, value in rows.items()))
    wrong = [name for name in load.outcomes if name not in ("200", "504")]
    if load.outcomes["200"] != sum(each["resolved"] for each in stats):
        wrong.append("not every reply reached its client")
    if len(load.urls) > 1 and forwarded < load.outcomes["200"]:
        wrong.append("not every reply was forwarded")
    if load.outcomes["504"] and not load.options.never:
        wrong.append("some timed out")
    return wrong


async def work(options: argparse.Namespace, urls: list[str]) -> int:
    load = Load(options, urls)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, setattr, load, "stopped", True)
    await load.run()
    wrong = report(load, await counters(urls))
    for each in wrong:
        sys.stderr.write(f"wrong: {each}\n")
    return 1 if wrong else INTERRUPTED if load.stopped else 0


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    with ExitStack() as running:
        directory = Path(running.enter_context(tempfile.TemporaryDirectory()))
        kind = SERVERS[options.broker]
        more = {"jetstream": True} if kind is NatsServer else {}
        sys.stderr.write(f"starting {options.broker} and {options.replicas} gateways ...\n")
        try:
            server = running.enter_context(kind(directory, **more))
        except ServerMissing as error:
            sys.stderr.write(f"{error}\n")
            return 1
        *ports, upstream_port = free_ports(options.replicas + 1)
        upstream = start_upstream(options, running, upstream_port)
        replicas = start_replicas(options, running, server, upstream, ports)
        urls = [replica.url for replica in replicas]
        sys.stderr.write(f"{' '.join(urls)}; each calls the next one its own address\n")
        return asyncio.run(work(options, urls))


if __name__ == "__main__":
    sys.exit(main())
