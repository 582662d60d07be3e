"""The engine of the chaos run: everything that can happen to requests, at random, in real time.

Many callers at once make requests of every kind, and each request meets a fate: it is answered,
answered twice, too late, by a thread, or never; its caller is cancelled, its send fails or hangs,
its group is closed. The seed decides what is tried; the clock, which is real, decides the rest.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from correlator import (
    CorrelationError,
    Correlator,
    CorrelatorClosed,
    CorrelatorStats,
    Disposition,
    Outcome,
    RequestRejected,
)

__all__ = ["Chaos", "Report", "resident_bytes"]

CALLERS = 300
BACKLOG = 100  # replies that the thread may have before it
PLACES = 150  # fewer than callers, so that some wait, and some of those in vain
TIMEOUT = 0.03
SOON = 0.004
GROUPS = 8
PAGE = 4096


class SendFailed(Exception):
    pass


def resident_bytes() -> int:
    """Return how much memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@dataclass
class Report:
    """What came of a run.

    Attributes:
        violations: what must not happen, and how often it did; empty if all is well.
        endings: how the callers' operations ended, by what they saw.
        growth: bytes by which the process grew for each million operations after the warm-up.
    """

    operations: int = 0
    seconds: float = 0.0
    violations: Counter = field(default_factory=Counter)
    endings: Counter = field(default_factory=Counter)
    stats: CorrelatorStats | None = None
    growth: float = 0.0
    warm_operations: int = 0


