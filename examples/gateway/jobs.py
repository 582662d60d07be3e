"""Jobs that are polled: `POST` with ``Prefer`` makes one, `GET /v1/jobs/{id}` asks for it.

A result lies in the reply store, which replicas share: so whoever has a job's id may ask any of
them. The id is a signed token, with the id that pairs the job, its owner and its deadline in it:
it cannot be guessed, nor made from a callback's URL, and a replica that never saw the job can tell
from it whether there is anything to wait for.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import structlog
from aiohttp import web

from correlator import (
    CapacityExceeded,
    CorrelationError,
    CorrelatorClosed,
    current_request_id,
    new_request_id,
    request_scope,
)
from correlator.aiohttp import CallbackReply, CallbackTokens, error_response
from correlator.store import ExpiringStore
from correlator.transports import MemoryReplyStore, Message, ReplyStore

__all__ = ["PENDING", "RETRY_AFTER", "Job", "Jobs", "Result"]

Result = CallbackReply | CorrelationError
PENDING: Final = "pending"
RETRY_AFTER: Final = 1  # seconds after which a client should ask again

_FAILED = ".failed"  # ends the key of a result that is an error: no id that pairs has a dot
_ASKED_WITHIN = 3.0 * RETRY_AFTER  # seconds in which whoever polls asks for a result
_MAX_UNASKED = 10_000
_GRACE = 1.0  # seconds after its deadline in which a job's owner may still store how it ended


class Job:
    """A job under way, or its result."""

    __slots__ = ("_task", "id", "request_id", "result")

    def __init__(self, job_id: str, request_id: str) -> None:
        self.id = job_id
        self.request_id = request_id
        self.result: Result | None = None
        self._task: asyncio.Task[None] | None = None

    def start(
        self,
        work: Callable[[str], Coroutine[Any, Any, CallbackReply]],
        done: Callable[[Job], Awaitable[None]],
    ) -> None:
        """Start the work in a task that outlives the request.

        It takes the request's id along, for the logs, and nothing else: not the deadline of a
        client that is answered before the job is.
        """
        correlation_id = current_request_id()

        async def run() -> None:
            structlog.contextvars.bind_contextvars(request_id=correlation_id)
            with request_scope(correlation_id):
                try:
                    self.result = await work(self.request_id)
                except CorrelationError as error:
                    self.result = error.with_traceback(None)
                finally:
                    await done(self)
                    self._task = None

        self._task = contextvars.Context().run(asyncio.ensure_future, run())

    async def wait(self, seconds: float) -> Result | None:
        """Wait up to so many seconds for the result. A caller that leaves takes the job with it."""
        if self._task is not None:
            task = self._task
            try:
                await asyncio.wait([task], timeout=seconds)
            except asyncio.CancelledError:
                task.cancel()
                raise
        return self.result


class Jobs:
    """All jobs that somebody may poll, each for `ttl` seconds after it has ended.

    Args:
        keys: sign the ids, newest first; those that sign the callbacks will do.
        timeout: seconds a job may take.
        ttl: seconds a result is kept.
        store: keeps the results.
        owner: this replica's name, where there are several.
    """

    def __init__(
        self,
        keys: Sequence[bytes],
        *,
        timeout: float,
        ttl: float,
        store: ReplyStore,
        owner: str | None = None,
    ) -> None:
        # Other keys than those of callbacks: whoever may answer a job may not ask for it.
        own = [hmac.digest(key, b"gateway job", hashlib.sha256) for key in keys]
        self._handles = CallbackTokens(own)
        self._timeout = timeout
        self._ttl = ttl
        self._store = store
        self._owner = owner
        self._spare = MemoryReplyStore()  # for when the store is not there
        # Those whose results would go with this process, and that nobody has asked for yet.
        self._unasked: ExpiringStore[str, None] = ExpiringStore(
            resolution=0.1, max_size=_MAX_UNASKED, evict=True
        )
        self._running: set[str] = set()  # bounded by the correlator: each has a pending

    def start(self, work: Callable[[str], Coroutine[Any, Any, CallbackReply]]) -> Job:
        """Start a job. `work` is awaited with the id that pairs it."""
        request_id = new_request_id()
        deadline = time.time() + self._timeout
        handle = self._handles.issue(
            f"{deadline:.3f} {request_id}", self._timeout + self._ttl, self._owner
        )
        self._running.add(request_id)
        job = Job(handle, request_id)
        job.start(work, self._end)
        return job

    async def find(self, job_id: str) -> web.Response | str | None:
        """Return a job's result, or `PENDING`, or None when its time is up or it never was."""
        verified = self._handles.verify(job_id)
        if verified is None:
            return None
        deadline, _, request_id = verified.request_id.partition(" ")
        if request_id in self._running:
            return PENDING
        for store in (self._spare, self._store):
            for key in (request_id, request_id + _FAILED):
                kept = await store.get(key)
                if kept is not None:
                    self.told(request_id)
                    return _response(kept, failed=key.endswith(_FAILED))
        under_way = verified.owner != self._owner and time.time() < float(deadline) + _GRACE
        return PENDING if under_way else None

    def told(self, request_id: str) -> None:
        """Take note that its client has the result of a job."""
        self._unasked.pop(request_id)

    async def all_told(self) -> None:
        """Wait until every result has been asked for that is kept in this process alone.

        Of each only for as long as a client takes that polls as it was told to.
        """
        loop = asyncio.get_running_loop()
        while self._running or self._unasked:
            await asyncio.sleep(0.05)
            self._unasked.purge(loop.time(), limit=_MAX_UNASKED)

    async def _end(self, job: Job) -> None:
        try:
            await self._keep(job)
        finally:
            self._running.discard(job.request_id)

    async def _keep(self, job: Job) -> None:
        result = job.result
        # A job that was refused has told its client so: there is nothing to poll.
        if result is None or isinstance(result, CapacityExceeded | CorrelatorClosed):
            return
        key = job.request_id
        if isinstance(result, CallbackReply):
            content_type = result.headers.get("Content-Type", "")
            kept = Message(result.body, content_type=content_type)
        else:
            key += _FAILED
            problem = error_response(result)
            body = problem.body
            assert isinstance(body, bytes), "a problem document is bytes"
            kept = Message(body, {"Status": str(problem.status)}, problem.content_type)
        is_here = isinstance(self._store, MemoryReplyStore)
        try:
            await self._store.put(key, kept, self._ttl)
        except ConnectionError:
            structlog.get_logger("gateway").warning("result_kept_here_only")
            await self._spare.put(key, kept, self._ttl)
            is_here = True
        if is_here:
            now = asyncio.get_running_loop().time()
            self._unasked.purge(now, limit=_MAX_UNASKED)
            self._unasked.add(job.request_id, None, now + min(self._ttl, _ASKED_WITHIN))


def _response(kept: Message, *, failed: bool) -> web.Response:
    return web.Response(
        status=int(kept.headers["Status"]) if failed else 200,
        body=kept.body,
        headers={
            "Content-Type": kept.content_type or "application/octet-stream",
            "X-Content-Type-Options": "nosniff",
        },
    )
