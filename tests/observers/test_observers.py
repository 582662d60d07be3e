"""Observers: told of everything, in order, and never able to break anything (law 13)."""

import asyncio
import logging

import pytest

from correlator import (
    CorrelationError,
    Correlator,
    CorrelatorClosed,
    Disposition,
    Outcome,
    RequestTimeout,
)

from ..clock import elapse, turns
from ..conftest import Recorder, balanced

pytestmark = pytest.mark.virtual_time

HOOKS = ["registered", "settled", "unmatched", "refused"]


async def a_life_of_every_kind(correlator):
    """Put a correlator of three places through all that observers are told of."""
    correlator.register("r")
    correlator.resolve("r", 1)
    correlator.resolve("r", 2)
    correlator.register("j")
    correlator.reject("j", ValueError())
    correlator.register("t", timeout=1.0)
    await elapse(2.0)
    correlator.resolve("t", 1)
    correlator.register("c").cancel()
    correlator.resolve("u", 1)
    correlator.group("g").register("g")
    correlator.group("g").close()
    for name in "xyz":
        correlator.register(name)
    for refused in ("x", "w"):
        with pytest.raises(CorrelationError):
            correlator.register(refused)
    for name in "xyz":
        correlator.resolve(name, 1)


A_LIFE = [
    ("registered", "r"),
    ("resolved", "r"),
    ("duplicate", "r"),
    ("registered", "j"),
    ("rejected", "j"),
    ("registered", "t"),
    ("timed_out", "t"),
    ("late", "t"),
    ("registered", "c"),
    ("cancelled", "c"),
    ("unknown", "u"),
    ("registered", "g"),
    ("closed", "g"),
    *[("registered", name) for name in "xyz"],
    ("refused", "DuplicateRequest"),
    ("refused", "CapacityExceeded"),
    *[("resolved", name) for name in "xyz"],
]


async def test_an_observer_is_told_of_everything_in_order():
    recorder = Recorder()
    async with Correlator(observers=[recorder], max_pending=3) as correlator:
        await a_life_of_every_kind(correlator)
        assert recorder.events == A_LIFE
        correlator.register("last")
    assert recorder.events[-1] == ("closed", "last")


async def test_each_observer_is_told_in_the_order_they_were_given():
    told = []

    class Named(Recorder):
        def __init__(self, name):
            self.name = name

        def registered(self, pending):
            told.append(self.name)

    async with Correlator(observers=(Named(name) for name in "abc")) as correlator:
        correlator.register()
        assert told == ["a", "b", "c"]


class Broken(Recorder):
    """An observer that raises in one of its methods, after it has written down the event."""

    def __init__(self, hook, error):
        super().__init__()
        method = getattr(self, hook)

        def broken(*args):
            method(*args)
            raise error

        setattr(self, hook, broken)


