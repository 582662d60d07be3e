"""A correlator beside a plain dict: whatever is done to both, they agree after every step."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from correlator import (
    CapacityExceeded,
    CorrelationError,
    Correlator,
    CorrelatorClosed,
    Disposition,
    DuplicateRequest,
    Outcome,
    RequestRejected,
    RequestTimeout,
)

from .clock import VirtualLoop, turns

RESOLUTION = 0.25
REMEMBER = 2.0
MAX_PENDING = 5
MAX_BYTES = 100
GROUP_LIMIT = 3
FEW_TURNS = 6

IDS = st.sampled_from("abcdefgh")
TIMEOUTS = st.sampled_from([0.1, 0.5, 1.0, 1.7, 3.0, 60.0])
SIZES = st.sampled_from([0, 0, 0, 1, 40, 70, 101])
GROUPS = st.sampled_from([None, None, None, "g", "h"])
ANSWERED = (Outcome.RESOLVED, Outcome.REJECTED)
SENDS = st.sampled_from([None, None, "at once", "slow", "fails", "answers itself"])


class SendFailed(Exception):
    pass


@dataclass
class Entry:
    """One request, as the model knows it."""

    request_id: str
    at: float
    deadline: float
    size: int
    group: str | None
    pending: object = None
    task: asyncio.Task | None = None
    gate: asyncio.Future | None = None  # what its send waits for
    outcome: Outcome | None = None
    value: object = None
    cancelled: bool = False  # its caller, by `task.cancel()`
    send_failed: bool = False


@dataclass
class Model:
    """What a correlator should be: a dict of what is pending, and counters."""

    pending: dict[str, Entry] = field(default_factory=dict)
    remembered: dict[str, tuple[Outcome, float]] = field(default_factory=dict)
    ended: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    said: dict[Disposition, int] = field(default_factory=lambda: dict.fromkeys(Disposition, 0))
    closed_groups: set[str] = field(default_factory=set)
    registered: int = 0
    refused: int = 0
    draining: bool = False

    def settle(self, entry, outcome, now, value=None):
        del self.pending[entry.request_id]
        entry.outcome, entry.value = outcome, value
        self.ended[outcome] += 1
        self.remembered[entry.request_id] = outcome, now

    def size(self):
        return sum(entry.size for entry in self.pending.values())

    def in_group(self, name):
        return [entry for entry in self.pending.values() if entry.group == name]

    def knows(self, request_id, now):
        """Whether an id is remembered: True, False, or None where it may be either."""
        if request_id not in self.remembered:
            return False
        since = now - self.remembered[request_id][1]
        if since < REMEMBER:
            return True
        return None if since <= REMEMBER + RESOLUTION else False


class Machine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.loop = VirtualLoop()
        self.reports = []
        self.loop.set_exception_handler(lambda _loop, context: self.reports.append(context))

    @initialize()
    def open(self):
        self.model = Model()
        self.seen = []  # what the observer was told
        self.tasks = []
        self.correlator = Correlator(
            timeout=30.0,
            max_pending=MAX_PENDING,
            max_pending_bytes=MAX_BYTES,
            remember=REMEMBER,
            resolution=RESOLUTION,
            new_id=map("made-{}".format, count()).__next__,  # the same in every run
            observers=[self],
        )
        self.run(self.correlator.__aenter__())
        self.groups = {
            "g": self.correlator.group("g", max_pending=GROUP_LIMIT),
            "h": self.correlator.group("h"),
        }
        self.run(turns(2))

    def run(self, coro):
        return self.loop.run_until_complete(coro)

    # -- the observer ----------------------------------------------------------------------------

    def registered(self, pending):
        self.newest = pending
        self.seen.append("registered")

    def settled(self, pending):
        self.seen.append(str(pending.outcome))

    def unmatched(self, request_id, disposition):
        self.seen.append(str(disposition))

    def refused(self, error):
        self.seen.append("refused")

    # -- requests --------------------------------------------------------------------------------

    def refusal(self, request_id, size, group, reuse):
        """Return which errors the model allows; None among them means that it is let in."""
        model = self.model
        if model.draining or group in model.closed_groups:
            return {CorrelatorClosed}
        if group == "g" and len(model.in_group("g")) >= GROUP_LIMIT:
            return {CapacityExceeded}
        remembered = False if reuse else model.knows(request_id, self.loop.time())
        if remembered:
            return {DuplicateRequest}
        if request_id in model.pending:
            otherwise = DuplicateRequest
        elif len(model.pending) >= MAX_PENDING or (size and model.size() + size > MAX_BYTES):
            otherwise = CapacityExceeded
        else:
            otherwise = None
        return {otherwise} if remembered is False else {otherwise, DuplicateRequest}

    def entered(self, request_id, timeout, size, group, **more):
        now = self.loop.time()
        entry = Entry(request_id or self.newest.request_id, now, now + timeout, size, group, **more)
        entry.pending = self.newest
        self.model.registered += 1
        self.model.remembered.pop(entry.request_id, None)
        self.model.pending[entry.request_id] = entry
        return entry

    @rule(
        request_id=st.none() | IDS, timeout=TIMEOUTS, size=SIZES, group=GROUPS, reuse=st.booleans()
    )
    def register(self, request_id, timeout, size, group, reuse):
        allowed = self.refusal(request_id, size, group, reuse)
        door = self.groups[group] if group else self.correlator

        async def call():
            return door.register(request_id, timeout=timeout, size=size, reuse=reuse)

        before = self.correlator.stats().registered
        with suppress(*filter(None, allowed)):
            self.run(call())
        if self.correlator.stats().registered > before:
            assert None in allowed
            self.entered(request_id, timeout, size, group)
        else:
            assert allowed != {None}
            self.model.refused += 1

    @rule(
        request_id=st.none() | IDS, timeout=TIMEOUTS, size=SIZES, group=GROUPS,
        reuse=st.booleans(), how=SENDS,
    )  # fmt: skip
    def correlate(self, request_id, timeout, size, group, reuse, how):
        allowed = self.refusal(request_id, size, group, reuse)
        door = self.groups[group] if group else self.correlator
        gate = self.loop.create_future()

        async def send(its_id):
            if how == "slow":
                await gate
            elif how == "fails":
                raise SendFailed
            elif how == "answers itself":
                assert self.correlator.resolve(its_id, ("itself", its_id)) is Disposition.MATCHED

        call = door.correlate(
            request_id, send=how and send, timeout=timeout, size=size, reuse=reuse
        )
        before = self.correlator.stats().registered
        task = self.loop.create_task(call)
        self.run(turns(FEW_TURNS))
        if self.correlator.stats().registered == before:
            assert task.done(), "a request that is not let in is refused at once"
            assert type(task.exception()) in allowed
            self.model.refused += 1
            return
        assert None in allowed
        entry = self.entered(request_id, timeout, size, group, task=task)
        self.tasks.append(entry)
        if how == "slow":
            entry.gate = gate
        elif how == "fails":
            entry.send_failed = True
            self.model.settle(entry, Outcome.CANCELLED, self.loop.time())
        elif how == "answers itself":
            value = ("itself", entry.request_id)
            self.model.settle(entry, Outcome.RESOLVED, self.loop.time(), value)

    @rule(data=st.data(), fails=st.booleans())
    @precondition(lambda self: any(it.gate and not it.gate.done() for it in self.tasks))
    def a_slow_send_ends(self, data, fails):
        entry = data.draw(st.sampled_from([e for e in self.tasks if e.gate and not e.gate.done()]))
        if fails:
            entry.gate.set_exception(SendFailed())
            if entry.outcome is None:
                entry.send_failed = True
                self.model.settle(entry, Outcome.CANCELLED, self.loop.time())
        else:
            entry.gate.set_result(None)
        self.run(turns(FEW_TURNS))
        if fails:
            entry.gate.exception()

    # -- what ends them --------------------------------------------------------------------------

    @rule(request_id=IDS, value=st.integers(), fails=st.booleans())
    def reply(self, request_id, value, fails):
        model, now = self.model, self.loop.time()

        async def call():
            if fails:
                return self.correlator.reject(request_id, RequestRejected(str(value)))
            return self.correlator.resolve(request_id, value)

        said = self.run(call())
        model.said[said] += 1
        if request_id in model.pending:
            assert said is Disposition.MATCHED
            outcome = Outcome.REJECTED if fails else Outcome.RESOLVED
            model.settle(model.pending[request_id], outcome, now, value)
        else:
            remembered = model.knows(request_id, now)
            allowed = {Disposition.UNKNOWN} if not remembered else set()
            if remembered is not False:
                answered = model.remembered[request_id][0] in ANSWERED
                allowed.add(Disposition.DUPLICATE if answered else Disposition.LATE)
            assert said in allowed
        self.run(turns(FEW_TURNS))

    @rule(data=st.data())
    @precondition(lambda self: self.model.pending)
    def cancel(self, data):
        entry = data.draw(st.sampled_from(list(self.model.pending.values())))
        leaves = data.draw(st.booleans())

        async def call():
            if entry.task is not None and leaves:
                entry.cancelled = entry.task.cancel()
                assert entry.cancelled
            else:
                assert entry.pending.cancel()
            await turns(FEW_TURNS)

        now = self.loop.time()
        self.run(call())
        self.model.settle(entry, Outcome.CANCELLED, now)

    @rule(name=st.sampled_from("gh"))
    @precondition(lambda self: self.model.registered > 10)
    def close_group(self, name):
        members = self.model.in_group(name)

        async def call():
            return self.groups[name].close()

        assert self.run(call()) == len(members)
        for entry in members:
            self.model.settle(entry, Outcome.CLOSED, self.loop.time())
        self.model.closed_groups.add(name)
        self.run(turns(FEW_TURNS))

    @rule(name=st.sampled_from("gh"))
    @precondition(lambda self: self.model.closed_groups)
    def new_group(self, name):
        """A closed group's name may be used for a new one."""
        if name in self.model.closed_groups:
            self.model.closed_groups.remove(name)
            limit = GROUP_LIMIT if name == "g" else None
            self.groups[name] = self.correlator.group(name, max_pending=limit)

    @rule(seconds=st.sampled_from([0.05, 0.1, 0.125, 0.25, 0.5, 1.0, 2.0, 5.0, 40.0]))
    def time_passes(self, seconds):
        before = self.loop.time()
        self.run(asyncio.sleep(seconds))
        self.run(turns(FEW_TURNS))
        self.take_in_expiries(before)

    def take_in_expiries(self, before):
        """What is due must have ended, what is not must not; in between it may be either."""
        now = self.loop.time()
        for entry in list(self.model.pending.values()):
            if entry.pending.outcome is not None:
                assert entry.pending.outcome is Outcome.TIMED_OUT
                # Asked at the end: `age` is how long it was pending.
                ended_at = entry.at + entry.pending.age
                assert entry.deadline - 1e-6 <= ended_at <= entry.deadline + RESOLUTION
                assert before <= ended_at + 1e-6
                self.model.settle(entry, Outcome.TIMED_OUT, ended_at)
            else:
                assert now <= entry.deadline + RESOLUTION, "late"

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0]))
    @precondition(lambda self: self.model.registered > 20)
    def drain(self, seconds):
        self.model.draining = True
        before = self.loop.time()
        emptied = self.run(self.correlator.drain(seconds))
        assert emptied is (len(self.correlator) == 0)
        assert emptied or self.loop.time() >= before + seconds - 1e-6
        self.run(turns(FEW_TURNS))
        self.take_in_expiries(before)

    @rule()
    @precondition(lambda self: self.model.draining)
    def close_and_open_anew(self):
        self.close()
        self.open()

    def close(self):
        self.run(self.correlator.aclose())
        for entry in list(self.model.pending.values()):
            self.model.settle(entry, Outcome.CLOSED, self.loop.time())
        self.run(turns(FEW_TURNS))
        self.check_counters()
        self.check_callers()
        self.run(asyncio.sleep(100.0))  # slow sends of answered requests end with the deadline
        assert all(entry.task.done() for entry in self.tasks)
        self.check_callers()

    # -- what must be so after every step --------------------------------------------------------

    @invariant()
    def check_counters(self):
        model, correlator, now = self.model, self.correlator, self.loop.time()
        stats = correlator.stats()
        for outcome in Outcome:
            assert getattr(stats, outcome.value) == model.ended[outcome]
        assert stats.registered == model.registered == sum(model.ended.values()) + stats.pending
        assert stats.pending == len(correlator) == len(model.pending)
        assert stats.pending_bytes == model.size() <= MAX_BYTES
        assert stats.refused == model.refused
        assert stats.late == model.said[Disposition.LATE]
        assert stats.duplicate == model.said[Disposition.DUPLICATE]
        assert stats.unknown == model.said[Disposition.UNKNOWN]
        assert stats.waiting == stats.reaper_restarts == 0
        assert (
            abs(stats.oldest_age - max((now - e.at for e in model.pending.values()), default=0))
            < 1e-6
        )
        if correlator._thread:
            known = [model.knows(name, now) for name in model.remembered]
            assert known.count(True) <= stats.remembered <= len(known) - known.count(False)
        for event in ("registered", "refused", *Outcome, *list(Disposition)[1:]):
            assert self.seen.count(str(event)) == getattr(stats, str(event))

    @invariant()
    def check_pending(self):
        infos, now = self.correlator.pending(), self.loop.time()
        entries = list(self.model.pending.values())  # as they came in
        assert [(i.request_id, i.size, i.group) for i in infos] == [
            (e.request_id, e.size, e.group) for e in entries
        ]
        for info, entry in zip(infos, entries, strict=True):
            assert abs(info.age - (now - entry.at)) < 1e-6
            assert abs(info.remaining - max(0.0, entry.deadline - now)) < 1e-6
            assert entry.pending.outcome is None
        for name in "abcdefgh":
            assert (name in self.correlator) is (name in self.model.pending)
        for name, group in self.groups.items():
            assert len(group) == len(self.model.in_group(name))
        assert self.correlator.pending(2) == infos[:2]

    @invariant()
    def check_callers(self):
        for entry in self.tasks:
            if entry.outcome is None:
                assert not entry.task.done()
            elif entry.task.done():
                check_end(entry)
            else:
                # Answered while it still sends: it may, until its deadline.
                assert entry.outcome is Outcome.RESOLVED
                assert not entry.gate.done()
                assert self.loop.time() <= entry.deadline + 1e-6
        self.tasks = [entry for entry in self.tasks if not entry.task.done()]

    def teardown(self):
        if hasattr(self, "correlator"):
            self.close()
            assert asyncio.all_tasks(self.loop) == set()
        self.loop.close()
        assert self.reports == []


def check_end(entry):
    """The caller got the response of his own request, or was told how it ended."""
    assert entry.task.cancelled() is entry.cancelled
    if entry.cancelled:
        return
    error = entry.task.exception()
    if entry.outcome is Outcome.RESOLVED:
        assert entry.task.result() == entry.value
    elif entry.outcome is Outcome.REJECTED:
        assert type(error) is RequestRejected
        assert str(error) == str(entry.value)
    elif entry.outcome is Outcome.TIMED_OUT:
        assert type(error) is RequestTimeout
        assert error.request_id == entry.request_id
    elif entry.outcome is Outcome.CLOSED:
        assert type(error) is CorrelatorClosed
    else:
        assert type(error) is (SendFailed if entry.send_failed else CorrelationError)


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=500,
    stateful_step_count=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
