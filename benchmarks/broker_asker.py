"""The process that asks: it makes requests of one kind, and measures them and itself."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack

from .broker_peers import BODY, PEERS, opened
from .broker_responder import SILENT
from .measuring import rss
from .worker import obey, work

_WARM_UP = 300
_CANCELLED = 1.0  # seconds that a cancelled request had
_SETTLES = 1.5  # seconds; by then what has an expiry at its broker is gone


class Asker:
    """One of the peers, or several of its replicas, that take turns."""

    def __init__(self, broker, name, url, stack):
        self.peer = PEERS[broker][name]
        self._url = url
        self._stack = stack
        self._replicas = []

    async def grow(self, to):
        """Have so many replicas."""
        while len(self._replicas) < to:
            self._replicas.append(await opened(self.peer.make, self._url, self._stack))

    async def age(self):
        """Do what a service has long done, and return the bytes of memory before and after."""
        fresh = rss()
        await self.load(_WARM_UP, 1)
        if hasattr(self._replicas[0], "age"):
            await self._replicas[0].age()
        return {"fresh": fresh, "aged": rss()}

    async def load(self, requests, in_flight):
        """Make so many requests, of which so many wait at once, each for its own reply."""
        turns = itertools.cycle(replica.request for replica in self._replicas)
        numbers = iter(range(requests))
        took = []
        clock = time.perf_counter

        async def ask():
            for _, request in zip(numbers, turns, strict=False):
                start = clock()
                reply = await request()
                took.append(clock() - start)
                if reply != BODY:
                    raise RuntimeError(f"not what was asked for: {reply!r:.200}")

        gc.collect()
        gc.freeze()
        start, cpu = clock(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(ask())
        seconds, cpu = clock() - start, time.process_time() - cpu
        gc.unfreeze()
        assert len(took) == requests
        took.sort()
        return {
            "requests_per_s": requests / seconds,
            "p50_ms": took[requests // 2] * 1e3,
            "p99_ms": took[requests * 99 // 100] * 1e3,
            "cpu_us": cpu / requests * 1e6,
            "seconds": seconds,
        }

    async def memory(self):
        return rss()

    async def outcomes(self, requests):
        """Make so many requests, all at once, and count how they end."""
        replica = self._replicas[0]
        asked = (asyncio.wait_for(replica.request(), 20) for _ in range(requests))
        ends = await asyncio.gather(*asked, return_exceptions=True)
        return Counter("answered" if end == BODY else type(end).__name__ for end in ends)

    async def leave(self, how, requests):
        """Make requests that end so. Return how they ended, and what is left of them."""
        replica = self._replicas[0]
        before = self._held(replica)
        ends = Counter()
        numbers = iter(range(requests))

        async def ask():
            for _ in numbers:
                try:
                    await self._ways()[how](replica)
                    ends["answered"] += 1
                except (Exception, asyncio.CancelledError) as error:
                    ends[type(error).__name__] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(min(requests, self.peer.at_once)):
                group.create_task(ask())
        await asyncio.sleep(_SETTLES)
        gc.collect()
        after = self._held(replica)
        return {"ends": ends, "left": {name: after[name] - before[name] for name in after}}

    def _held(self, replica):
        return replica.held() | {"tasks": len(asyncio.all_tasks())}

    def _ways(self):
        async def time_out(replica):
            await replica.request(SILENT, self.peer.timeout)

        async def cancel(replica):
            request = asyncio.create_task(replica.request(SILENT, _CANCELLED))
            asyncio.get_running_loop().call_later(0.01, request.cancel)
            await request

        async def fail(replica):
            await replica.fail()

        return {"timeouts": time_out, "cancels": cancel, "failed sends": fail}


async def _main(broker, name, url):
    async with AsyncExitStack() as stack:
        asker = Asker(broker, name, url, stack)
        await asker.grow(1)
        orders = (asker.grow, asker.age, asker.load, asker.memory, asker.outcomes, asker.leave)
        await obey({order.__name__: order for order in orders})


if __name__ == "__main__":
    work(_main(*sys.argv[1:]))
