"""StructlogObserver: one line for each thing that happens, at the right level, and no secrets."""

import asyncio
import logging

import pytest
import structlog
from structlog.testing import CapturingLogger, capture_logs

from correlator import (
    CapacityExceeded,
    CorrelationError,
    Correlator,
    DuplicateRequest,
    RequestRejected,
    RequestTimeout,
    request_scope,
)
from correlator.observers import structlog as correlator_structlog
from correlator.observers.structlog import StructlogObserver

from ..clock import elapse
from ..conftest import balanced

pytestmark = pytest.mark.virtual_time


def events(lines):
    return [(line["event"].removeprefix("correlator."), line["log_level"]) for line in lines]


async def test_every_event_has_its_name_and_level():
    with capture_logs() as lines:
        async with Correlator(observers=[StructlogObserver()], max_pending=1) as correlator:
            correlator.register("a")
            correlator.resolve("a", 1)
            correlator.resolve("a", 1)
            correlator.register("b")
            correlator.reject("b", ValueError())
            correlator.register("c", timeout=1.0)
            await elapse(2.0)
            correlator.resolve("c", 1)
            correlator.resolve("d", 1)
            correlator.register("e").cancel()
            correlator.register("f")
            with pytest.raises(CapacityExceeded):
                correlator.register("g")
    assert events(lines) == [
        ("request_registered", "debug"),
        ("request_resolved", "debug"),
        ("reply_duplicate", "warning"),
        ("request_registered", "debug"),
        ("request_rejected", "warning"),
        ("request_registered", "debug"),
        ("request_timed_out", "warning"),
        ("reply_late", "warning"),
        ("reply_unknown", "warning"),
        ("request_registered", "debug"),
        ("request_cancelled", "debug"),
        ("request_registered", "debug"),
        ("request_refused", "warning"),
        ("request_closed", "info"),
    ]
    assert all(line["event"].startswith("correlator.") for line in lines)


async def test_a_rejection_says_of_what_kind_the_error_is_and_nothing_of_its_words():
    class Answer:
        status = 404

    caused = RequestRejected("canary")
    caused.__cause__ = ConnectionResetError("canary")
    with capture_logs() as lines:
        async with Correlator(observers=[StructlogObserver()]) as correlator:
            for error in (
                LookupError("canary"),
                caused,
                RequestRejected("canary", reply=Answer()),
                RequestRejected("canary", reply="canary"),
            ):
                correlator.register("a", reuse=True)
                correlator.reject("a", error)
    facts = ("error", "cause", "reply_status")
    said = [
        {name: line[name] for name in facts if name in line}
        for line in lines
        if line["event"] == "correlator.request_rejected"
    ]
    assert said == [
        {"error": "LookupError"},
        {"error": "RequestRejected", "cause": "ConnectionResetError"},
        {"error": "RequestRejected", "reply_status": 404},
        {"error": "RequestRejected"},
    ]
    assert "canary" not in repr(lines)


async def test_a_line_has_id_age_and_timeout():
    with capture_logs() as lines:
        async with Correlator(observers=[StructlogObserver()]) as correlator:
            correlator.register("a", timeout=5.0)
            await elapse(1.25)
            correlator.resolve("a", 1)
            correlator.resolve("x", 1)
            correlator.register("b")
            with pytest.raises(DuplicateRequest):
                correlator.register("b")
            registered, resolved, unknown, _, refused = lines
            assert registered["request_id"] == "a"
            assert registered["timeout_s"] == 5.0
            assert resolved["request_id"] == "a"
            assert (resolved["age_s"], resolved["timeout_s"]) == (1.25, 5.0)
            assert unknown["request_id"] == "x"
            assert refused["request_id"] == "b"
            assert refused["error"] == "DuplicateRequest"
            assert refused["reason"] == "request 'b' is pending already"


async def test_it_logs_to_the_logger_it_is_given():
    with capture_logs() as lines:
        logger = structlog.get_logger().bind(component="orders")
        async with Correlator(observers=[StructlogObserver(logger)]) as correlator:
            correlator.register("a").cancel()
    assert [line["component"] for line in lines] == ["orders", "orders"]


async def test_it_configures_nothing():
    structlog.reset_defaults()
    StructlogObserver()
    logger = CapturingLogger()
    async with Correlator(observers=[StructlogObserver(logger)]) as correlator:
        correlator.register("a").cancel()
    assert [call.method_name for call in logger.calls] == ["debug", "debug"]
    assert not structlog.is_configured()


@pytest.mark.parametrize(
    "request_id",
    ["a\r\nforged line", "a\x00", "a\x1b[31m", "a\u2028b", "x" * 8_192, b"\r\n", ("a\n",), 1.5],
    ids=ascii,
)
async def test_an_id_cannot_forge_a_line_nor_flood_it(request_id):
    with capture_logs() as lines:
        async with Correlator(observers=[StructlogObserver()]) as correlator:
            correlator.register(request_id)
            with pytest.raises(DuplicateRequest):
                correlator.register(request_id)
            correlator.resolve(request_id, 1)
            correlator.resolve(request_id, 1)
    assert len(lines) == 4
    for line in lines:
        for value in line.values():
            text = str(value)
            assert len(text) <= 250
            assert text.isprintable()


