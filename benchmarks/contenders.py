"""What people write by hand to pair a response with its request, and us.

Each has `request`, a coroutine that registers an id, sends where it is told to, and gives the
response; and `reply`, which is called where responses arrive.
"""

from __future__ import annotations

import asyncio
from functools import partial

import anyio
import cachetools

from correlator import Correlator

TIMEOUT = 30.0
MAX_PENDING = 10_000


class LeakyDict:
    """The map of the story: in on request, out on response. What gets none stays for ever."""

    def __init__(self):
        self.pending = {}

    async def request(self, request_id, send=None):
        future = asyncio.get_running_loop().create_future()
        self.pending[request_id] = future
        if send is not None:
            await send(request_id)
        return await future

    def reply(self, request_id, response):
        future = self.pending.pop(request_id, None)
        if future is not None and not future.done():
            future.set_result(response)


class AsyncioTimeout(LeakyDict):
    """A block with a timeout, and a `finally` that cleans up."""

    async def request(self, request_id, send=None):
        future = asyncio.get_running_loop().create_future()
        self.pending[request_id] = future
        try:
            async with asyncio.timeout(TIMEOUT):
                if send is not None:
                    await send(request_id)
                return await future
        finally:
            self.pending.pop(request_id, None)


class WaitFor(LeakyDict):
    """`asyncio.wait_for` around the future. As it is mostly seen, the send has no deadline."""

    async def request(self, request_id, send=None):
        future = asyncio.get_running_loop().create_future()
        self.pending[request_id] = future
        try:
            if send is not None:
                await send(request_id)
            return await asyncio.wait_for(future, TIMEOUT)
        finally:
            self.pending.pop(request_id, None)


class FailAfter(LeakyDict):
    """As with `asyncio.timeout`, with anyio's."""

    async def request(self, request_id, send=None):
        future = asyncio.get_running_loop().create_future()
        self.pending[request_id] = future
        try:
            with anyio.fail_after(TIMEOUT):
                if send is not None:
                    await send(request_id)
                return await future
        finally:
            self.pending.pop(request_id, None)


class CallLater(LeakyDict):
    """A timer for each entry, which ends it; a response cancels the timer."""

    async def request(self, request_id, send=None):
        future = self.register(request_id)
        if send is not None:
            await send(request_id)
        return await future

    def register(self, request_id):
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self.pending[request_id] = future, loop.call_later(TIMEOUT, self.expire, request_id)
        return future

    def reply(self, request_id, response):
        future, timer = self.pending.pop(request_id, (None, None))
        if future is not None:
            timer.cancel()
            if not future.done():
                future.set_result(response)

    def expire(self, request_id):
        future, _ = self.pending.pop(request_id)
        if not future.done():
            future.set_exception(TimeoutError())


class TTLCache(LeakyDict):
    """A cache that forgets. It is bounded; but nobody wakes who waits for what it forgot."""

    def __init__(self):
        self.pending = cachetools.TTLCache(maxsize=MAX_PENDING, ttl=TIMEOUT)


class Ours:
    """A correlator with its bounds on, by count and by bytes."""

    def __init__(self):
        self.correlator = Correlator(
            timeout=TIMEOUT, max_pending=MAX_PENDING, max_pending_bytes=64 * 2**20
        )
        self.request = self.correlator.correlate
        self.reply = self.correlator.resolve


class OursInFull(Ours):
    """The same, with everything given that can be."""

    def __init__(self):
        super().__init__()
        correlate, order = self.correlator.correlate, {"order": 42}

        def request(request_id, send=None):
            return correlate(request_id, send=send, timeout=5.0, context=order, size=100)

        self.request = request


class OursTracked(Ours):
    """The same, and each pending remembers where it was registered, and has a label."""

    def __init__(self, share=True):
        self.correlator = Correlator(
            timeout=TIMEOUT, max_pending=MAX_PENDING, track_origin=share, warn_after=TIMEOUT
        )
        correlate = self.correlator.correlate

        def request(request_id, send=None):
            return correlate(request_id, send=send, label="bench")

        self.request = request
        self.reply = self.correlator.resolve


LEAKY = "leaky dict"
OURS = "correlator"
CONTENDERS = {
    LEAKY: LeakyDict,
    OURS: Ours,
    "correlator, all arguments": OursInFull,
    "correlator, label, track_origin=True": OursTracked,
    "correlator, label, track_origin=0.01": partial(OursTracked, 0.01),
    "dict + asyncio.timeout": AsyncioTimeout,
    "dict + asyncio.wait_for": WaitFor,
    "dict + anyio.fail_after": FailAfter,
    "dict + loop.call_later": CallLater,
    "cachetools.TTLCache": TTLCache,
}
