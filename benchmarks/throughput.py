"""What one request costs, in the shapes services have; and what it costs to make its id."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import uuid

from correlator import new_request_id

from .contenders import CONTENDERS, Ours
from .measuring import cpu_seconds, medians, progress

RESPONSE = {"status": "done"}
HEADLINE = "task per request"
SENDS = " + send"
_WARM_UP = 110_000  # more than are remembered by default: from there on ids are dropped
_TASKS = 1000
_WORKERS = 100


async def sequential(handle, ids):
    """One task, one request at a time."""
    for request_id in ids:
        await handle(request_id)


async def task_per_request(handle, ids):
    """A task for each request, a thousand at a time: as a web service does it."""
    remaining = iter(ids)
    while batch := list(itertools.islice(remaining, _TASKS)):
        await asyncio.gather(*map(handle, batch))


async def workers(handle, ids):
    """A hundred tasks, each one request after the other."""
    remaining = iter(ids)
    await asyncio.gather(*(sequential(handle, remaining) for _ in range(_WORKERS)))


SHAPES = {"sequential": sequential, HEADLINE: task_per_request, "100 workers": workers}


def handler(contender, *, sends):
    """Return what handles one request. The reply comes in the loop's next turn."""
    call_soon = asyncio.get_running_loop().call_soon
    request, reply = contender.request, contender.reply

    async def send(request_id):
        call_soon(reply, request_id, RESPONSE)

    async def sent_by_us(request_id):
        return await request(request_id, send=send)

    async def sent_by_others(request_id):
        call_soon(reply, request_id, RESPONSE)
        return await request(request_id)

    return sent_by_us if sends else sent_by_others


async def measure_throughput(rounds, requests):
    """Return the microseconds per request, by shape ("… + send" where it sends), by contender."""
    async with contextlib.AsyncExitStack() as stack:
        contenders = {name: make() for name, make in CONTENDERS.items()}
        for contender in contenders.values():
            await _warm_up(contender, stack)
        cases = [(shape, sends) for shape in SHAPES for sends in (False, True)]
        taken = {case: [] for case in cases}
        for number in range(rounds):
            for case in cases:
                shape, sends = case
                progress("throughput", f"round {number + 1} of {rounds}: {shape}")
                ids = [new_request_id() for _ in range(requests)]
                times = {}
                for name in _rotated(list(contenders), number):
                    handle = handler(contenders[name], sends=sends)
                    seconds = await cpu_seconds(SHAPES[shape](handle, ids))
                    times[name] = seconds / requests * 1e6
                taken[case].append(times)
    return {
        shape + SENDS * sends: _in_order(medians(taken[shape, sends])) for shape, sends in cases
    }


async def measure_ids(rounds, requests):
    """Return the microseconds per request with the id given and with it made, and per id."""
    async with contextlib.AsyncExitStack() as stack:
        ours = Ours()
        await _warm_up(ours, stack)
        given, given_and_sent = (handler(ours, sends=sends) for sends in (False, True))
        correlate, reply = ours.request, ours.reply
        call_soon = asyncio.get_running_loop().call_soon

        async def send(request_id):
            call_soon(reply, request_id, RESPONSE)

        async def made(_):
            await given(new_request_id())

        async def made_and_sent(_):
            await correlate(send=send)

        async def uuid_made(_):
            await given(str(uuid.uuid4()))

        handlers = {
            "given": given,
            "made": made,
            "str(uuid4())": uuid_made,
            "given + send": given_and_sent,
            "made + send": made_and_sent,
        }
        taken, each = [], []
        for number in range(rounds):
            progress("ids", f"round {number + 1} of {rounds}")
            times = {}
            for name in _rotated(list(handlers), number):
                ids = [new_request_id() for _ in range(requests)]
                seconds = await cpu_seconds(task_per_request(handlers[name], ids))
                times[name] = seconds / requests * 1e6
            taken.append(times)
            each.append(
                {
                    "new_request_id()": _microseconds(new_request_id, requests),
                    "uuid.uuid4()": _microseconds(uuid.uuid4, requests),
                    "str(uuid.uuid4())": _microseconds(lambda: str(uuid.uuid4()), requests),
                }
            )
    return {HEADLINE: medians(taken), "one id": medians(each)}


async def _warm_up(contender, stack):
    """Bring a contender to where it is after a while, and see that it gives the response."""
    progress("warming up")
    if isinstance(contender, Ours):
        await stack.enter_async_context(contender.correlator)
    assert await handler(contender, sends=True)(new_request_id()) is RESPONSE
    count = _WARM_UP if isinstance(contender, Ours) else _TASKS
    ids = (new_request_id() for _ in range(count))
    await task_per_request(handler(contender, sends=False), ids)


def _rotated(names, number):
    """Let another be first each time: the first finds the caches in another state."""
    number %= len(names)
    return names[number:] + names[:number]


def _in_order(times):
    return {name: times[name] for name in CONTENDERS}


def _microseconds(call, count):
    start = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - start) / count * 1e6
