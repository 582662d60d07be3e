"""Watch: says in the log when the oldest pending has waited for longer than it should.

One timer, set for the moment at which whoever is the oldest would be too old. When it rings and
nothing is pending, it is set again by the next that is registered.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import Any

from .errors import CorrelationError, shown, shown_seconds
from .pending import Disposition, Pending, shown_source

__all__ = ["Watch"]

_log = logging.getLogger("correlator")

_GRAIN = 0.02  # seconds by which a loop's timer may ring early: Windows' clock ticks every 16 ms


class Watch:
    """An observer that warns of the oldest pending.

    Args:
        name: of the correlator.
        seconds: the age from which on a pending is warned of, and how long the next is put off.
        oldest: tells the oldest pending, or None.
        count: tells how many are pending.
        context: what its timer runs in.
    """

    def __init__(
        self,
        *,
        name: str,
        seconds: float,
        oldest: Callable[[], Pending[Any, Any] | None],
        count: Callable[[], int],
        context: contextvars.Context,
    ) -> None:
        self._name = name
        self._seconds = seconds
        self._oldest = oldest
        self._count = count
        self._context = context
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch on that loop."""
        self._loop = loop

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()

    def registered(self, pending: Pending[Any, Any]) -> None:  # noqa: ARG002  # the protocol's
        """Set the timer, if it is the first."""
        if self._timer is None:
            self._set(self._seconds)

    def settled(self, pending: Pending[Any, Any]) -> None:
        """Nothing: the timer finds out."""

    def unmatched(self, request_id: Any, disposition: Disposition) -> None:
        """Nothing."""

    def refused(self, error: CorrelationError) -> None:
        """Nothing."""

    def _set(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._look, context=self._context)

    def _look(self) -> None:
        self._timer = None
        oldest = self._oldest()
        if oldest is None:
            return
        left = self._seconds - oldest.age
        is_old = left <= min(_GRAIN, self._seconds / 100)
        self._set(self._seconds if is_old else left)
        if is_old:
            _log.warning(
                "the oldest of %d pending of correlator %r is %s old: %s%s",
                self._count(),
                self._name,
                shown_seconds(oldest.age),
                shown(oldest.request_id),
                shown_source(oldest),
            )
