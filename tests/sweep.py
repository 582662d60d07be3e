"""The engine of the sweep: plays a scene again and again, each time strikes its caller elsewhere.

A caller can be struck at two kinds of points. Its *suspensions* are the awaits at which its task
really waits, counted by driving its coroutine by hand. The *steps* are everything that the loop
does while the caller lives, each callback one step, so that a cancellation falls between any two
callbacks, also within one turn. A sweep goes through all of them, and ends when the caller does.
"""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from correlator import Correlator, Outcome, Pending

from .clock import turns
from .conftest import balanced

__all__ = [
    "Abort", "Played", "Scene", "SendFailed", "Stage", "Witness", "and_tidies_up", "expire",
    "in_order", "on_a_future", "on_a_task", "on_turns", "opened", "play", "settles", "sweep",
]  # fmt: skip

ENOUGH = 500  # points; a scene that has more never ends


class Abort(BaseException):
    """What no `except Exception` catches, as a test framework's own exit."""


class Witness:
    """An observer that keeps every pending, and checks that each settles once."""

    def __init__(self) -> None:
        self.registered_: list[Pending] = []
        self.settled_: list[Pending] = []

    def registered(self, pending):
        self.registered_.append(pending)

    def settled(self, pending):
        assert pending not in self.settled_, "settled twice"
        self.settled_.append(pending)

    def unmatched(self, request_id, disposition):
        pass

    def refused(self, error):
        pass


@dataclass
class Stage:
    """What a scene has to hand. Requests of others than the caller have ids that say ``other``."""

    correlator: Correlator
    witness: Witness
    strike_send: Callable[[Coroutine], Awaitable] | None = None
    others: list[asyncio.Task] = field(default_factory=list)

    def mine(self) -> Pending | None:
        """Return the caller's first request, or None."""
        every = self.witness.registered_
        return next((it for it in every if "other" not in it.request_id), None)

    def start(self, coro: Coroutine) -> asyncio.Task:
        """Let somebody else do something, who is never struck."""
        self.others.append(asyncio.create_task(coro))
        return self.others[-1]

    def reply(self, request_id: str, *, after: float | None = None, skip: int = 0) -> None:
        """Let a reply come, so many seconds or turns of the loop later."""

        async def replier() -> None:
            if after is not None:
                await asyncio.sleep(after)
            await turns(skip)
            self.correlator.resolve(request_id, f"reply to {request_id}")

        self.start(replier())

    def send(self, publish: Callable[[str], Coroutine]) -> Callable[[str], Awaitable]:
        """Return `publish`, to be struck where this run strikes the send."""
        if self.strike_send is None:
            return publish
        return lambda request_id: self.strike_send(publish(request_id))


@dataclass(frozen=True)
class Scene:
    """What a caller does, and how it ends when nobody strikes.

    Attributes:
        caller: what the caller does.
        suspensions: how often its task then waits. A sweep has that many points, no fewer.
        raises: what it then raises, or None.
        options: the correlator's.
    """

    caller: Callable[[Stage], Coroutine[Any, Any, Any]]
    suspensions: int
    raises: type[BaseException] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.caller.__name__


@dataclass
class Played:
    """One run.

    Attributes:
        points: how many points there were.
        struck: whether the strike found the caller still there.
        caller: the task that was the caller.
        was_over: whether the caller's request had settled when he was struck.
        outcome: how the caller's first request ended, or None if there was none.
        error: what was raised at the point, if anything was.
    """

    points: int = 0
    struck: bool = False
    caller: asyncio.Task | None = None
    was_over: bool = False
    outcome: Outcome | None = None
    error: BaseException | None = None


class _Steps(deque):
    """A loop's ready queue, which cancels a task before one of the callbacks in its life."""

    def watch(self, task: asyncio.Task, played: Played, at: int) -> None:
        self.task, self.played, self.at = task, played, at

    def popleft(self):
        handle = super().popleft()
        if not self.task.done():
            if self.played.points == self.at:
                self.played.struck = self.task.cancel()
            self.played.points += 1
        return handle


@types.coroutine
def struck(
    make: Callable[[], Coroutine],
    played: Played,
    at: int,
    how: str,
    mine: Callable[[], Pending | None],
):
    """Await what `make` returns, and strike it at its suspension number `at`.

    `how`: ``"suspends"`` and ``"wakes"`` cancel the task in the step in which it begins to wait and
    in the turn in which it is about to go on; ``"raise"`` raises `played.error` out of the await;
    ``"close"`` closes the coroutine.
    """
    coro = make()
    step = partial(coro.send, None)
    while True:
        try:
            awaited = step()
        except StopIteration as stop:
            return stop.value
        here = played.points == at
        played.points += 1
        if here:
            played.struck = True
            request = mine()
            played.was_over = request is not None and request.outcome is not None
            if how in ("raise", "close"):
                if awaited is not None:
                    awaited._asyncio_future_blocking = False
                if how == "close":
                    coro.close()
                    return None
                step = partial(coro.throw, played.error)
                continue
            cancel = asyncio.current_task().cancel
            if how == "suspends":
                cancel()
            elif awaited is None:
                asyncio.get_running_loop().call_soon(cancel)
            else:
                awaited.add_done_callback(lambda _, cancel=cancel: cancel())
        try:
            step = partial(coro.send, (yield awaited))
        except GeneratorExit:
            coro.close()
            raise
        except BaseException as thrown:
            step = partial(coro.throw, thrown)


