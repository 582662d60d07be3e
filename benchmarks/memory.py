"""What one pending weighs, and what a million requests leave behind. Each in its own process."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc

from correlator import CorrelationError, Correlator, new_request_id

from .contenders import CallLater, LeakyDict
from .measuring import rss

_SPREAD = 30.0  # seconds over which deadlines lie, as with a timeout of 30 s and steady traffic
_BATCH = 10_000
_WARM_UP = 200_000


async def weight(what, count, traced):
    """Return the bytes of one pending beyond its id, of `count`.

    What Python asked for, where `traced`; or else what the process got from the kernel, which
    holds on to some of what was given back, now more and now less.

    "spread" and "together" are ours, with deadlines spread over half a minute and all in one
    slot; "future" and "call_later" the hand-written ones. "awaited" and "future awaited" have a
    task waiting for each, whose weight is in it.
    """
    ids = [new_request_id() for _ in range(count)]
    loop = asyncio.get_running_loop()
    in_use = _traced_bytes if traced else rss
    async with Correlator(timeout=600.0, max_pending=count) as correlator:
        leaky, timers = LeakyDict(), CallLater()
        tasks = []
        correlator.register().cancel()  # what is made once is made now
        if traced:
            tracemalloc.start()
        before = in_use()
        due = loop.time() + 600.0
        for number, request_id in enumerate(ids):
            if what == "spread":
                correlator.register(request_id, timeout=600.0 + number / count * _SPREAD)
            elif what == "together":
                correlator.register(request_id, timeout=due - loop.time())
            elif what == "future":
                leaky.pending[request_id] = loop.create_future()
            elif what == "call_later":
                timers.register(request_id)
            elif what == "awaited":
                tasks.append(loop.create_task(correlator.correlate(request_id)))
            elif what == "future awaited":
                tasks.append(loop.create_task(leaky.request(request_id)))
        await asyncio.sleep(0)
        held = in_use() - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return held / count


def _traced_bytes():
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def leak(count, trimmed):
    """Return by how many bytes memory has grown after `count` requests that ended in every way.

    Counted from when what is remembered is full, and the dicts and pools that hold it have grown.
    What is remembered stands in two dicts of some megabytes, which CPython makes anew after so many
    insertions; when glibc keeps the old one's room, that shows unless `trimmed`. It comes and goes.
    """
    async with Correlator(max_pending=4 * _BATCH, max_pending_bytes=2**30) as correlator:
        await _mixed_requests(correlator, _WARM_UP)
        before = correlator.stats()
        samples = [rss(trimmed=trimmed)]
        for _ in range(10):
            await _mixed_requests(correlator, count // 10)
            samples.append(rss(trimmed=trimmed))
        stats = correlator.stats()
        assert stats.pending == 0
        assert stats.registered - before.registered == count
        ended = {
            name: getattr(stats, name) - getattr(before, name)
            for name in ("resolved", "rejected", "timed_out", "cancelled", "late", "duplicate")
        }
        assert all(ended.values()), ended
    return {"grown": samples[-1] - samples[0], "samples": samples, **ended}


async def _mixed_requests(correlator, count):
    seed = random.Random(42)
    loop = asyncio.get_running_loop()

    async def send(request_id):
        loop.call_soon(correlator.resolve, request_id, b"response")

    async def one(kind, late):
        request_id = new_request_id()
        order = {"order": request_id}
        try:
            if kind < 0.5:
                await correlator.correlate(request_id, send=send, context=order, size=100)
            elif kind < 0.6:
                loop.call_soon(correlator.reject, request_id, ValueError("no such order"))
                await correlator.correlate(request_id, context=order)
            elif kind < 0.7:
                late.append(request_id)
                await correlator.correlate(request_id, timeout=0.005, context=order, size=100)
            elif kind < 0.8:
                task = asyncio.current_task()
                loop.call_soon(task.cancel)
                late.append(request_id)
                await correlator.correlate(request_id, context=order)
            elif kind < 0.9:
                loop.call_soon(correlator.resolve, request_id, b"first")
                late.append(request_id)  # here a duplicate
                await correlator.correlate(request_id, context=order)
            else:
                with correlator.register(request_id, context=order) as pending:
                    loop.call_soon(correlator.resolve, pending.request_id, b"response")
                    await pending
        except (CorrelationError, ValueError):
            pass

    for at in range(0, count, _BATCH):
        late = []
        tasks = [one(seed.random(), late) for _ in range(min(_BATCH, count - at))]
        await asyncio.gather(*tasks, return_exceptions=True)
        for request_id in late:
            correlator.resolve(request_id, b"too late")
