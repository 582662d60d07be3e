"""Law 16: nothing of a settled request stays referenced, not even for a moment.

The cyclic collector is off here: what dies only when it runs counts as alive.
"""

import asyncio
import contextvars
import gc
import weakref

import pytest

from correlator import (
    CapacityExceeded,
    CorrelationError,
    Correlator,
    CorrelatorClosed,
    DuplicateRequest,
    RequestTimeout,
    request_scope,
)

from .clock import elapse, turns
from .conftest import balanced

pytestmark = pytest.mark.virtual_time


@pytest.fixture(autouse=True)
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Thing:
    """Something that can be watched."""


class Failure(Exception): ...


@pytest.fixture
async def correlator():
    async with Correlator(timeout=5.0) as correlator:
        yield correlator
    balanced(correlator)


async def settle(correlator, end, pending, watched):
    """End a pending in one of the ways there are, watching what is handed in."""
    request_id = pending.request_id
    if end == "resolve":
        response = Thing()
        watched["response"] = weakref.ref(response)
        correlator.resolve(request_id, response)
    elif end == "reject":
        error = Failure()
        watched["error"] = weakref.ref(error)
        correlator.reject(request_id, error)
    elif end == "time out":
        await elapse(6.0)
    elif end == "cancel":
        pending.cancel()
    elif end == "group":
        pending.group.close()
    else:
        await correlator.aclose()


ENDS = ["resolve", "reject", "time out", "cancel", "group", "close"]


def alive(watched):
    return [name for name, ref in watched.items() if ref() is not None]


@pytest.mark.parametrize("awaited", [True, False], ids=["awaited", "never awaited"])
@pytest.mark.parametrize("end", ENDS)
async def test_a_settled_request_leaves_nothing(correlator, end, awaited):
    context = Thing()
    pending = correlator.group("g").register("a", context=context)
    watched = {"context": weakref.ref(context), "pending": weakref.ref(pending)}
    waiting = None
    if awaited:

        async def wait(pending):
            return await pending

        waiting = asyncio.create_task(wait(pending))
        watched["task"] = weakref.ref(waiting)
        await turns(2)
        watched["future"] = weakref.ref(pending._waiters[0])
    del context
    await settle(correlator, end, pending, watched)
    del pending
    if waiting is not None:
        await asyncio.wait([waiting])
        waiting.exception()
        del waiting
    assert alive(watched) == []


async def test_a_settled_request_that_is_kept_keeps_neither_future_nor_task(correlator):
    pending = correlator.register("a")

    async def wait():
        return await pending

    waiting = asyncio.create_task(wait())
    await turns(2)
    watched = {"task": weakref.ref(waiting), "future": weakref.ref(pending._waiters[0])}
    correlator.resolve("a", 1)
    assert await waiting == 1
    del waiting
    await turns(1)  # the loop itself holds what this task has just waited for
    assert alive(watched) == []
    assert await pending == 1


@pytest.mark.parametrize("end", ["resolve", "reject", "time out", "group", "close"])
@pytest.mark.parametrize("sends", ["no", "shortly", "hangs"])
async def test_a_correlated_request_leaves_nothing(correlator, end, sends):
    context = Thing()
    watched = {"context": weakref.ref(context)}

    class Send:
        async def __call__(self, request_id):
            await (elapse(0.5) if sends == "shortly" else elapse(100.0))

    send = None if sends == "no" else Send()
    if send is not None:
        watched["send"] = weakref.ref(send)
    waiting = asyncio.create_task(
        correlator.group("g").correlate("a", send=send, context=context, timeout=5.0)
    )
    watched["task"] = weakref.ref(waiting)
    del context, send
    await turns(2)
    (pending,) = correlator._store.values()
    watched["pending"] = weakref.ref(pending)
    if sends == "shortly":
        await elapse(1.0)
    await settle(correlator, end, pending, watched)
    del pending
    await asyncio.wait([waiting])
    waiting.exception()
    del waiting
    assert alive(watched) == []