@pytest.mark.parametrize(
    "error",
    [ValueError("canary"), asyncio.CancelledError(), GeneratorExit(), StopIteration(), KeyError()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("hook", HOOKS)
async def test_what_an_observer_raises_is_logged_and_breaks_nothing(hook, error, caplog):
    broken, sound = Broken(hook, error), Recorder()
    async with Correlator(observers=[broken, sound], max_pending=3) as correlator:
        await a_life_of_every_kind(correlator)
        stats = balanced(correlator)
        assert (stats.resolved, stats.timed_out, stats.reaper_restarts) == (4, 1, 0)
        waiting = asyncio.create_task(correlator.correlate("w"))
        await turns(2)
        correlator.resolve("w", 7)
        assert await waiting == 7
    assert sound.events[: len(A_LIFE)] == broken.events[: len(A_LIFE)] == A_LIFE
    assert caplog.records
    for record in caplog.records:
        assert (record.name, record.levelno) == ("correlator", logging.ERROR)
        assert f"Broken raised {type(error).__name__} in {hook}, at {__file__}:" in caplog.text
        assert "canary" not in record.getMessage()


@pytest.mark.parametrize("hook", HOOKS)
async def test_an_observer_that_raises_does_not_keep_a_caller_from_his_response(hook):
    broken = Broken(hook, RuntimeError())

    async with Correlator(observers=[broken]) as correlator:

        async def send(request_id):
            correlator.resolve(request_id, "reply")

        assert await correlator.correlate(send=send) == "reply"
        with pytest.raises(RequestTimeout):
            await correlator.correlate(timeout=1.0)


@pytest.mark.parametrize("hook", ["registered", "settled"])
async def test_an_observer_that_raises_does_not_stop_a_close(hook):
    async with Correlator(observers=[Broken(hook, RuntimeError())]) as correlator:
        pendings = [correlator.register() for _ in range(10)]
    assert {pending.outcome for pending in pendings} == {Outcome.CLOSED}
    balanced(correlator)


class LosesAMethod(Recorder):
    def __getattribute__(self, name):
        if name == "settled" and object.__getattribute__(self, "events"):
            raise AttributeError(name)
        return object.__getattribute__(self, name)


async def test_an_observer_whose_method_is_gone_breaks_nothing(caplog):
    async with Correlator(observers=[LosesAMethod()]) as correlator:
        correlator.register("a")
        assert correlator.resolve("a", 1) is Disposition.MATCHED
    assert "LosesAMethod raised AttributeError in settled" in caplog.text


async def test_an_observer_sees_the_work_done():
    """Whatever it asks or does, the request has been taken in, or has left."""
    seen = []

    class Asking(Recorder):
        def registered(self, pending):
            seen.append((pending.outcome, pending.request_id in correlator, len(correlator)))

        def settled(self, pending):
            seen.append((pending.outcome, pending.request_id in correlator, len(correlator)))
            balanced(correlator)
            assert correlator.resolve(pending.request_id, 1) is Disposition.DUPLICATE

    async with Correlator(observers=[Asking()]) as correlator:
        correlator.register("a")
        correlator.resolve("a", 1)
    assert seen == [(None, True, 1), (Outcome.RESOLVED, False, 0)]


async def test_an_observer_may_settle_and_register_and_close():
    class Meddling(Recorder):
        def registered(self, pending):
            super().registered(pending)
            if pending.request_id == "a":
                correlator.resolve("a", "from the observer")

        def settled(self, pending):
            super().settled(pending)
            if pending.request_id == "a":
                correlator.register("b")
                correlator.group("g").close()

    meddling = Meddling()
    async with Correlator(observers=[meddling]) as correlator:
        assert await correlator.correlate("a") == "from the observer"
        assert balanced(correlator, pending=1).registered == 2
    assert meddling.events == [
        ("registered", "a"),
        ("resolved", "a"),
        ("registered", "b"),
        ("closed", "b"),
    ]


async def test_an_observer_that_settles_others_of_a_batch_ends_none_twice():
    class Greedy(Recorder):
        def settled(self, pending):
            super().settled(pending)
            if pending.outcome is Outcome.TIMED_OUT:
                for info in correlator.pending(2):
                    correlator.resolve(info.request_id, 1)

    greedy = Greedy()
    async with Correlator(observers=[greedy]) as correlator:
        for number in range(300):
            correlator.register(number, timeout=1.0)
        await elapse(2.0)
        stats = balanced(correlator)
        assert (stats.timed_out, stats.resolved) == (100, 200)
        ended = [request_id for event, request_id in greedy.events if event != "registered"]
        assert sorted(ended) == list(range(300))


async def test_an_observer_that_settles_others_during_a_close_is_told_it_is_closed(caplog):
    class Late(Recorder):
        def settled(self, pending):
            super().settled(pending)
            correlator.resolve("b", 1)

    late = Late()
    async with Correlator(observers=[late]) as correlator:
        correlator.register("a")
        correlator.register("b")
    assert late.events[2:] == [("closed", "a"), ("closed", "b")]
    assert caplog.text.count(f"raised {CorrelatorClosed.__name__} in settled") == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_program_passes_through_and_the_request_has_ended(error):
    recorder = Recorder()
    async with Correlator(observers=[recorder]) as correlator:
        pending = correlator.register("a")

        def settled(pending):
            raise error

        recorder.settled = settled
        with pytest.raises(error):
            correlator.resolve("a", 1)
        assert pending.outcome is Outcome.RESOLVED
        balanced(correlator)