class Chaos:
    """A run of so many operations. `progress` is called with their number now and then."""

    def __init__(
        self,
        operations: int,
        seed: int,
        *,
        warm_up: int = 100_000,
        progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.operations, self.warm_up, self.progress = operations, warm_up, progress
        self.random = random.Random(seed)
        self.begun = 0
        self.stopped = False
        self.report = Report()
        self.said: Counter[Disposition] = Counter()
        self.to_thread: queue.SimpleQueue = queue.SimpleQueue()
        self.kinds = (
            self.plain, self.plain, self.sending, self.sending, self.sending_slowly, self.hanging,
            self.failing, self.answering_itself, self.by_hand, self.abandoned, self.grouped,
            self.shared, self.nested,
        )  # fmt: skip

    def stop(self) -> None:
        """Begin nothing new; what is under way ends as it should."""
        self.stopped = True

    async def run(self) -> Report:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda _loop, context: self.violated(f"the loop reports: {context['message']}")
        )
        began = time.monotonic()
        correlator = Correlator(
            name="chaos", timeout=TIMEOUT, max_pending=PLACES, max_pending_bytes=2_000,
            when_full="wait", max_waiting=20, remember=0.1, max_remembered=5_000, resolution=0.005,
        )  # fmt: skip
        with quiet():
            async with correlator:
                self.correlator = correlator
                thread = threading.Thread(target=self.replies_from_a_thread)
                thread.start()
                try:
                    await asyncio.gather(*(self.caller() for _ in range(CALLERS)))
                    await asyncio.sleep(3 * TIMEOUT)  # the last replies come, the last requests end
                finally:
                    self.to_thread.put(None)
                    await loop.run_in_executor(None, thread.join)
                self.check_empty()
        self.measure_growth()
        gc.collect()
        await asyncio.sleep(0)
        self.report.seconds = time.monotonic() - began
        self.report.operations = self.begun
        self.check_books()
        return self.report

    def violated(self, what: str) -> None:
        self.report.violations[what] += 1

    # -- callers ---------------------------------------------------------------------------------

    async def caller(self) -> None:
        while self.begun < self.operations and not self.stopped:
            self.begun += 1
            if self.begun % 10_000 == 0:
                self.progress(self.begun)
            if self.begun == self.warm_up:
                gc.collect()
                self.warm_bytes = resident_bytes()
            await self.operation(self.begun)

    async def operation(self, serial: int) -> None:
        """One request in a task of its own, perhaps cancelled, and a look at how it ended."""
        loop, chance = asyncio.get_running_loop(), self.random.random()
        request_id = f"{serial}-{self.random.getrandbits(32):x}"
        task = loop.create_task(self.random.choice(self.kinds)(request_id))
        asked: list[bool] = []

        def strike() -> None:
            asked.append(task.cancel())

        if chance < 0.05:
            loop.call_soon(strike)
        elif chance < 0.2:
            loop.call_later(chance * SOON * 10, strike)
        if serial % 500 == 0:
            self.correlator.group(f"group {serial // 500 % GROUPS}").close()
        await asyncio.wait([task])
        if task.cancelled() != any(asked):
            self.violated("cancellation invented" if task.cancelled() else "cancellation swallowed")
        error = None if task.cancelled() else task.exception()
        ending = "cancelled" if task.cancelled() else type(error).__name__
        self.report.endings["answered" if error is None and ending == "NoneType" else ending] += 1
        if error is not None and not isinstance(error, CorrelationError | SendFailed):
            self.violated(f"raised {error!r}")

    def compare(self, request_id: str, reply: object) -> None:
        if reply != ("reply to", request_id):
            self.violated("crossed")

    async def plain(self, request_id: str) -> None:
        asyncio.get_running_loop().call_soon(self.meet_fate, request_id)
        self.compare(request_id, await self.correlator.correlate(request_id))

    async def sending(self, request_id: str) -> None:
        async def send(its_id: str) -> None:
            self.meet_fate(its_id)

        size = self.random.choice((0, 1, 10, 100))
        self.compare(request_id, await self.correlator.correlate(request_id, send=send, size=size))

    async def sending_slowly(self, request_id: str) -> None:
        async def send(its_id: str) -> None:
            await asyncio.sleep(0)
            self.meet_fate(its_id)
            await asyncio.sleep(self.random.random() * SOON)
            await asyncio.sleep(0)

        self.compare(request_id, await self.correlator.correlate(request_id, send=send))

    async def hanging(self, request_id: str) -> None:
        async def send(its_id: str) -> None:
            self.meet_fate(its_id)
            await asyncio.get_running_loop().create_future()

        self.compare(request_id, await self.correlator.correlate(request_id, send=send))

    async def failing(self, request_id: str) -> None:
        async def send(its_id: str) -> None:
            self.meet_fate(its_id)
            await asyncio.sleep(self.random.choice((0, SOON)))
            raise SendFailed

        self.compare(request_id, await self.correlator.correlate(request_id, send=send))

    async def answering_itself(self, request_id: str) -> None:
        async def send(its_id: str) -> None:
            self.reply(its_id)
            await asyncio.sleep(self.random.random() * SOON)

        self.compare(request_id, await self.correlator.correlate(request_id, send=send))

    async def by_hand(self, request_id: str) -> None:
        with self.correlator.register(request_id, context=object()) as pending:
            await asyncio.sleep(0)
            self.meet_fate(pending.request_id)
            self.compare(request_id, await pending)

    async def abandoned(self, request_id: str) -> None:
        self.correlator.register(request_id)
        self.meet_fate(request_id)

    async def grouped(self, request_id: str) -> None:
        async def send(its_id: str) -> None:
            await asyncio.sleep(0)
            self.meet_fate(its_id)

        group = self.correlator.group(f"group {self.random.randrange(GROUPS)}")
        with suppress(CorrelatorClosed):
            self.compare(request_id, await group.correlate(request_id, send=send))

    async def shared(self, request_id: str) -> None:
        async def other() -> None:
            with suppress(CorrelationError):
                self.compare(request_id, await pending)

        pending = self.correlator.register(request_id)
        others = [asyncio.create_task(other()) for _ in range(2)]
        self.meet_fate(request_id)
        self.compare(request_id, await pending)
        await asyncio.wait(others)

    async def nested(self, request_id: str) -> None:
        async def send(its_id: str) -> None:
            with suppress(CorrelationError):
                await self.sending(f"{its_id}-inner")
            self.meet_fate(its_id)

        self.compare(request_id, await self.correlator.correlate(request_id, send=send))

    # -- fates -----------------------------------------------------------------------------------

    def meet_fate(self, request_id: str) -> None:
        """Decide what becomes of a request that was sent."""
        chance, soon = self.random.random(), self.random.random() * SOON
        if chance < 0.25:
            self.reply(request_id)
        elif chance < 0.6:
            self.later(soon, self.reply, request_id)
        elif chance < 0.68:
            self.later(soon, self.reply, request_id)
            self.later(soon * self.random.randint(1, 3), self.reply, request_id)
        elif chance < 0.75:
            self.later(soon, self.reject, request_id)
        elif chance < 0.82:
            self.later(TIMEOUT + soon, self.reply, request_id)  # as it expires, or after that
        elif chance < 0.89:
            self.forge(request_id)
            self.later(soon, self.reply, request_id)
        elif chance < 0.95:
            # A loop that is never idle leaves a thread little of the interpreter: what it cannot
            # keep up with would pile up here, and look like a leak of what is tested.
            if self.to_thread.qsize() < BACKLOG:
                self.to_thread.put(request_id)
            else:
                self.reply(request_id)
        # the rest is never answered

    def later(self, delay: float, call: Callable, *args: object) -> None:
        asyncio.get_running_loop().call_later(delay, call, *args)

    def reply(self, request_id: str) -> None:
        self.said[self.correlator.resolve(request_id, ("reply to", request_id))] += 1

    def reject(self, request_id: str) -> None:
        self.said[self.correlator.reject(request_id, RequestRejected("no"))] += 1

    def forge(self, request_id: str) -> None:
        for forged in (request_id + "0", request_id[:-1], request_id.upper() + " ", ""):
            said = self.correlator.resolve(forged, "forged")
            self.said[said] += 1
            if said is not Disposition.UNKNOWN:
                self.violated("a forged reply was taken")

    def replies_from_a_thread(self) -> None:
        def count(future) -> None:
            self.said[future.result()] += 1

        while (request_id := self.to_thread.get()) is not None:
            reply = ("reply to", request_id)
            self.correlator.resolve_threadsafe(request_id, reply).add_done_callback(count)

    # -- the end ---------------------------------------------------------------------------------

    def check_empty(self) -> None:
        """Nothing is pending any more, before the correlator closes, and little is remembered."""
        stats = self.correlator.stats()
        if stats.pending:
            self.violated("left pending")
        if stats.waiting:
            self.violated("left in the queue")
        if stats.remembered > 5_000:
            self.violated("remembers too many")

    def check_books(self) -> None:
        stats = self.report.stats = self.correlator.stats()
        ended = sum(getattr(stats, outcome.value) for outcome in Outcome)
        if stats.registered != ended or stats.pending or stats.pending_bytes or stats.waiting:
            self.violated("unbalanced (law 4)")
        if stats.reaper_restarts:
            self.violated("the reaper died")
        if self.said[Disposition.MATCHED] != stats.resolved + stats.rejected:
            self.violated("replies matched are not requests answered")
        for said in (Disposition.LATE, Disposition.DUPLICATE, Disposition.UNKNOWN):
            if self.said[said] != getattr(stats, said.value):
                self.violated(f"replies {said.value} are miscounted")
        if self.correlator._store or self.correlator._queue.tickets:
            self.violated("the store is not empty")
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            self.violated(f"{len(left)} tasks left")

    def measure_growth(self) -> None:
        self.report.warm_operations = self.begun - self.warm_up
        if self.report.warm_operations > 0:
            gc.collect()
            grown = resident_bytes() - self.warm_bytes
            self.report.growth = grown * 1e6 / self.report.warm_operations


@contextmanager
def quiet():
    """Keep what the library warns of out of the log: here it happens thousands of times."""
    log = logging.getLogger("correlator")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
