"""Correlator: register, correlate, resolve, reject, drain.

The interface. How an entry comes in and goes out is in `ledger`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Hashable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

import anyio
from typing_extensions import TypeVar

from .checks import check_bound, check_callable, check_error, check_seconds
from .errors import CorrelatorClosed, shown
from .group import Group
from .ids import new_request_id
from .ledger import NO_THREAD
from .observers import Observer
from .overview import Overview
from .pending import Disposition, Outcome, Pending
from .refusals import loop_closed, unhashable
from .sending import send_request
from .threads import Mailbox

__all__ = ["Correlator"]

K = TypeVar("K", bound=Hashable, default=str)
V = TypeVar("V", default=Any)

_get_ident = threading.get_ident

# Looked up once: an attribute of an enum costs more than a global.
_MATCHED = Disposition.MATCHED
_RESOLVED = Outcome.RESOLVED


class Correlator(Overview[K, V]):
    """Pairs each request with the response that comes later, and ends those that get none.

    Use it as an async context manager. It belongs to the event loop it was entered on, and to
    that loop's thread; other threads use `resolve_threadsafe` and `reject_threadsafe`.

    Args:
        timeout: seconds a request may take if it does not say otherwise; above 0, at most 1e9.
        max_pending: how many may be pending at once.
        max_pending_bytes: the sum of the `size` of those at most; None for no bound.
        when_full: what `correlate` does at a bound: ``"reject"`` raises `CapacityExceeded`,
            ``"wait"`` waits for a place, first come, first served, within the request's timeout.
        max_waiting: how many may wait so at once.
        remember: seconds an id is remembered after its request ended, to tell late and duplicate
            replies from unknown ones, and to refuse the id to another request.
        max_remembered: how many are remembered at most; when there are so many, the older half
            goes (of up to 128, the oldest).
        new_id: makes the id of a request that comes without one.
        observers: told of every request; see `Observer`.
        name: names this correlator in logs and errors.
        resolution: seconds by which a deadline may be late, beside the loop's own lag.
        track_origin: whether each pending remembers the line of code that registered it: a bool, or
            the share of them that do, from 0.0 to 1.0.
        warn_after: seconds; when the oldest pending is older, a warning in the log names it, and
            again after as long. Set it below `timeout`: at or above it, only requests with a longer
            timeout of their own can get so old. None for no such warning.

    Raises:
        TypeError: an argument is of the wrong type. The message names it and its value.
        ValueError: an argument is out of range. The message names it and its value.
    """

    def __init__(
        self,
        *,
        timeout: float = 30.0,
        max_pending: int = 10_000,
        max_pending_bytes: int | None = None,
        when_full: Literal["reject", "wait"] = "reject",
        max_waiting: int = 1_000,
        remember: float = 60.0,
        max_remembered: int = 100_000,
        new_id: Callable[[], K] = new_request_id,  # type: ignore[assignment]  # K is str by default
        observers: Iterable[Observer] = (),
        name: str = "default",
        resolution: float = 0.05,
        track_origin: bool | float = False,
        warn_after: float | None = None,
    ) -> None:
        if when_full not in ("reject", "wait"):
            raise ValueError(f'when_full must be "reject" or "wait", not {when_full!r}')
        super().__init__(
            timeout=timeout,
            max_pending=max_pending,
            max_pending_bytes=max_pending_bytes,
            waits=when_full == "wait",
            max_waiting=max_waiting,
            remember=remember,
            max_remembered=max_remembered,
            new_id=new_id,
            observers=observers,
            name=name,
            resolution=resolution,
            track_origin=track_origin,
            warn_after=warn_after,
        )
        self._groups: weakref.WeakValueDictionary[str, Group[K, V]] = weakref.WeakValueDictionary()
        self._mailbox = Mailbox(self._context)
        for observer in self._observers:
            self._tell(observer, "attached")

    # -- life ----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise CorrelatorClosed(
                f"correlator {self.name!r} was entered or closed before: it is used once, "
                f"make a new one"
            )
        self._loop = asyncio.get_running_loop()
        # `time` of asyncio's loops only calls `time.monotonic`: a call less, twice a request.
        is_asyncios = getattr(self._loop.time, "__func__", None) is asyncio.BaseEventLoop.time
        self._time = time.monotonic if is_asyncios else self._loop.time
        self._new_waiter = self._loop.create_future
        self._reaper.start(self._loop, self._time)
        if self._watch is not None:
            self._watch.start(self._loop)
        self._thread = self._intake = _get_ident()
        self._mailbox.open(self._loop)
        self._state = "open"
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def drain(self, timeout: float) -> bool:
        """Refuse new requests, still take replies, and return when none is pending any more.

        Args:
            timeout: seconds to wait at most. What is pending then stays so until `aclose`.

        Returns:
            Whether it is empty.

        Raises:
            CorrelatorClosed: it was not entered, or is closed.
        """
        check_seconds("timeout", timeout)
        self._check_thread("drain")
        self._state = "draining"
        self._intake = NO_THREAD
        self._queue.dismiss(self._send_away)
        with anyio.move_on_after(timeout):
            while self._store:
                emptied = self._emptied = self._emptied or anyio.Event()
                await emptied.wait()
        return not self._store

    async def aclose(self) -> None:
        """End everything pending, at once, and stop. Closing twice does no harm.

        Callers get `CorrelatorClosed`. They do before this method first waits, so also when it
        is itself cancelled.

        Raises:
            RuntimeError: called from another thread than the loop's; nothing was closed.
        """
        if self._state in ("open", "draining"):
            self._check_thread("aclose")
            self._state = "closed"
            self._thread = self._intake = NO_THREAD
            self._mailbox.close()
            self._reaper.stop()
            if self._watch is not None:
                self._watch.stop()
        if self._state == "closed":
            # All of them whatever happens, also when Ctrl-C strikes in an observer.
            with contextlib.ExitStack() as everybody:  # what is put in last goes first
                everybody.callback(self._remembered.clear)
                for pending in reversed(list(self._store.values())):
                    end = self._closed(pending)
                    everybody.callback(self._settle, pending, Outcome.CLOSED, end)
                everybody.callback(self._queue.dismiss, self._send_away)
        self._state = "closed"
        await self._reaper.wait_stopped()
        await asyncio.sleep(0)  # what other threads posted before the close gets its answer

    # -- the door in ---------------------------------------------------------------------------

    def register(
        self,
        request_id: K | None = None,
        *,
        timeout: float | None = None,
        context: Any = None,
        size: int = 0,
        reuse: bool = False,
        label: str | None = None,
    ) -> Pending[K, V]:
        """Register a request, before it is sent, so that no reply can come too early.

        Args:
            request_id: the id that pairs request and response; by default a fresh one.
            timeout: seconds until it ends with `RequestTimeout`; by default the correlator's. An
                ambient deadline (`request_scope`, or the pending at hand) can only shorten it.
            context: the request itself, or what you like: it comes back as `Pending.context`.
            size: bytes it counts against `max_pending_bytes`.
            reuse: whether an id may be used again that is still remembered.
            label: what to count it under in `stats_by_label`: an upstream's name or a route, of
                which there are few; never an id.

        Raises:
            DuplicateRequest: the id is pending, or remembered and `reuse` was not given.
            CapacityExceeded: a bound is reached.
            CorrelatorClosed: it was not entered, is draining, or is closed.
            RequestTimeout: the ambient deadline has passed already.
            RuntimeError: called from another thread than the loop's.
            TypeError, ValueError: an argument is no good; the message names it and its value.
        """
        return self._register(request_id, timeout, context, size, reuse, label)

    # -- the awaitable call --------------------------------------------------------------------

    async def correlate(
        self,
        request_id: K | None = None,
        *,
        send: Callable[[K], Awaitable[object]] | None = None,
        timeout: float | None = None,
        context: Any = None,
        size: int = 0,
        reuse: bool = False,
        label: str | None = None,
    ) -> V:
        """Register a request, send it, and return its response. It is removed on every path.

        Args:
            request_id: the id that pairs request and response; by default a fresh one.
            send: awaited with the id, after registering. It is interrupted at the deadline, and
                when the request ends in another way than by a response. None if someone else
                sends.
            timeout: seconds for all of it: waiting for a place, sending, waiting.
            context: the request itself, or what you like: it comes back as `Pending.context`.
            size: bytes it counts against `max_pending_bytes`.
            reuse: whether an id may be used again that is still remembered.
            label: what to count it under in `stats_by_label`: an upstream's name or a route, of
                which there are few; never an id.

        Raises:
            RequestTimeout: no response came in time.
            CapacityExceeded: a bound is reached (or, waiting, none was free in time); nothing
                was sent.
            DuplicateRequest, CorrelatorClosed, RuntimeError, TypeError, ValueError: as `register`.
            Exception: what `reject` was given, or what `send` raised.
        """
        if send is not None:
            check_callable("send", send)
        if self._waits:
            pending = await self._admit(request_id, timeout, context, size, reuse, label, None)
        else:
            pending = self._register(request_id, timeout, context, size, reuse, label)
        if send is not None:
            await send_request(pending, send)
        # `return await pending`, written out: a generator less on the path of every request.
        if pending._outcome is None:
            new_waiter = self._new_waiter  # see `Ledger._register`
            waiter = new_waiter()
            pending._waiters += (waiter,)
            try:
                await waiter
            except BaseException:
                pending._abandon(waiter)
                raise
        if pending._outcome is _RESOLVED:
            return pending._result  # type: ignore[no-any-return]  # a V, by `resolve`
        return pending._response()

    # -- replies -------------------------------------------------------------------------------

    def resolve(self, request_id: K, response: V) -> Disposition:
        """Give a request its response, and tell what became of it. Never waits.

        Raises:
            RuntimeError: called from another thread than the loop's: use `resolve_threadsafe`.
            CorrelatorClosed: it was not entered, or is closed.
            TypeError: `request_id` is not hashable.
        """
        if self._thread != _get_ident():
            raise self._out_of_order("resolve")
        try:
            pending = self._store.get(request_id)
        except TypeError:
            raise unhashable(request_id) from None
        if pending is None:
            return self._unmatched(request_id)
        self._settle(pending, _RESOLVED, response)
        return _MATCHED

    def reject(self, request_id: K, error: Exception) -> Disposition:
        """End a request with an error, which its caller gets, and tell what became of it.

        Raises:
            TypeError: `error` is not an instance of `Exception`, or `request_id` not hashable.
            RuntimeError: called from another thread than the loop's: use `reject_threadsafe`.
            CorrelatorClosed: it was not entered, or is closed.
        """
        if self._thread != _get_ident():
            raise self._out_of_order("reject")
        check_error("error", error)
        try:
            pending = self._store.get(request_id)
        except TypeError:
            raise unhashable(request_id) from None
        if pending is None:
            return self._unmatched(request_id)
        self._settle(pending, Outcome.REJECTED, error)
        return _MATCHED

    def resolve_threadsafe(
        self, request_id: K, response: V
    ) -> concurrent.futures.Future[Disposition]:
        """Do `resolve` from any thread. The future tells what became of the response.

        Do not wait for the future on the loop's own thread: it is done in the loop's next turn.

        Raises:
            CorrelatorClosed: it was not entered, or is closed.
        """
        return self._post("resolve_threadsafe", partial(self.resolve, request_id, response))

    def reject_threadsafe(
        self, request_id: K, error: Exception
    ) -> concurrent.futures.Future[Disposition]:
        """Do `reject` from any thread. The future tells what became of the error.

        Raises:
            TypeError: `error` is not an instance of `Exception`.
            CorrelatorClosed: it was not entered, or is closed.
        """
        check_error("error", error)
        return self._post("reject_threadsafe", partial(self.reject, request_id, error))

    def _post(
        self, verb: str, call: Callable[[], Disposition]
    ) -> concurrent.futures.Future[Disposition]:
        future = self._mailbox.post(call)
        if future is None:
            is_out = self._state in ("new", "closed")
            raise self._out_of_order(verb) if is_out else loop_closed(self.name)
        return future

    # -- groups --------------------------------------------------------------------------------

    def group(self, name: str, *, max_pending: int | None = None) -> Group[K, V]:
        """Return the group of that name; make it if nobody holds it and nothing is pending in it.

        Args:
            name: its name.
            max_pending: how many may be pending in it at once; None for no limit of its own, or
                for the one it has.

        Raises:
            ValueError: `max_pending` is below 1, or not the one the group has.
            TypeError: an argument is of the wrong type.
            CorrelatorClosed: it was not entered, or is closed.
        """
        self._check_thread("group")
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {shown(name)}")
        if max_pending is not None:
            check_bound("max_pending", max_pending)
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group(self, name, max_pending)
        elif max_pending not in (None, group.max_pending):
            raise ValueError(
                f"max_pending must be {group.max_pending!r}, as group {name!r} has it, "
                f"not {max_pending!r}"
            )
        return group

    def _forget_group(self, group: Group[K, V]) -> None:
        """Let the name of a group that closes go to a new one."""
        if self._thread != NO_THREAD:
            self._check_thread("Group.close")
        if self._groups.get(group.name) is group:
            del self._groups[group.name]
