"""Every public call as users write it. Only type-checked, by mypy and pyright; never run."""

# ruff: noqa: INP001 (type checkers take single files, and nobody imports this one)

import asyncio
import concurrent.futures
import itertools
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, assert_type

import httpx
from aiohttp import web
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from correlator import (
    CapacityExceeded,
    CorrelationError,
    Correlator,
    CorrelatorClosed,
    CorrelatorStats,
    Disposition,
    DuplicateRequest,
    ExpiringStore,
    Group,
    LabelStats,
    NoResponder,
    Observer,
    Outcome,
    Pending,
    PendingInfo,
    PendingRef,
    RequestRejected,
    RequestTimeout,
    StoreFull,
    current_deadline,
    current_pending,
    current_request_id,
    is_valid_request_id,
    new_request_id,
    remaining_time,
    request_scope,
)
from correlator.aiohttp import (
    CallbackReply,
    CallbackTokens,
    ReplyRouter,
    VerifiedToken,
    callback_route,
    inspector,
)
from correlator.asgi import CorrelationMiddleware
from correlator.httpx import propagation_hook
from correlator.observers.opentelemetry import OpenTelemetryObserver
from correlator.observers.prometheus import PrometheusObserver
from correlator.observers.structlog import StructlogObserver
from correlator.testing import (
    Responder,
    Step,
    VirtualClock,
    assert_nothing_pending,
    delay,
    drop,
    duplicate,
    error,
    late,
    reply,
    virtual_time,
)
from correlator.transports import (
    Message,
    ReplyStore,
    Transport,
    TransportStats,
    connect,
    reply_store,
)
from correlator.transports.routing import CallbackRouter, callback_reply


async def defaults() -> None:
    async with Correlator() as correlator:
        assert_type(correlator, Correlator[str, Any])
        assert_type(await correlator.correlate("order-42"), Any)
        with correlator.register() as pending:
            assert_type(pending, Pending[str, Any])
            assert_type(pending.request_id, str)


async def publish(request_id: str) -> int:
    return len(request_id)