@pytest.mark.parametrize("sends", [False, True])
async def test_a_caller_that_was_cancelled_leaves_nothing(correlator, sends):
    context = Thing()
    watched = {"context": weakref.ref(context)}

    async def send(request_id):
        await elapse(100.0)

    waiting = asyncio.create_task(
        correlator.correlate(context=context, send=send if sends else None)
    )
    watched["task"] = weakref.ref(waiting)
    await turns(2)
    waiting.cancel()
    del context
    await asyncio.wait([waiting])
    del waiting
    assert alive(watched) == []


async def test_a_failed_send_leaves_nothing(correlator):
    context, failure = Thing(), Failure()
    watched = {"context": weakref.ref(context), "error": weakref.ref(failure)}

    box = [failure]  # a name in the send's frame would make a cycle of the error's own traceback

    async def send(request_id):
        raise box.pop()

    with pytest.raises(Failure):
        await correlator.correlate(context=context, send=send)
    del context, failure
    await turns(1)
    assert alive(watched) == []


@pytest.mark.parametrize("error", [RequestTimeout, CorrelatorClosed, CorrelationError, Failure])
async def test_an_error_that_was_raised_holds_nothing_once_it_is_dropped(correlator, error):
    """Nor does it live on in the correlator, or in a cycle with its own traceback."""
    waiting = asyncio.create_task(correlator.correlate("a"))
    await turns(2)
    (pending,) = correlator._store.values()
    if error is RequestTimeout:
        await elapse(6.0)
    elif error is CorrelatorClosed:
        await correlator.aclose()
    elif error is CorrelationError:
        pending.cancel()
    else:
        correlator.reject("a", Failure())
    await asyncio.wait([waiting])
    watched = {"error": weakref.ref(waiting.exception()), "pending": weakref.ref(pending)}
    assert type(waiting.exception()) is error
    del waiting, pending
    assert alive(watched) == []


async def test_a_refused_request_leaves_nothing():
    async with Correlator(max_pending=1) as correlator:
        correlator.register("a")
        context = Thing()
        watched = {"context": weakref.ref(context)}
        for request_id, kind in (("a", DuplicateRequest), ("b", CapacityExceeded)):
            with pytest.raises(kind) as refused:
                correlator.register(request_id, context=context)
            watched[f"{kind} of register"] = weakref.ref(refused.value)
            with pytest.raises(kind) as refused:
                await correlator.correlate(request_id, context=context)
            watched[f"{kind} of correlate"] = weakref.ref(refused.value)
            del refused
        with pytest.raises(TypeError):
            correlator.register([], context=context)
        del context
        await turns(1)
        assert alive(watched) == []


async def test_the_last_of_a_batch_that_timed_out_is_not_kept():
    """A loop variable of a long-lived task would keep it."""
    async with Correlator() as correlator:
        contexts = [Thing() for _ in range(1_000)]
        watched = {number: weakref.ref(context) for number, context in enumerate(contexts)}
        for context in contexts:
            correlator.register(context=context, timeout=1.0)
        del context, contexts
        await elapse(2.0)
        assert balanced(correlator).timed_out == 1_000
        assert alive(watched) == []


@pytest.mark.parametrize(
    "end",
    [
        "served",
        "refused",
        "too late",
        "cancelled",
        "group closed",
        "closed",
        "draining",
        "served, cancelled",
    ],
)
async def test_who_waited_for_a_place_leaves_nothing(end):
    variable = contextvars.ContextVar("variable")
    async with Correlator(when_full="wait", max_pending=1) as correlator:
        first, group = correlator.register("first"), correlator.group("g")
        # A cancelled timer stays in the loop's heap, with its context, while one before it does.
        asyncio.get_running_loop().call_later(0.5, str)
        context, value, ambient = Thing(), Thing(), contextvars.copy_context()
        ambient.run(variable.set, value)
        watched = {"context": weakref.ref(context), "variable": weakref.ref(value)}
        if end == "refused":
            namesake = asyncio.create_task(correlator.correlate("a"))
            await turns(2)
        waiting = asyncio.get_running_loop().create_task(
            group.correlate("a", context=context, timeout=1.0), context=ambient
        )
        watched["task"] = weakref.ref(waiting)
        del context, value, ambient
        await turns(2)
        assert correlator.stats().waiting == (2 if end == "refused" else 1)
        if end == "too late":
            await elapse(2.0)
        elif end == "cancelled":
            waiting.cancel()
        elif end == "group closed":
            group.close()
        elif end == "closed":
            await correlator.aclose()
        elif end == "draining":
            await correlator.drain(0.1)
        elif end == "refused":
            first.cancel()
            await turns(2)
            correlator.resolve("a", 1)
            assert await namesake == 1
        else:
            first.cancel()
            if end == "served":
                await turns(2)
                correlator.resolve("a", 1)
            else:
                waiting.cancel()
        await asyncio.wait([waiting])
        waiting.cancelled() or waiting.exception()
        del waiting
        await turns(2)
        assert alive(watched) == []


