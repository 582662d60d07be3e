"""The fault run: replicas that ask over a real broker while all goes wrong that can.

Each replica reaches the broker through a proxy of its own. Faults strike one after the other: cut
connections, in mid-frame too, silence, slowness, refusals; the broker stopped, or killed and
started again; a replica killed. Whatever they do, each request ends by its deadline, with its own
reply or an error of ours, and nothing is left.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pika
from redis import Redis

from correlator import (
    CapacityExceeded,
    Correlator,
    CorrelatorClosed,
    NoResponder,
    RequestRejected,
    RequestTimeout,
)
from correlator.transports import Message, connect

from .proxy import Proxy
from .server import Server
from .servers import NatsServer, RabbitmqServer, ValkeyServer

__all__ = ["WITHOUT_LOSS", "Faults", "Report", "through"]

WITHOUT_LOSS = (
    *("cut", "cut in mid-frame", "connections killed"),
    *("silence", "slowness", "refusal", "broker stopped"),
)
"""The faults in which nobody dies, neither the broker nor a replica."""

GRACE = 1.0  # seconds after its deadline by which a request has ended, whatever happens
KEPT = 5.0  # seconds for which a broker keeps the replies for a replica that is not there
CALLERS = 20  # for each replica
DESTINATION = "faults.echo"
RESTARTS = 0.04  # share of faults that kill the broker: it takes the longest


def through(proxy: Proxy, server: Server) -> str:
    """Return the server's URL, by way of a proxy."""
    parts = urlsplit(server.url)
    user, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}").geturl()


@dataclass
class Report:
    """What came of a run.

    Attributes:
        requests: how many were made.
        outcomes: how they ended, for their callers.
        faults: how often each fault struck.
        violations: what must not be, and how often it was.
        answered: how many requests were answered by those who serve.
        lost: how many of these replies never arrived. A replica that is killed loses what was for
            it; that is not counted here.
        lost_and_told: how many of those the owner told its caller of, by an error at the deadline
            or, where it was asked to, when it lost its connection.
        late: how many arrived when their request had ended.
        slowest: seconds after its deadline by which the last request ended, at most.
    """

    requests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    lost: int = 0
    lost_and_told: int = 0
    late: int = 0
    slowest: float = 0.0
    seconds: float = 0.0

    def table(self) -> str:
        rows = {"requests": f"{self.requests:,}", "seconds": f"{self.seconds:,.1f}"}
        for title, counts in (("ended", self.outcomes), ("fault", self.faults)):
            rows |= {f"{title}: {name}": f"{count:,}" for name, count in sorted(counts.items())}
        rows["replies sent"] = f"{self.answered:,}"
        rows["replies lost"] = f"{self.lost:,}"
        rows["replies late"] = f"{self.late:,}"
        rows["ended after the deadline, at most"] = f"{self.slowest * 1000:,.0f} ms"
        rows["violations"] = f"{self.violations.total():,}"
        rows |= {f"  {name}": f"{count:,}" for name, count in self.violations.items()}
        width = max(map(len, rows))
        return "\n".join(f"{name:{width}}  {value:>10}" for name, value in rows.items())


def left_at(server: Server) -> list[str]:
    """Return what is left at a broker that should not be: addresses of replies, and requests."""
    if isinstance(server, ValkeyServer):
        with Redis(port=server.port) as client:
            keys = {key.decode() for key in client.scan_iter()}
            left = [f"{client.xlen(key)} in {key}" for key in keys if client.xlen(key)]
            return left + sorted(keys - {DESTINATION})
    if isinstance(server, RabbitmqServer):
        names = '[element(4, amqqueue:get_name(Q)) || Q <- rabbit_amqqueue:list(<<"/">>)]'
        queues = set(re.findall(r'<<"([^"]+)">>', server.evaluate(names)))
        with pika.BlockingConnection(pika.URLParameters(server.url)) as connection:
            declared = connection.channel().queue_declare(DESTINATION, passive=True)
            count = declared.method.message_count
        return [f"{count} in {DESTINATION}"] * bool(count) + sorted(queues - {DESTINATION})
    return []