async def generics() -> None:
    ids = itertools.count()
    async with Correlator[int, bytes](new_id=lambda: next(ids)) as correlator:
        assert_type(correlator, Correlator[int, bytes])
        assert_type(await correlator.correlate(), bytes)
        assert_type(await correlator.correlate(7, timeout=2), bytes)
        pending = correlator.register(7, context={"any": "thing"})
        assert_type(pending, Pending[int, bytes])
        assert_type(await pending, bytes)
        assert_type(correlator.resolve(7, b"reply"), Disposition)
        assert_type(correlator.group("g"), Group[int, bytes])
        assert_type(await correlator.group("g").correlate(7), bytes)
        correlator.resolve("7", b"reply")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        correlator.resolve(7, "reply")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        correlator.register("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await correlator.correlate(7, send=publish)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def annotated() -> None:
    """As an attribute of a class would be: the parameters stand in the annotation."""
    correlator: Correlator[tuple[str, int], dict[str, object]] = Correlator(
        timeout=5,
        max_pending=100,
        max_pending_bytes=1_000_000,
        when_full="wait",
        max_waiting=10,
        remember=60,
        max_remembered=1_000,
        new_id=lambda: ("a", 1),
        observers=[StructlogObserver()],
        name="orders",
        resolution=0.01,
    )
    async with correlator:
        assert_type(await correlator.correlate(), dict[str, object])
    Correlator(when_full="block")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    policy: Literal["reject", "wait"] = "reject"
    Correlator(when_full=policy)


async def requests(correlator: Correlator[str, bytes], error: Exception) -> None:
    assert_type(await correlator.correlate(send=publish, timeout=2.0), bytes)
    assert_type(
        await correlator.correlate(
            "a", send=lambda request_id: asyncio.sleep(0), context=object(), size=10, reuse=True
        ),
        bytes,
    )
    with correlator.register("a", timeout=2.0, context=object(), size=10, reuse=True) as pending:
        await publish(pending.request_id)
        assert_type(await pending, bytes)
    assert_type(correlator.reject("a", error), Disposition)
    assert_type(correlator.resolve_threadsafe("a", b""), concurrent.futures.Future[Disposition])
    assert_type(correlator.reject_threadsafe("a", error), concurrent.futures.Future[Disposition])
    correlator.reject("a", ValueError)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await asyncio.gather(correlator.correlate(), correlator.register())


def a_pending(pending: Pending[str, bytes]) -> None:
    assert_type(pending.age, float)
    assert_type(pending.remaining, float)
    assert_type(pending.deadline, float)
    assert_type(pending.timeout, float)
    assert_type(pending.size, int)
    assert_type(pending.context, Any)
    assert_type(pending.outcome, Outcome | None)
    assert_type(pending.group, Group[str, bytes] | None)
    assert_type(pending.cancel(), bool)
    if pending.outcome is Outcome.TIMED_OUT:
        name: str = pending.outcome.value
        assert name == pending.outcome


async def groups(correlator: Correlator[str, bytes]) -> None:
    group = correlator.group("tenant-7", max_pending=100)
    assert_type(group, Group[str, bytes])
    assert_type(
        group.register("a", timeout=1.0, context=1, size=1, reuse=True), Pending[str, bytes]
    )
    assert_type(await group.correlate("a", send=publish, timeout=1.0), bytes)
    assert_type(len(group), int)
    assert_type(group.name, str)
    assert_type(group.max_pending, int | None)
    assert_type(group.closed, bool)
    assert_type(group.full, bool)
    assert_type(group.close(), int)
    assert_type(group.close(ConnectionError()), int)


async def looking(correlator: Correlator[str, bytes]) -> None:
    stats = correlator.stats()
    assert_type(stats, CorrelatorStats)
    assert_type(stats.registered, int)
    assert_type(stats.oldest_age, float)
    assert_type(correlator.pending(), list[PendingInfo])
    for info in correlator.pending(limit=10):
        assert_type(info.age, float)
        assert_type(info.group, str | None)
        assert_type(info.label, str | None)
        assert_type(info.origin, str | None)
    for label, counts in correlator.stats_by_label().items():
        assert_type(label, str)
        assert_type(counts, LabelStats)
        assert_type(counts.pending, int)
    assert_type(len(correlator), int)
    assert_type("a" in correlator, bool)
    assert_type(correlator.name, str)
    assert_type(await correlator.drain(30.0), bool)
    await correlator.drain(timeout=30.0)
    await correlator.aclose()
    stats.pending = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


class Counting:
    """An observer needs no base class."""

    def __init__(self) -> None:
        self.count = 0

    def registered(self, pending: Pending[Any, Any]) -> None:
        self.count += 1

    def settled(self, pending: Pending[Any, Any]) -> None:
        self.count -= 1

    def unmatched(self, request_id: Any, disposition: Disposition) -> None:
        self.unheard_of = (request_id, disposition)

    def refused(self, error: CorrelationError) -> None:
        self.last = error.status


class NotAnObserver:
    def registered(self, pending: Pending[Any, Any]) -> None: ...


def observing() -> None:
    observer: Observer = Counting()
    Correlator(observers=[observer, Counting(), StructlogObserver()])
    Correlator(observers=(StructlogObserver(logger=None),))
    Correlator(observers=[NotAnObserver()])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def errors(correlator: Correlator) -> str | None:
    try:
        await correlator.correlate()
    except RequestTimeout as error:
        assert_type(error.age, float | None)
        assert_type(error.timeout, float | None)
        as_builtin: TimeoutError = error
        return str(as_builtin)
    except CapacityExceeded as error:
        assert_type(error.retry_after, float | None)
        return f"{error.status} {error.retry_after}"
    except (RequestRejected, NoResponder, DuplicateRequest, CorrelatorClosed) as error:
        return f"{error.status}"
    except CorrelationError as error:
        assert_type(error.request_id, Any)
        assert_type(error.status, int)
    return None


def context() -> None:
    with request_scope("trace-7", timeout=2.0):
        assert_type(current_request_id(), str | None)
        assert_type(current_deadline(), float | None)
        assert_type(remaining_time(), float | None)
        at_hand = current_pending()
        assert_type(at_hand, PendingRef | None)
        if at_hand is not None:
            request_id, deadline = at_hand
            assert_type(deadline, float)
            assert_type(request_id, Any)
    with request_scope(timeout=2), request_scope("a"), request_scope():
        pass


def ids(header: str | None) -> str:
    return header if header is not None and is_valid_request_id(header) else new_request_id()


def stores() -> None:
    store = ExpiringStore[str, bytes](resolution=0.5, max_size=10, max_bytes=100, evict=True)
    with suppress(StoreFull):
        store.add("a", b"1", 10.0, size=1)
    assert_type(store.get("a"), bytes | None)
    assert_type(store.pop("a"), bytes | None)
    assert_type(store.due(10.0, 100), list[bytes])
    assert_type(store.next_due(), float | None)
    assert_type(store.oldest(), bytes | None)
    assert_type(store.purge(10.0, 100), int)
    assert_type(store.fits(5), bool)
    assert_type(store.leaves_at("a"), float)
    assert_type(store.bytes, int)
    assert_type(list(store), list[str])
    assert_type(list(store.values()), list[bytes])
    store.clear()


async def transports() -> None:
    async def handler(message: Message) -> bytes:
        assert_type(message.body, bytes)
        assert_type(message.headers, Mapping[str, str])
        assert_type(message.content_type, str)
        return message.body

    async with (
        Correlator[str, Message](timeout=5.0) as correlator,
        connect("nats://localhost:4222", correlator, replica="one") as transport,
        transport.serve("orders.create", handler, concurrency=10),
    ):
        assert_type(transport, Transport[Message])
        reply = await transport.request("orders.create", b"{}", timeout=2.0, headers={"A": "b"})
        assert_type(reply, Message)
        assert_type(transport.owner, str)
        assert_type(await transport.forward("one-0", "id", reply), bool)
        assert_type(transport.stats(), TransportStats)


async def callbacks_at_any_replica() -> None:
    correlator = Correlator[str, CallbackReply]()
    transport = connect("memory:", correlator, decode=callback_reply, on_disconnect="fail")
    assert_type(transport, Transport[CallbackReply])
    async with reply_store("valkey://localhost") as store:
        assert_type(store, ReplyStore)
        assert_type(await store.get("id"), Message | None)
        assert_type(await store.put("id", Message(b""), 60.0), bool)
        router: ReplyRouter = CallbackRouter(transport, store=store, ttl=60.0)
        tokens = CallbackTokens([b"sixteen bytes or more"])
        verified = tokens.verify(tokens.issue("id", 60.0, router.owner))
        assert_type(verified, VerifiedToken | None)
        callback_route(correlator, tokens=tokens, router=router)


async def what_there_is_to_see(correlator: Correlator[str, bytes]) -> None:
    assert_type(correlator.stats_by_label(), dict[str, LabelStats])
    correlator.register(label="payments")
    Correlator(track_origin=0.01, warn_after=10.0)
    registry = CollectorRegistry()
    observers: list[Observer] = [
        PrometheusObserver(registry, buckets=(0.1, 1.0)),
        OpenTelemetryObserver(),
        StructlogObserver(),
    ]
    correlator.add_observer(observers[0])
    correlator.remove_observer(observers[0])

    async def may_look(request: web.Request) -> bool:
        return request.secure

    app = inspector(
        correlator, authorize=may_look, replicas=lambda own: connect("memory:", own, replica="web")
    )
    assert_type(app, web.Application)
    inspector(correlator, authorize=lambda request: request.secure)


async def other_frameworks() -> None:
    app = CorrelationMiddleware(Starlette(), deadline_header=None)
    transport = httpx.ASGITransport(app)
    hooks = {"request": [propagation_hook(header="X-Correlation-ID")]}
    httpx.AsyncClient(transport=transport, event_hooks=hooks)


async def tests(correlator: Correlator[str, bytes]) -> None:
    with virtual_time() as clock:
        assert_type(clock, VirtualClock)
        assert_type(clock.now, float)
    script: list[Step] = [reply(b"1"), delay(0.5, drop()), late(b"2", by=2.0), duplicate(b"3", 3)]
    with Responder(correlator, *script, then=error(LookupError())) as responder:
        await correlator.correlate(send=responder.send)
        assert_type(responder.dispositions, list[Disposition])
    assert_nothing_pending(correlator)
