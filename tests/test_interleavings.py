"""Two requests, and everything that may happen to them, in every order: the first event wins."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import product

import pytest

from correlator import (
    CorrelationError,
    Correlator,
    CorrelatorClosed,
    Disposition,
    Outcome,
    Pending,
    RequestRejected,
    RequestTimeout,
)

from .clock import run_virtual, turns
from .sweep import Witness

REPLY, REJECT, CANCEL, LEAVE = "reply", "reject", "cancel the task", "cancel the pending"
TIMEOUT, GROUP, CLOSE = "timeout", "close the group", "close"
OWN = (REPLY, REJECT, CANCEL, LEAVE)  # what happens to one request
BOTH = (TIMEOUT, GROUP, CLOSE)  # what happens to all
EVENTS = [*product(OWN, "ab"), *((event, None) for event in BOTH)]
QUIET = 8  # turns after which nothing is under way any more


def interleavings(length, gaps):
    """Every order of so many events, with a pause of so many turns as in `gaps` between them.

    Of two that differ only in which request is called "a", one is enough.
    """
    for events in product(EVENTS, repeat=length):
        named = [name for _, name in events if name]
        if named and named[0] == "b":
            continue
        for pauses in product(gaps, repeat=length - 1):
            yield events, (*pauses, QUIET)


@dataclass
class Request:
    """One of the two, and what the model says of it: the first event decides.

    Attributes:
        outcome: how the model says that it ended.
        cancelled: whether its task was cancelled while it ran.
        coming: how it may end in one of the next turns, by something already under way.
    """

    name: str
    task: asyncio.Task
    pending: Pending
    outcome: Outcome | None = None
    cancelled: bool = False
    coming: set[Outcome] = field(default_factory=set)

    def look(self):
        """Take in what happened between two events: an expiry, a task that ran, a close."""
        now = self.pending.outcome
        if self.outcome is None and now is not None:
            assert now in self.coming, f"{self.name} was {now} by nobody"
            self.outcome = now
        assert now is self.outcome

    def end(self, outcome):
        """An event has happened that ends it, unless it has ended."""
        if self.outcome is None:
            self.outcome = outcome
        assert self.pending.outcome is self.outcome


class Play:
    """Two requests in one group, and the events done to them one by one."""

    def __init__(self, correlator, witness, *, sending):
        self.correlator, self.witness, self.sending = correlator, witness, sending
        self.group = correlator.group("both")
        self.closing = None

    async def start(self):
        async def hangs(_request_id):
            await asyncio.get_running_loop().create_future()

        send = hangs if self.sending else None
        tasks = [asyncio.create_task(self.group.correlate(name, send=send)) for name in "ab"]
        await turns(1)
        self.requests = {
            pending.request_id: Request(pending.request_id, task, pending)
            for pending, task in zip(self.witness.registered_, tasks, strict=True)
        }

    def happen(self, event, name):
        for each in self.requests.values():
            each.look()
        request = self.requests.get(name)
        if event in (REPLY, REJECT):
            self.answer(request, event)
        elif event == CANCEL:
            if request.task.cancel():
                request.cancelled = True
                request.coming.add(Outcome.CANCELLED)
        elif event == LEAVE:
            assert request.pending.cancel() is (request.outcome is None)
            request.end(Outcome.CANCELLED)
        elif event == TIMEOUT:
            asyncio.get_running_loop().stall(2.0)
            self.ends_soon(Outcome.TIMED_OUT)
        elif event == GROUP:
            assert self.group.close() == [it.outcome for it in self.requests.values()].count(None)
            for each in self.requests.values():
                each.end(Outcome.CLOSED)
        else:
            self.closing = asyncio.create_task(self.correlator.aclose())
            self.ends_soon(Outcome.CLOSED)

    def ends_soon(self, outcome):
        """In the next turns both end so, unless something else is faster."""
        for each in self.requests.values():
            each.coming.add(outcome)

    def answer(self, request, event):
        known = request.outcome
        try:
            if event == REPLY:
                said = self.correlator.resolve(request.name, f"reply to {request.name}")
            else:
                said = self.correlator.reject(request.name, RequestRejected(request.name))
        except CorrelatorClosed:
            assert self.closing is not None
            assert known is not None
            return
        request.end(Outcome.RESOLVED if event == REPLY else Outcome.REJECTED)
        if known is None:
            assert said is Disposition.MATCHED
        elif known in (Outcome.RESOLVED, Outcome.REJECTED):
            assert said is Disposition.DUPLICATE
        else:
            assert said is Disposition.LATE

    async def check(self):
        """Each caller saw what ended his request, or his own cancellation, and nothing else."""
        for each in self.requests.values():
            each.look()
            assert each.outcome is not None or not each.coming, "what was coming never came"
            if each.outcome is None:
                assert each.name in self.correlator
                self.answer(each, REPLY)
        asyncio.get_running_loop().stall(2.0)  # a send that hangs after its reply is interrupted
        await turns(QUIET)
        for each in self.requests.values():
            assert each.task.done()
            assert each.task.cancelled() is each.cancelled
            if not each.cancelled:
                check_end(each)
        assert len(self.correlator) == len(self.group) == 0
        stats = self.correlator.stats()
        ended = [each.outcome for each in self.requests.values()]
        for outcome in Outcome:
            assert getattr(stats, outcome.value) == ended.count(outcome)
        assert stats.registered == len(self.witness.settled_) == 2


def check_end(request):
    """The caller of an ended request was told the truth about it."""
    error = request.task.exception()
    match request.outcome:
        case Outcome.RESOLVED:
            assert error is None
            assert request.task.result() == f"reply to {request.name}"
        case Outcome.REJECTED:
            assert type(error) is RequestRejected
            assert str(error) == request.name
        case Outcome.TIMED_OUT:
            assert type(error) is RequestTimeout
        case Outcome.CLOSED:
            assert type(error) is CorrelatorClosed
        case Outcome.CANCELLED:
            assert type(error) is CorrelationError


async def run(events, pauses, *, sending):
    """Let the events happen, each followed by a pause, and check the end."""
    witness = Witness()
    async with Correlator(timeout=1.0, resolution=0.02, observers=[witness]) as correlator:
        play = Play(correlator, witness, sending=sending)
        await play.start()
        for (event, name), pause in zip(events, pauses, strict=True):
            play.happen(event, name)
            await turns(pause)
        await play.check()


async def run_all(length, gaps, *, sending):
    count = 0
    for events, pauses in interleavings(length, gaps):
        try:
            await run(events, pauses, sending=sending)
        except BaseException as error:
            error.add_note(f"the events: {events}, with pauses {pauses}, sending={sending}")
            raise
        count += 1
    return count


@pytest.mark.parametrize("sending", [False, True], ids=["waiting", "sending"])
@pytest.mark.parametrize(
    ("length", "gaps"), [(1, (0,)), (2, (0, 1, 2, 3, QUIET)), (3, (0, 1, QUIET)), (4, (0, 1))]
)
def test_the_first_event_wins_in_every_order(length, gaps, sending):
    """Whatever happens to two requests, in whatever order and turn, the first event decides."""
    orders = (len(EVENTS) ** length + len(BOTH) ** length) // 2
    assert run_virtual(run_all(length, gaps, sending=sending)) == orders * len(gaps) ** (length - 1)


class Odd(Exception):
    """An error that cannot be made from its `args`."""

    def __new__(cls, *, code):
        return super().__new__(cls)

    def __init__(self, *, code):
        super().__init__("odd")
        self.code = code


def test_an_error_that_cannot_be_copied_reaches_everybody_all_the_same():
    """Whatever the class of an error given to reject or close, it ends all and reaches all."""

    async def main():
        async with Correlator() as correlator:
            group = correlator.group("both")
            tasks = [asyncio.create_task(group.correlate(name)) for name in "abc"]
            await turns(1)
            correlator.reject("a", Odd(code=1))
            assert group.close(Odd(code=2)) == 2
            assert len(group) == len(correlator) == 0
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert [(type(it), it.code) for it in ended] == [(Odd, 1), (Odd, 2), (Odd, 2)]

    run_virtual(main())


@pytest.mark.parametrize("when_full", ["reject", "wait"])
@pytest.mark.parametrize("sending", [False, True], ids=["waiting", "sending"])
@pytest.mark.parametrize("grouped", [False, True], ids=["alone", "grouped"])
def test_whoever_else_awaits_a_request_is_woken_too(when_full, sending, grouped):
    """A task that an observer starts for a request, and that awaits it, gets the reply as well."""

    async def main():
        watching = []

        class Watcher(Witness):
            def registered(self, pending):
                super().registered(pending)
                watching.append(asyncio.create_task(watch(pending)))

        async def watch(pending):
            return await pending

        async def send(_request_id):
            await turns(3)

        correlator = Correlator(when_full=when_full, max_pending=1, observers=[Watcher()])
        async with correlator:
            correlator.register("first")
            if when_full == "reject":
                correlator.resolve("first", None)
            door = correlator.group("g") if grouped else correlator
            task = asyncio.create_task(door.correlate("a", send=send if sending else None))
            await turns(2)
            correlator.resolve("first", None)
            await turns(9)
            correlator.resolve("a", "reply")
            await turns(9)
            assert task.result() == "reply"
            assert [watcher.result() for watcher in watching] == [None, "reply"]

    run_virtual(main())
