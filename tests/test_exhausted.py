"""Where memory or the stack ends in the middle of a step: nobody hangs, and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys

import pytest

from correlator import CorrelationError, Correlator, Disposition, Outcome
from correlator.labels import Labels
from correlator.memory import RememberedIds
from correlator.store import ExpiringStore

from .clock import elapse, turns
from .conftest import Recorder, balanced

pytestmark = pytest.mark.virtual_time

ERRORS = pytest.mark.parametrize("error", [MemoryError, RecursionError])


def failing(monkeypatch, where, name, error):
    """Let a step fail as it does when there is no room for it."""

    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(where, name, fail)


@ERRORS
@pytest.mark.parametrize("step", [(RememberedIds, "remember"), (Labels, "settled")])
async def test_a_response_reaches_its_caller_though_settling_fails(monkeypatch, step, error):
    async with Correlator(max_pending_bytes=100) as correlator:
        waiting = asyncio.create_task(correlator.correlate("a", label="bank", size=7))
        await turns(2)
        with monkeypatch.context() as patch:
            failing(patch, *step, error)
            with pytest.raises(error):
                correlator.resolve("a", "response")
        assert await waiting == "response"
        assert (len(correlator), correlator.stats().pending_bytes) == (0, 0)
    balanced(correlator)


@ERRORS
@pytest.mark.parametrize("ambient", [False, True])
async def test_registering_leaves_nothing_when_it_fails(monkeypatch, error, ambient):
    async with Correlator(max_pending_bytes=100) as correlator:
        group = correlator.group("g")
        with monkeypatch.context() as patch:
            failing(patch, Labels, "registered", error)
            with pytest.raises(error):
                if ambient:
                    await group.correlate("a", label="bank", size=7)
                else:
                    group.register("a", label="bank", size=7)
        assert (len(correlator), len(group), correlator.stats().pending_bytes) == (0, 0, 0)
        assert correlator.stats_by_label() == {}
    balanced(correlator)
    assert correlator.stats().cancelled == 1


@ERRORS
async def test_room_that_cannot_be_given_back_is_no_error(monkeypatch, error):
    async with Correlator() as correlator:
        pendings = [correlator.register(timeout=10.0) for _ in range(1_000)]
        pendings.append(correlator.register(timeout=20.0))  # the slot of the others is sealed by it
        failing(monkeypatch, ExpiringStore, "_shrink", error)
        for pending in pendings:
            assert correlator.resolve(pending.request_id, None) is Disposition.MATCHED
        assert {pending.outcome for pending in pendings} == {Outcome.RESOLVED}
        assert len(correlator) == 0


async def test_who_waits_for_a_place_does_not_hang_when_there_is_no_memory(monkeypatch):
    async with Correlator(when_full="wait", max_pending=1) as correlator:
        first = correlator.register("first")
        waiting = asyncio.create_task(correlator.correlate("a", label="bank"))
        await turns(2)
        failing(monkeypatch, Labels, "registered", MemoryError)
        first.cancel()
        with pytest.raises(MemoryError):
            await waiting
        assert (len(correlator), correlator.stats().waiting) == (0, 0)
    balanced(correlator)


def at_the_end_of_the_stack(room, act):
    """Call `act` where only so many more frames fit."""

    def deep(frames):
        return deep(frames - 1) if frames else act()

    return deep(sys.getrecursionlimit() - len(inspect.stack(0)) - room)


@pytest.mark.parametrize("room", range(2, 16))
async def test_a_registration_that_found_no_stack_makes_no_other_immortal(room):
    async with Correlator(resolution=0.5) as correlator:
        correlator.register("a", timeout=1.0).cancel()  # leaves the newest slot empty
        with contextlib.suppress(RecursionError):
            at_the_end_of_the_stack(room, lambda: correlator.register("b", timeout=5.0))
        pending = correlator.register("c", timeout=5.0)
        await elapse(10.0)
        assert pending.outcome is Outcome.TIMED_OUT
        assert len(correlator) == 0


class CtrlC(Recorder):
    """Is struck by Ctrl-C as it hears of that."""

    def __init__(self, event, request_id):
        super().__init__()
        self._at = (event, request_id)

    def registered(self, pending):
        super().registered(pending)
        if self._at == ("registered", pending.request_id):
            raise KeyboardInterrupt

    def settled(self, pending):
        super().settled(pending)
        if self._at == ("settled", pending.request_id):
            raise KeyboardInterrupt


async def test_ctrl_c_while_one_is_let_in_leaves_nobody_behind_him():
    struck_by = CtrlC("registered", "a")
    async with Correlator(max_pending=1, when_full="wait", observers=[struck_by]) as correlator:
        first = correlator.register("first")
        struck, behind = (asyncio.create_task(correlator.correlate(name)) for name in "ab")
        await turns(2)
        with pytest.raises(KeyboardInterrupt):
            first.cancel()
        with pytest.raises(CorrelationError):
            await struck
        await turns(2)
        assert correlator.resolve("b", "response") is Disposition.MATCHED
        assert await behind == "response"
        assert correlator.stats().waiting == 0
    balanced(correlator)


async def test_ctrl_c_while_one_is_settled_lets_in_the_next():
    struck_by = CtrlC("settled", "first")
    async with Correlator(max_pending=1, when_full="wait", observers=[struck_by]) as correlator:
        correlator.register("first")
        behind = asyncio.create_task(correlator.correlate("a"))
        await turns(2)
        with pytest.raises(KeyboardInterrupt):
            correlator.resolve("first", 1)
        assert correlator.resolve("a", "response") is Disposition.MATCHED
        assert await behind == "response"
    balanced(correlator)
