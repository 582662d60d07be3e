"""Observer: what is told of every request, for logs and metrics."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from traceback import extract_tb
from typing import Any, Protocol

from ..errors import CorrelationError, shown
from ..pending import Disposition, Pending

__all__ = ["Observer", "check_observers", "notify"]

_log = logging.getLogger("correlator")


class Observer(Protocol):
    """Told of every request as it happens, in the same turn of the loop.

    The calls are synchronous and on the path of every request: count or log, and return. What
    they raise is logged and breaks nothing.

    It may have two methods more, ``attached(correlator)`` and ``detached(correlator)``, which are
    called when a correlator begins to tell it, and when it stops: to see what is pending already.
    """

    def registered(self, pending: Pending[Any, Any]) -> None:
        """A request was registered. Nothing has been sent yet."""

    def settled(self, pending: Pending[Any, Any]) -> None:
        """A request ended: `pending.outcome` says how, `pending.age` after how many seconds."""

    def unmatched(self, request_id: Any, disposition: Disposition) -> None:
        """A reply found no pending: it was late, a duplicate, or of an id nobody knows."""

    def refused(self, error: CorrelationError) -> None:
        """A request was refused before it was registered, with `error`."""


def check_observers(name: str, value: Any) -> tuple[Observer, ...]:
    """Return `value` as a tuple of observers. Raises TypeError if it is no iterable of such."""
    events = ("registered", "settled", "unmatched", "refused")
    try:
        observers = tuple(value)
    except TypeError:
        raise TypeError(f"{name} must be an iterable of observers, not {shown(value)}") from None
    for observer in observers:
        if isinstance(observer, type):
            raise TypeError(f"{name} must be made first: {observer.__name__}(…), not the class")
        for event in events:
            if not callable(getattr(observer, event, None)):
                raise TypeError(f"{name} must have a method {event}(), not {shown(observer)}")
    return observers


def notify(observers: Iterable[Observer], event: str, *args: Any) -> None:
    """Call the method `event` of each observer. What one raises is logged, and the next is called.

    The log line says what was raised and where, and not the error's own words, which may quote a
    payload.
    """
    for observer in observers:
        try:
            getattr(observer, event)(*args)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            place = extract_tb(error.__traceback__)[-1]
            _log.error(
                "observer %s raised %s in %s, at %s:%s",
                type(observer).__name__,
                type(error).__name__,
                event,
                place.filename,
                place.lineno,
            )
