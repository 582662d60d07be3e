"""StructlogObserver: one log line for each thing that happens to a request."""

from __future__ import annotations

import logging
from typing import Any

try:
    import structlog
except ModuleNotFoundError as error:
    raise ImportError(
        "correlator.observers.structlog needs the extra 'structlog', as in aiocorrelator[structlog]"
    ) from error

from ..context import current_request_id
from ..errors import CorrelationError, shown
from ..pending import Disposition, Outcome, Pending

__all__ = ["StructlogObserver"]

# What everybody wants to know is a warning; what happens to every request is for debugging.
_ENDS = {
    Outcome.RESOLVED: ("debug", "correlator.request_resolved"),
    Outcome.REJECTED: ("warning", "correlator.request_rejected"),
    Outcome.TIMED_OUT: ("warning", "correlator.request_timed_out"),
    Outcome.CANCELLED: ("debug", "correlator.request_cancelled"),
    Outcome.CLOSED: ("info", "correlator.request_closed"),
}


class StructlogObserver:
    """Logs requests with structlog, as the application has configured it.

    The events are ``correlator.request_registered``, ``correlator.request_`` and the outcome,
    ``correlator.request_refused``, and ``correlator.reply_`` and the disposition, with
    ``request_id`` (the id that pairs), ``correlation_id`` (the ambient one, see
    `current_request_id`), ``age_s`` and ``timeout_s`` (seconds) where there are such. Contexts and
    responses are never logged.

    Args:
        logger: the logger to use; by default ``structlog.get_logger("correlator")``.
    """

    def __init__(self, logger: Any = None) -> None:
        self._log = structlog.get_logger("correlator") if logger is None else logger
        self._is_lazy = type(self._log) is type(structlog.get_logger())

    def registered(self, pending: Pending[Any, Any]) -> None:
        """Log ``request_registered`` at debug."""
        if not self._wants_debug():
            return
        self._log.debug(
            "correlator.request_registered",
            timeout_s=round(pending.timeout, 6),
            **_ids(pending.request_id, pending.correlation_id),
        )

    def settled(self, pending: Pending[Any, Any]) -> None:
        """Log ``request_resolved`` and the like: a timeout or a rejection at warning."""
        outcome = pending.outcome
        assert outcome is not None, "a settled request has an outcome"
        level, event = _ENDS[outcome]
        if level == "debug" and not self._wants_debug():
            return
        said = _said_of(pending._result) if outcome is Outcome.REJECTED else {}
        getattr(self._log, level)(
            event,
            **said,
            age_s=round(pending.age, 6),
            timeout_s=round(pending.timeout, 6),
            **_ids(pending.request_id, pending.correlation_id),
        )

    def unmatched(self, request_id: Any, disposition: Disposition) -> None:
        """Log ``reply_late``, ``reply_duplicate`` or ``reply_unknown`` at warning."""
        ids = _ids(request_id, current_request_id())
        self._log.warning(f"correlator.reply_{disposition}", **ids)

    def refused(self, error: CorrelationError) -> None:
        """Log ``request_refused`` at warning."""
        self._log.warning(
            "correlator.request_refused",
            error=type(error).__name__,
            reason=str(error),
            **_ids(error.request_id, current_request_id()),
        )

    def _wants_debug(self) -> bool:
        """Tell whether lines at debug are wanted: they are about every request, and mostly not."""
        # The class is asked: some loggers take every method for something to log.
        bound = self._log.bind() if self._is_lazy else self._log
        is_enabled_for = getattr(type(bound), "is_enabled_for", None)
        return is_enabled_for is None or bool(is_enabled_for(bound, logging.DEBUG))


def _said_of(error: Exception) -> dict[str, Any]:
    """Return of what kind an error is. Not its words: they are the other side's, like a payload."""
    said: dict[str, Any] = {"error": type(error).__name__}
    if error.__cause__ is not None:
        said["cause"] = type(error.__cause__).__name__
    status = getattr(getattr(error, "reply", None), "status", None)
    if isinstance(status, int):
        said["reply_status"] = status
    return said


def _ids(request_id: Any, correlation_id: str | None) -> dict[str, Any]:
    ids: dict[str, Any] = {"request_id": _loggable(request_id)}
    if correlation_id is not None:
        ids["correlation_id"] = _loggable(correlation_id)
    return ids


def _loggable(request_id: Any) -> str | int | None:
    """Return an id as it may stand in a log line: one that comes from outside may be anything."""
    if request_id is None or isinstance(request_id, int):
        return request_id
    if isinstance(request_id, str) and len(request_id) <= 128 and request_id.isprintable():
        return request_id
    return shown(request_id)
