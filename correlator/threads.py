"""Threads: how others have the loop make a call, and how they look at what it changes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from typing import TypeVar

__all__ = ["Mailbox", "patiently"]

R = TypeVar("R")

_TRIES = 1_000


class Mailbox:
    """Takes calls from any thread while it is open, and lets the loop make them.

    Every call it took is made: whoever closes it waits a turn of the loop afterwards.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._loop: asyncio.AbstractEventLoop | None = None
        # Held while one posts: so between the question whether it is open and the posting nobody
        # can close it.
        self._lock = threading.Lock()

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take calls from now on, for that loop."""
        self._loop = loop

    def close(self) -> None:
        """Take no more."""
        with self._lock:
            self._loop = None

    def post(self, call: Callable[[], R]) -> Future[R] | None:
        """Have the loop make a call; the future tells what came of it. None if it is closed."""
        future: Future[R] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)
                    if not isinstance(error, Exception):  # Ctrl-C is the loop's, too
                        raise

        with self._lock:
            if self._loop is None:
                return None
            try:
                self._loop.call_soon_threadsafe(run, context=self._context)
            except RuntimeError:  # the loop was closed, and nobody has closed this
                return None
        return future


def patiently(look: Callable[[], R]) -> R:
    """Return what `look` sees, once the loop's thread changes nothing of it in just that moment.

    Raises:
        RuntimeError, KeyError: what a dict that changes under the eyes raises, at each of many
            tries.
    """
    for _ in range(_TRIES):
        with suppress(RuntimeError, KeyError):
            return look()
    return look()