@pytest.mark.parametrize("request_id", ["order-42", 42, "ü", "x" * 128])
async def test_a_plain_id_is_logged_as_it_is(request_id):
    with capture_logs() as lines:
        async with Correlator(observers=[StructlogObserver()]) as correlator:
            correlator.register(request_id).cancel()
    assert [line["request_id"] for line in lines] == [request_id, request_id]


CANARY = "canary-5f3a"


class Secret:
    def __repr__(self):
        return CANARY

    __str__ = __repr__


class Clumsy:
    """An observer that quotes what it should not."""

    def registered(self, pending): ...
    def unmatched(self, request_id, disposition): ...
    def refused(self, error): ...

    def settled(self, pending):
        raise ValueError(CANARY)


async def test_nothing_secret_is_in_any_line_or_repr_or_message(caplog):
    """Law 19: contexts, responses, errors' words, and what sends and observers raise."""
    caplog.set_level(logging.DEBUG)
    shown = []

    def show(thing):
        shown.extend([repr(thing), str(thing)])

    def refused(kind, request_id, **options):
        with pytest.raises(kind) as error:
            correlator.register(request_id, context=Secret(), **options)
        show(error.value)

    async def failing_late(request_id):
        correlator.reject(request_id, LookupError())
        raise ConnectionError(CANARY)

    observers = [StructlogObserver(), Clumsy()]
    with capture_logs() as lines:
        async with Correlator(observers=observers, max_pending=2) as correlator:
            group = correlator.group("g", max_pending=2)
            pendings = [group.register(name, context=Secret(), timeout=1.0) for name in "ab"]
            refused(DuplicateRequest, "a")
            refused(CapacityExceeded, "c")
            for task in asyncio.all_tasks():
                show(task)
            for thing in (correlator, group, correlator.pending(), correlator.stats(), *pendings):
                show(thing)
            correlator.resolve("a", Secret())
            correlator.resolve("a", Secret())
            correlator.reject("b", ValueError(Secret()))
            correlator.reject("unheard of", ValueError(Secret()))
            refused(DuplicateRequest, "a")
            with pytest.raises(RequestTimeout) as error:
                await correlator.correlate("t", context=Secret(), timeout=1.0)
            show(error.value)
            with pytest.raises(LookupError):
                await correlator.correlate(send=failing_late, context=Secret())
            pendings.append(group.register("d", context=Secret()))
            pendings[-1].cancel()
            pendings.append(group.register("e", context=Secret()))
            group.close(ConnectionError(CANARY))
            pendings.append(correlator.register("f", context=Secret()))
        for pending in pendings:
            show(pending)
        for pending in (pendings[2], pendings[4]):
            with pytest.raises(CorrelationError) as error:
                await pending
            show(error.value)
    balanced(correlator)
    assert len(lines) > 16
    assert "failed with ConnectionError" in caplog.text
    assert "Clumsy raised ValueError" in caplog.text
    assert CANARY not in caplog.text
    assert CANARY not in repr(lines)
    assert CANARY not in "\n".join(shown)


async def test_a_timeout_names_the_request_for_which_it_was_asked():
    """The reaper logs it, outside of every request: the id in force at registration tells whose."""
    with capture_logs() as logs:
        async with Correlator(observers=[StructlogObserver()]) as correlator:
            with request_scope("from-outside"):
                correlator.register("a", timeout=1.0)
            correlator.register("b", timeout=1.0)
            await elapse(2.0)
    timed_out = {
        line["request_id"]: line.get("correlation_id")
        for line in logs
        if line["event"] == "correlator.request_timed_out"
    }
    assert timed_out == {"a": "from-outside", "b": None}


async def test_who_waited_for_a_place_is_logged_with_his_own_id():
    """Whoever frees the place registers for him, in a context that is not his."""
    with capture_logs() as logs:
        async with Correlator(
            max_pending=1, when_full="wait", observers=[StructlogObserver()]
        ) as correlator:
            correlator.register("first")
            with request_scope("his"):
                waiting = asyncio.create_task(correlator.correlate("second"))
            await elapse(0.1)
            with request_scope("of whoever frees it"):
                correlator.resolve("first", 1)
                correlator.resolve("second", 2)
            assert await waiting == 2
    assert [
        line.get("correlation_id")
        for line in logs
        if line["event"] == "correlator.request_registered"
    ] == [None, "his"]


@pytest.mark.parametrize(("least", "all_of_it"), [(logging.DEBUG, True), (logging.INFO, False)])
async def test_what_is_for_debugging_is_not_even_put_together_unless_it_is_wanted(
    monkeypatch, least, all_of_it
):
    written = CapturingLogger()
    made = []
    ids = correlator_structlog._ids
    monkeypatch.setattr(correlator_structlog, "_ids", lambda *a: made.append(a) or ids(*a))
    logger = structlog.wrap_logger(
        written,
        processors=[lambda *a: a[2]["event"]],
        wrapper_class=structlog.make_filtering_bound_logger(least),
    ).bind()
    async with Correlator(observers=[StructlogObserver(logger)]) as correlator:
        correlator.register("a").cancel()
        correlator.register("b", timeout=1.0)
        await elapse(2.0)
    names = [call.args[0].removeprefix("correlator.") for call in written.calls]
    everything = ["request_registered", "request_cancelled", "request_registered"]
    assert names == (everything if all_of_it else []) + ["request_timed_out"]
    assert len(made) == len(names)