async def play(scene: Scene, how: str, at: int, error: BaseException | None = None) -> Played:
    """Play a scene once, struck at point `at`, and check that nothing of it is left.

    `how`: as in `struck`; ``"step"`` cancels the caller before the loop's step number `at`;
    ``"send"`` raises `error` at an await of the send.
    """
    played, witness = Played(error=error), Witness()
    async with Correlator(name="swept", observers=[witness], **scene.options) as correlator:
        await turns(2)  # the reaper falls asleep
        stage = Stage(correlator, witness)
        if how == "send":

            def strike_send(coro: Coroutine) -> Awaitable:
                return struck(lambda: coro, played, at, "raise", stage.mine)

            stage.strike_send = strike_send

        async def caller() -> Any:
            if how in ("step", "send"):
                return await scene.caller(stage)
            return await struck(lambda: scene.caller(stage), played, at, how, stage.mine)

        played.caller = task = asyncio.create_task(caller())
        if how == "step":
            loop = asyncio.get_running_loop()
            loop._ready = steps = _Steps(loop._ready)
            steps.watch(task, played, at)
            await asyncio.wait([task])
            loop._ready = deque(steps)
        else:
            await asyncio.wait([task])
        await _check(stage, played)
    assert not correlator._store
    assert len(witness.registered_) == len(witness.settled_)
    return played


async def _check(stage: Stage, played: Played) -> None:
    """A turn after the caller's end nothing of his is left; after the others', nothing at all."""
    correlator, witness = stage.correlator, stage.witness
    mine = stage.mine()
    played.outcome = mine.outcome if mine else None
    await turns(1)
    left = [info.request_id for info in correlator.pending() if "other" not in info.request_id]
    assert left == [], "the caller is gone, and his entries are not"
    for ticket in correlator._queue.tickets:
        assert "other" in ticket.request_id, (
            "the caller is gone, and still has a place in the queue"
        )
    if stage.others:
        await asyncio.wait(stage.others)
    assert not any(task.cancelled() for task in stage.others), "cancelled somebody else"
    for task in stage.others:
        task.result()
    await asyncio.sleep(10)  # what others registered and forgot is ended by its deadline
    assert len(correlator) == 0
    assert not correlator._store
    assert correlator._store.bytes == 0
    assert not correlator._queue.tickets
    assert all(len(group) == 0 for group in correlator._groups.values())
    stats = correlator.stats()
    ended = [getattr(stats, outcome.value) for outcome in Outcome]
    assert stats.registered == sum(ended) == len(witness.registered_) == len(witness.settled_)
    assert stats.pending == stats.pending_bytes == stats.waiting == 0
    assert stats.reaper_restarts == 0
    for pending in witness.registered_:
        assert pending._waiters == ()
        assert pending._sending is None
    await turns(3)
    me, reaper = asyncio.current_task(), correlator._reaper._task
    assert asyncio.all_tasks() <= {me, reaper}, "a task is left"


async def sweep(
    scene: Scene, how: str, make_error: Callable[[], BaseException] | None = None
) -> list[Played]:
    """Play a scene with a strike at every point there is, then without; return the runs."""
    runs: list[Played] = []
    for at in range(ENOUGH):
        runs.append(await play(scene, how, at, make_error and make_error()))
        if not runs[-1].struck:
            return runs
    raise AssertionError(f"{scene.name} had no end after {ENOUGH} points")


# -- two things in one turn ------------------------------------------------------------------


class SendFailed(Exception):
    pass


async def on_a_future(_request_id):
    await asyncio.get_running_loop().create_future()


async def on_turns(_request_id):
    while True:
        asyncio.get_running_loop().stall(1 / 64)  # a turn takes its time
        await asyncio.sleep(0)


async def on_a_task(_request_id):
    await asyncio.create_task(asyncio.sleep(1e6))


async def and_tidies_up(_request_id):
    try:
        await asyncio.sleep(1e6)
    finally:
        await turns(2)


@asynccontextmanager
async def opened(**options):
    witness = Witness()
    async with Correlator(observers=[witness], timeout=1.0, **options) as correlator:
        await turns(2)
        yield correlator, witness
        await turns(5)
        balanced(correlator)
        assert not correlator._queue.tickets


def expire(correlator):
    """Let all deadlines pass, and do in this very step what the reaper does."""
    asyncio.get_running_loop().stall(2.0)
    correlator._expire()
    assert len(correlator) == 0


def in_order(first, one, other):
    for act in (one, other) if first else (other, one):
        act()


@contextmanager
def no_trace():
    """The task comes out as it went in: no cancellation stands that did not before."""
    task = asyncio.current_task()
    before = task.cancelling()
    yield
    assert task.cancelling() == before
    assert not task._must_cancel


async def settles(coro):
    """Await `coro`, and then go on for a while: no stray cancellation may strike (3.11)."""
    with no_trace():
        try:
            return await coro
        except asyncio.CancelledError:
            raise AssertionError("a cancellation was invented") from None
        except BaseException as error:
            return error
        finally:
            await turns(3)
