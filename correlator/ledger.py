"""Ledger: what is pending, by which door it came in, and by which it left.

Every request that is registered ends, on every path, because there is one door in and one door out:
`Ledger._register` is the only code that puts an entry into the store of pendings, `Ledger._settle`
the only code that takes one out. Whatever can end a request (a reply, an error, the reaper, a
cancelled caller, a failed send, a closed group, a shutdown) calls `_settle`, which does all there
is to do in one synchronous step.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from random import random
from typing import TYPE_CHECKING, Any, Generic

import anyio
from typing_extensions import TypeVar

from . import refusals
from .checks import MAX_SECONDS, check_bound, check_callable, check_seconds, check_share
from .context import ambient
from .errors import CapacityExceeded, CorrelationError, CorrelatorClosed
from .labels import Labels, check_label
from .memory import RememberedIds
from .observers import Observer, check_observers, notify
from .origin import Origin, caller
from .pending import Disposition, Outcome, Pending
from .reaper import Reaper
from .sending import interrupt_sending
from .store import ExpiringStore, StoreFull
from .waiting import Queue, Ticket
from .watch import Watch

if TYPE_CHECKING:
    from .group import Group

__all__ = ["NO_THREAD", "Ledger"]

K = TypeVar("K", bound=Hashable, default=str)
V = TypeVar("V", default=Any)

_get_ident = threading.get_ident
_blank: Any = object.__new__

_FINEST = 1e-6  # seconds; a clock that has run for a while knows no finer ones
NO_THREAD = 0  # `threading.get_ident` is never 0
_BATCH = 256  # pendings ended in one turn of the loop; as many callers may wake in the next
_SLICE = 0.002  # seconds the reaper works in one turn, however slow the observers are


class Ledger(Generic[K, V]):
    """The part of `Correlator` that keeps the books. See there for the arguments."""

    # The loop, and two things of it, from entering on.
    _loop: asyncio.AbstractEventLoop
    _time: Callable[[], float]
    _new_waiter: Callable[[], asyncio.Future[None]]

    def __init__(
        self,
        *,
        timeout: float,
        max_pending: int,
        max_pending_bytes: int | None,
        waits: bool,
        max_waiting: int,
        remember: float,
        max_remembered: int,
        new_id: Callable[[], K],
        observers: Iterable[Observer],
        name: str,
        resolution: float,
        track_origin: float,
        warn_after: float | None,
    ) -> None:
        check_callable("new_id", new_id)
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {name!r}")
        self.name = name
        self._timeout = check_seconds("timeout", timeout)
        self._max_pending = check_bound("max_pending", max_pending)
        if max_pending_bytes is not None:
            check_bound("max_pending_bytes", max_pending_bytes)
        self._max_pending_bytes = max_pending_bytes
        self._resolution = check_seconds("resolution", resolution)
        if resolution < _FINEST:
            raise ValueError(f"resolution must be at least {_FINEST} seconds, not {resolution!r}")
        self._new_id = new_id
        self._observers = check_observers("observers", observers)

        # What runs on behalf of all requests (timers, the reaper) runs in this context: that of
        # whoever happened to cause it would stay referenced, with everything in it.
        self._context = contextvars.Context()

        # A slot of the store is half a resolution wide: the rest is for the loop's timer.
        width = self._resolution / 2
        self._store: ExpiringStore[K, Pending[K, V]] = ExpiringStore(
            resolution=width, max_size=max_pending, max_bytes=max_pending_bytes
        )
        self._remembered: RememberedIds[K] = RememberedIds(
            seconds=check_seconds("remember", remember),
            max_size=check_bound("max_remembered", max_remembered),
            resolution=width,
        )
        self._queue: Queue[K, V] = Queue(
            self._store.fits,
            self._register_ticket,
            check_bound("max_waiting", max_waiting),
            self._context,
        )
        self._waiting = self._queue.tickets
        self._waits = waits
        self._emptied: anyio.Event | None = None

        self._registered = 0
        self._refused = 0
        self._outcomes = dict.fromkeys(Outcome, 0)
        self._dispositions = dict.fromkeys(Disposition, 0)
        self._labels = Labels()
        self._tracked = check_share("track_origin", track_origin)

        # Which thread may call the verbs, and which may register: none, before entering and after
        # closing (and while draining). So one comparison tells whether a call is in order.
        self._thread = self._intake = NO_THREAD
        self._state: refusals.State = "new"
        self._reaper = Reaper(
            name=name,
            resolution=self._resolution,
            next_due=self._store.next_due,
            expire=self._expire,
            context=self._context,
        )
        self._watch: Watch | None = None
        if warn_after is not None:
            self._watch = Watch(
                name=name,
                seconds=check_seconds("warn_after", warn_after),
                oldest=self._store.oldest,
                count=partial(len, self._store),
                context=self._context,
            )
            self._observers += (self._watch,)

    # -- the door in ---------------------------------------------------------------------------

    def _register(
        self,
        request_id: K | None,
        timeout: float | None,
        context: Any,
        size: int,
        reuse: bool,
        label: str | None,
        group: Group[K, V] | None = None,
        queued: Ticket[K, V] | None = None,
        may_wait: bool = False,
    ) -> Pending[K, V]:
        """Put an entry into the store: the only code that does.

        `queued` is the ticket of a caller from the queue, on whose behalf somebody else calls this.
        Where `may_wait`, a full store raises `StoreFull`, which is no refusal yet.
        """
        if self._intake != _get_ident():
            if self._thread == _get_ident():
                raise self._refuse(refusals.draining(self.name, request_id))
            raise self._out_of_order("register")
        # Two steps: CPython 3.11 does not specialize a method call (LOAD_METHOD) of what is an
        # attribute of the instance.
        clock = self._time
        now = clock()
        if queued is None:
            correlation_id, outer, _ = ambient.get()
            if timeout is None:
                timeout = self._timeout
            elif timeout.__class__ is not float or not 0.0 < timeout <= MAX_SECONDS:
                timeout = check_seconds("timeout", timeout)
            deadline = now + timeout
            if outer < deadline:
                deadline = outer
        else:
            correlation_id, deadline = queued.correlation_id, queued.deadline
        if size.__class__ is not int or size < 0:
            check_bound("size", size, least=0)
        if label is not None:
            check_label(label)
        if request_id is None:
            request_id = self._new_id()
            if request_id is None:
                raise TypeError("new_id must return an id, not None")
        if deadline <= now:
            raise self._refuse(refusals.too_late(request_id))
        if group is not None:
            if group.closed:
                raise self._refuse(refusals.group_shut(group, request_id))
            if group.full:
                raise self._refuse(refusals.group_full(group, request_id))
        remembered = self._remembered
        try:
            recalled = request_id in remembered.newer or request_id in remembered.older
        except TypeError:
            raise refusals.unhashable(request_id) from None
        if recalled and not reuse:
            settled_ago = remembered.settled_ago(request_id, now)
            if settled_ago is not None:
                raise self._refuse(refusals.duplicate(request_id, settled_ago))
        # Filled in here: calling a class, or a method that does it, costs more than the filling.
        pending: Pending[K, V] = _blank(Pending)
        pending._ledger = self
        pending.request_id = request_id
        pending._created_at = now
        pending.deadline = deadline
        pending.context = context
        pending.size = size
        pending._group = group
        pending.correlation_id = correlation_id
        pending.label = None
        pending._outcome = None
        pending._waiters = ()
        pending._tokens = ()
        pending._sending = None
        try:
            if self._waiting and queued is None:
                raise StoreFull  # there are others before this one
            self._store.add(request_id, pending, deadline, size)
        except KeyError:
            raise self._refuse(refusals.duplicate(request_id, None)) from None
        except StoreFull:
            if may_wait and (self._max_pending_bytes is None or size <= self._max_pending_bytes):
                raise
            raise self._refuse(self._full(request_id, size)) from None
        self._registered += 1
        try:
            if recalled:
                remembered.discard(request_id)
            if group is not None:
                group._members.add(pending)
            if label is not None:
                self._labels.registered(label)
                pending.label = label
            if self._tracked:
                origin = self._origin() if queued is None else queued.origin
                if origin is not None:
                    pending._origin = origin
            if deadline < self._reaper.alarm_at:
                self._reaper.advance()
            if self._observers:
                notify(self._observers, "registered", pending)
        except BaseException:  # the loop is closed, the stack or memory at its end, or Ctrl-C
            self._settle(pending, Outcome.CANCELLED, None)
            raise
        return pending

    async def _admit(
        self,
        request_id: K | None,
        timeout: float | None,
        context: Any,
        size: int,
        reuse: bool,
        label: str | None,
        group: Group[K, V] | None,
    ) -> Pending[K, V]:
        """Register, or wait for a place and let whoever frees it register."""
        try:
            return self._register(
                request_id, timeout, context, size, reuse, label, group, may_wait=self._waits
            )
        except StoreFull:
            if self._queue.full:
                raise self._refuse(self._full(request_id, size)) from None
        within = self._timeout if timeout is None else timeout
        deadline = min(self._time() + within, ambient.get()[1])
        # No variable for the ticket: it holds the error it may be answered with, whose traceback
        # will hold this frame.
        pending = await self._queue.wait(
            Ticket(request_id, context, size, reuse, label, group, self._origin(), deadline)
        )
        if pending is None:
            raise self._refuse(self._full(request_id, size))
        return pending

    # -- the door out --------------------------------------------------------------------------

    def _settle(self, pending: Pending[K, V], outcome: Outcome, result: Any) -> bool:
        """End `pending`, unless it has ended: the only code that takes an entry out of the store.

        `result` is the response, or the error of a rejected or closed one. Everything that has
        to happen happens here, before anybody else runs; observers come last, since whatever
        they do must find the work done, but for letting in who waits for the place.
        """
        if pending._outcome is not None:
            return False
        request_id = pending.request_id
        clock = self._time  # in two steps as in `_register`
        now = clock()
        self._store.pop(request_id)
        if pending._group is not None:
            pending._group._members.discard(pending)
        pending._outcome = outcome
        pending._result = result
        pending._ended_at = now
        self._outcomes[outcome] += 1
        # First, so that nobody hangs whatever the rest may raise (where memory is at its end).
        for waiter in pending._waiters:
            if not waiter.done():
                waiter.set_result(None)
        pending._waiters = ()
        try:
            if pending._sending is not None:
                interrupt_sending(pending, self._loop, self._context)
            self._remembered.remember(request_id, outcome, now)
            if pending.label is not None:
                self._labels.settled(pending.label, outcome)
            if self._observers:
                notify(self._observers, "settled", pending)
        finally:  # also when Ctrl-C strikes in an observer
            if self._waiting:
                self._queue.admit()
            if self._emptied is not None and not self._store:
                self._emptied.set()
                self._emptied = None
        return True

    # -- what the two are made of --------------------------------------------------------------

    def _register_ticket(self, ticket: Ticket[K, V]) -> Pending[K, V]:
        return ticket.caller.run(
            self._register,
            ticket.request_id,
            None,
            ticket.context,
            ticket.size,
            ticket.reuse,
            ticket.label,
            ticket.group,
            ticket,
        )

    def _origin(self) -> Origin | None:
        """Return where the code is that called, for as large a share of calls as asked."""
        return caller() if random() < self._tracked else None  # noqa: S311  # a sample, no secret

    def _unmatched(self, request_id: K) -> Disposition:
        disposition = self._remembered.disposition(request_id, self._time())
        self._dispositions[disposition] += 1
        if self._observers:
            notify(self._observers, "unmatched", request_id, disposition)
        return disposition

    def _expire(self) -> None:
        """End some of what is due: as much as fits a short turn of the loop."""
        batch = self._store.due(self._time(), _BATCH)
        until = time.monotonic() + _SLICE  # real time, whatever clock the loop goes by
        while batch and time.monotonic() < until:
            self._settle(batch.pop(), Outcome.TIMED_OUT, None)

    # -- refusals ------------------------------------------------------------------------------

    def _refuse(self, error: CorrelationError) -> CorrelationError:
        self._refused += 1
        if self._observers:
            notify(self._observers, "refused", error)
        return error

    def _check_thread(self, verb: str) -> None:
        if self._thread != _get_ident():
            raise self._out_of_order(verb)

    def _out_of_order(self, verb: str) -> CorrelatorClosed | RuntimeError:
        return refusals.out_of_order(self.name, self._state, verb)

    def _closed(self, of: Pending[K, V] | Ticket[K, V]) -> CorrelatorClosed:
        return refusals.closed(self.name, self._state, of)

    def _send_away(self, ticket: Ticket[K, V]) -> CorrelationError:
        return ticket.caller.run(self._refuse, self._closed(ticket))

    def _full(self, request_id: K | None, size: int) -> CapacityExceeded:
        return refusals.full(
            self.name,
            self._max_pending,
            self._max_pending_bytes,
            request_id,
            size,
            self._next_due_in(),
            waiting=len(self._waiting),
        )

    def _next_due_in(self) -> float | None:
        """Seconds until the pending that is due first ends, if it gets no reply before."""
        due = self._store.next_due()
        return None if due is None else max(0.0, due - self._time())
