"""Jobs that are polled: `POST` with ``Prefer`` makes one, `GET /v1/jobs/{id}` asks for it."""

from __future__ import annotations

import asyncio
import contextvars
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from correlator import (
    CapacityExceeded,
    CorrelationError,
    CorrelatorClosed,
    ExpiringStore,
    current_request_id,
    request_scope,
)
from correlator.aiohttp import CallbackReply

__all__ = ["Job", "Jobs"]

Result = CallbackReply | CorrelationError


class Job:
    """A job under way, or its result, until its time is up."""

    __slots__ = ("_task", "id", "result")

    def __init__(self, job_id: str) -> None:
        self.id = job_id
        self.result: Result | None = None
        self._task: asyncio.Task[None] | None = None

    def start(
        self, work: Callable[[], Coroutine[Any, Any, CallbackReply]], done: Callable[[Job], None]
    ) -> None:
        """Start the work in a task that outlives the request.

        It takes the request's id along, for the logs, and nothing else: not the deadline of a
        client that is answered before the job is.
        """
        request_id = current_request_id()

        async def run() -> None:
            structlog.contextvars.bind_contextvars(request_id=request_id)
            with request_scope(request_id):
                try:
                    self.result = await work()
                except CorrelationError as error:
                    self.result = error.with_traceback(None)
                finally:
                    self._task = None
                    done(self)

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
        ttl: seconds a result is kept.
        max_jobs: how many are kept, under way or ended.
        max_bytes: the size of all results together.
    """

    def __init__(self, *, ttl: float, max_jobs: int, max_bytes: int) -> None:
        self._ttl = ttl
        self._running: dict[str, Job] = {}  # bounded by the correlator: each has a pending
        self._ended: ExpiringStore[str, Job] = ExpiringStore(
            resolution=1.0, max_size=max_jobs, max_bytes=max_bytes, evict=True
        )
        self._time = asyncio.get_running_loop().time

    def start(self, work: Callable[[], Coroutine[Any, Any, CallbackReply]]) -> Job:
        """Start a job, under an id of 128 random bits: whoever has it may poll, so it is secret."""
        job = Job(secrets.token_urlsafe(16))
        self._running[job.id] = job
        job.start(work, self._end)
        return job

    def get(self, job_id: str) -> Job | None:
        """Return a job by its id, or None when its time is up or it never was."""
        now = self._time()
        self._ended.purge(now, limit=256)
        if job_id in self._ended and self._ended.leaves_at(job_id) <= now:
            return None
        return self._running.get(job_id) or self._ended.get(job_id)

    def _end(self, job: Job) -> None:
        del self._running[job.id]
        now = self._time()
        self._ended.purge(now, limit=256)
        # A job that was refused has told its client so: there is nothing to poll.
        if job.result is not None and not isinstance(
            job.result, CapacityExceeded | CorrelatorClosed
        ):
            size = len(job.result.body) if isinstance(job.result, CallbackReply) else 0
            self._ended.add(job.id, job, now + self._ttl, size)