async def test_only_the_id_is_remembered():
    class Id(str):
        __slots__ = ("__weakref__",)

    async with Correlator(remember=10.0) as correlator:
        request_id, context = Id("a"), Thing()
        watched = {"id": weakref.ref(request_id), "context": weakref.ref(context)}
        correlator.register(request_id, context=context).cancel()
        del request_id, context
        assert alive(watched) == ["id"]
        await elapse(11.0)
        correlator.stats()
        assert alive(watched) == []


async def test_a_closed_correlator_remembers_nothing():
    async with Correlator() as correlator:
        for number in range(100):
            correlator.register(number).cancel()
    assert correlator.stats().remembered == 0


async def test_what_works_for_all_keeps_nobodys_context_variables():
    """Timers, the reaper and its successors run in a context of their own."""
    variable = contextvars.ContextVar("variable")
    watched = {}

    async def request(correlator, name):
        thing = Thing()
        watched[name] = weakref.ref(thing)
        variable.set(thing)
        with request_scope("trace"):
            if name == "enters":
                await correlator.__aenter__()
            elif name == "kills":
                for task in asyncio.all_tasks():
                    if task.get_name().startswith("correlator-reaper"):
                        task.cancel()
                await turns(3)
            elif name == "sends":
                reply = correlator.resolve
                task = correlator.correlate(
                    "s", send=lambda i: elapse(reply(i, 1) and 0.5), timeout=3
                )
                await task
            else:
                correlator.register(timeout=float(len(name)))

    correlator = Correlator(timeout=50.0)
    for name in ("enters", "first of all", "sooner", "kills", "next", "sends"):
        await asyncio.create_task(request(correlator, name))
        await turns(2)
        assert alive(watched) == [], name
    await elapse(60.0)
    assert len(correlator) == 0
    await correlator.aclose()


async def test_a_send_that_goes_on_keeps_nothing_of_whoever_brought_the_reply(correlator):
    """The timer that would interrupt it at the deadline is set by him, and outlives him."""
    variable, watched = contextvars.ContextVar("variable"), {}

    async def bring_the_reply():
        thing = Thing()
        watched["thing"] = weakref.ref(thing)
        variable.set(thing)
        correlator.resolve("a", 1)

    waiting = asyncio.create_task(correlator.correlate("a", send=lambda request_id: elapse(2.0)))
    await turns(2)
    await asyncio.create_task(bring_the_reply())
    await turns(1)
    assert not waiting.done()
    assert alive(watched) == []
    assert await waiting == 1


async def test_a_reaper_does_not_inherit_the_ambient_request():
    """What observers see when the reaper calls them is no request's scope."""
    variable = contextvars.ContextVar("variable", default="clean")
    seen = []

    class Looking:
        def settled(self, pending):
            seen.append(variable.get())

        registered = unmatched = refused = lambda self, *args: None

    variable.set("whoever entered")
    async with Correlator(observers=[Looking()]) as correlator:
        variable.set("whoever registered")
        with request_scope("trace"):
            correlator.register(timeout=1.0)
        await elapse(2.0)
    assert seen == ["clean"]


async def test_a_dropped_correlator_that_was_closed_is_gone():
    async with Correlator() as correlator:
        correlator.register("a").cancel()
        correlator.group("g").register()
    watched = {"correlator": weakref.ref(correlator)}
    del correlator
    gc.collect()  # it and its reaper know each other; a cycle here costs one collection, once
    assert alive(watched) == []