class Replica:
    """One that asks, through its proxy. It may be killed: then another takes its place."""

    def __init__(
        self,
        server: Server,
        proxy: Proxy,
        on_disconnect: str,
        receive: Callable[[Message], Message],
    ) -> None:
        self.proxy = proxy
        self._server = server
        self._options = {"on_disconnect": on_disconnect, "decode": receive, "replica": "asking"}
        if not isinstance(server, NatsServer):  # which keeps nothing
            self._options["reply_ttl"] = KEPT

    async def start(self) -> None:
        self.correlator: Correlator = Correlator(timeout=5.0)
        await self.correlator.__aenter__()
        while True:
            url = through(self.proxy, self._server)
            self.transport = connect(url, self.correlator, **self._options)
            try:
                await self.transport.__aenter__()
            except (ConnectionError, TimeoutError):  # the broker is down, or the way there
                await asyncio.sleep(0.2)
            else:
                return

    async def die(self) -> None:
        """Go as a killed process goes: its callers get nothing more, and it gives nothing back."""
        self.proxy.refuse()
        self.proxy.cut()
        await self.correlator.aclose()
        await self.transport.__aexit__(None, None, None)
        self.proxy.accept()


class Faults:
    """A run.

    Args:
        server: the broker.
        requests: how many are made at least.
        faults: how many strike at least.
        seed: of all that is drawn.
        only: which faults; by default all of them.
        pace: seconds between two faults.
    """

    def __init__(
        self,
        server: Server,
        *,
        requests: int,
        faults: int,
        seed: int,
        only: tuple[str, ...] | None = None,
        pace: float = 0.15,
        progress: bool = False,
    ) -> None:
        self.report = Report()
        self._server = server
        self._wanted = requests
        self._faults = faults
        self._random = random.Random(seed)
        self._pace = pace
        self._progress = progress
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "cut": self._cut,
            "cut in mid-frame": self._cut_in_mid_frame,
            "connections killed": self._kill_connections,
            "silence": self._freeze,
            "slowness": self._slow_down,
            "refusal": self._refuse,
            "broker stopped": self._pause,
            "broker killed": self._restart,
            "replica killed": self._kill_replica,
        }
        self._kinds = {name: kinds[name] for name in only or kinds}
        self._answered: set[bytes] = set()
        self._received: set[bytes] = set()
        self._failed: set[bytes] = set()
        self._under_way: set[bytes] = set()
        self._orphaned: set[bytes] = set()  # under way when a replica was killed
        self._over = False

    async def run(self) -> Report:
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            self._replicas = []
            for number in range(3):
                proxy = await stack.enter_async_context(Proxy(self._server.port))
                replica = Replica(
                    self._server, proxy, "fail" if number == 2 else "wait", self._receive
                )
                await replica.start()
                self._replicas.append(replica)
            # Those that answer reach the broker without a proxy: what they send, they have sent.
            answering: Correlator = await stack.enter_async_context(Correlator())
            responder = await stack.enter_async_context(
                connect(self._server.url, answering, replica="answering")
            )
            await stack.enter_async_context(responder.serve(DESTINATION, self._answer))
            callers = [
                asyncio.create_task(self._call(replica, f"{index}-{number}"))
                for index, replica in enumerate(self._replicas)
                for number in range(CALLERS)
            ]
            striking = asyncio.create_task(self._strike())
            try:
                await striking
                await asyncio.gather(*callers)
                await self._settle_down()
            finally:
                striking.cancel()
                for caller in callers:
                    caller.cancel()
            for replica in self._replicas:
                self._check(replica)
                await replica.transport.__aexit__(None, None, None)
                await replica.correlator.aclose()
        await asyncio.sleep(KEPT + 1.0)  # what the killed have left at the broker has its time
        left = await asyncio.to_thread(left_at, self._server)
        if left:
            self.report.violations[f"left at the broker: {left}"] += 1
        self.report.seconds = time.monotonic() - began
        return self.report

    # -- asking and answering --------------------------------------------------------------------

    async def _answer(self, message) -> bytes:
        if message.body[-1] % 7 == 0:
            await asyncio.sleep(0.02)  # so that some are under way whenever a fault strikes
        self._answered.add(message.body)
        return message.body

    def _receive(self, message: Message) -> Message:
        self._received.add(message.body)
        return message

    async def _call(self, replica: Replica, name: str) -> None:
        loop, number = asyncio.get_running_loop(), 0
        while not self._over:
            number += 1
            body = f"{name}-{number}".encode()
            timeout = self._random.uniform(0.3, 2.5)
            deadline = loop.time() + timeout
            self.report.requests += 1
            self._under_way.add(body)
            try:
                reply = await replica.transport.request(DESTINATION, body, timeout=timeout)
            except (RequestTimeout, RequestRejected, NoResponder, CorrelatorClosed) as error:
                outcome = type(error).__name__
                if not isinstance(error, RequestTimeout):
                    await asyncio.sleep(0.01)  # what is refused at once is asked again at leisure
            except CapacityExceeded as error:
                outcome = type(error).__name__
            else:
                outcome = "reply"
                if reply.body != body:
                    self.report.violations["crossed"] += 1
            self._under_way.discard(body)
            if outcome != "reply":
                self._failed.add(body)
            self.report.outcomes[outcome] += 1
            after = loop.time() - deadline
            self.report.slowest = max(self.report.slowest, after)
            if after > GRACE:
                self.report.violations["hung"] += 1

    def _check(self, replica: Replica) -> None:
        stats = replica.correlator.stats()
        self.report.late += stats.late
        ended = stats.resolved + stats.rejected + stats.timed_out + stats.cancelled + stats.closed
        if stats.registered != ended + stats.pending:
            self.report.violations["unbalanced"] += 1
        self.report.violations.update({"left": stats.pending} if stats.pending else {})
        if stats.unknown:
            self.report.violations["unknown replies"] += stats.unknown
        malformed = replica.transport.stats().malformed
        if malformed:
            self.report.violations["malformed"] += malformed
        if replica.transport._outbox:
            self.report.violations["left in the outbox"] += 1

    async def _settle_down(self) -> None:
        """Let what is on its way arrive."""
        async with asyncio.timeout(20):
            while not all(map(self._is_quiet, self._replicas)):  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.05)
            await asyncio.sleep(1.0)  # for what comes late
        lost = self._answered - self._received - self._orphaned
        self.report.answered = len(self._answered)
        self.report.lost = len(lost)
        self.report.lost_and_told = len(lost & self._failed)

    @staticmethod
    def _is_quiet(replica: Replica) -> bool:
        return not len(replica.correlator) and replica.transport.stats().connected

    # -- faults ----------------------------------------------------------------------------------

    async def _strike(self) -> None:
        while True:
            struck = self.report.faults.total()
            if struck >= self._faults and self.report.requests >= self._wanted:
                break
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * self._pace)
            if struck < self._faults:
                name = self._draw()
                self.report.faults[name] += 1
                await self._kinds[name]()
            if self._progress:
                sys.stderr.write(
                    f"\r{self.report.requests:,} requests of at least {self._wanted:,}, "
                    f"{self.report.faults.total()} of {self._faults} faults   "
                )
                sys.stderr.flush()
        self._over = True

    def _draw(self) -> str:
        names = list(self._kinds)
        if "broker killed" in names and self._random.random() > RESTARTS * len(names):
            names.remove("broker killed")
        # Each strikes at least once; after that as it comes.
        rest = [name for name in names if name not in self.report.faults]
        return self._random.choice(rest or names)

    def _one(self) -> Replica:
        return self._random.choice(self._replicas)

    async def _cut(self) -> None:
        self._one().proxy.cut()

    async def _cut_in_mid_frame(self) -> None:
        self._one().proxy.cut_after(self._random.randrange(1, 2000))

    async def _kill_connections(self) -> None:
        with suppress(NotImplementedError):
            await asyncio.to_thread(self._server.kill_connections)

    async def _freeze(self) -> None:
        proxy = self._one().proxy
        proxy.freeze()
        await asyncio.sleep(self._random.uniform(0.1, 0.6))
        proxy.thaw()

    async def _slow_down(self) -> None:
        proxy = self._one().proxy
        proxy.delay(self._random.uniform(0.01, 0.1))
        await asyncio.sleep(0.3)
        proxy.delay(0.0)

    async def _refuse(self) -> None:
        proxy = self._one().proxy
        proxy.refuse()
        proxy.cut()
        await asyncio.sleep(self._random.uniform(0.1, 0.6))
        proxy.accept()

    async def _pause(self) -> None:
        self._server.pause()
        await asyncio.sleep(self._random.uniform(0.1, 0.6))
        self._server.resume()

    async def _restart(self) -> None:
        await asyncio.to_thread(self._server.restart)

    async def _kill_replica(self) -> None:
        """Kill one, with all that it asked; another comes up in its place."""
        index = self._random.randrange(len(self._replicas))
        replica = self._replicas[index]
        self._orphaned |= self._under_way
        await replica.die()
        self._check(replica)
        await replica.start()
