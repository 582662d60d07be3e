"""What can go wrong with a request, as a tree of exceptions that know their HTTP status.

::

    CorrelationError                    500
    ├── RequestTimeout (TimeoutError)   504
    ├── RequestRejected                 502
    ├── NoResponder                     503
    ├── DuplicateRequest                409
    ├── CapacityExceeded                503, or 429 for a group's limit
    └── CorrelatorClosed                503
"""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = [
    "CapacityExceeded",
    "CorrelationError",
    "CorrelatorClosed",
    "DuplicateRequest",
    "NoResponder",
    "RequestRejected",
    "RequestTimeout",
]

_E = TypeVar("_E", bound=Exception)


class CorrelationError(Exception):
    """A request did not get its response.

    Raised as it is, not as a subclass, only to whoever awaits a pending that was cancelled by
    somebody else: `asyncio.CancelledError` is kept for callers that were cancelled themselves.

    Attributes:
        request_id: the id that pairs the request, or None where there was none yet.
        age: seconds from the registration to the end, or None where it was never registered.
        timeout: seconds the request was given, or None where that is not known.
        status: the HTTP status that fits the error (RFC 9110, section 15).
    """

    status: int = 500

    def __init__(
        self,
        message: str = "",
        *,
        request_id: Any = None,
        age: float | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.age = age
        self.timeout = timeout


class RequestTimeout(CorrelationError, TimeoutError):
    """The deadline passed before a response came (504)."""

    status = 504


class RequestRejected(CorrelationError):
    """The other side answered with an error, or could not be reached (502).

    Attributes:
        reply: what it answered, where there is such. Not part of the message.
    """

    status = 502

    def __init__(
        self,
        message: str = "",
        *,
        request_id: Any = None,
        age: float | None = None,
        timeout: float | None = None,
        reply: Any = None,
    ) -> None:
        super().__init__(message, request_id=request_id, age=age, timeout=timeout)
        self.reply = reply


class NoResponder(CorrelationError):
    """The broker says that nobody listens where the request was sent (503)."""

    status = 503


class DuplicateRequest(CorrelationError):
    """The id is pending already, or settled so short a while ago that it is remembered (409)."""

    status = 409


class CapacityExceeded(CorrelationError):
    """A bound was reached; nothing was registered and nothing sent (503; 429 for a group's limit).

    Attributes:
        retry_after: seconds until a place is free at the latest, or None if waiting cannot help.
    """

    status = 503

    def __init__(
        self,
        message: str = "",
        *,
        request_id: Any = None,
        age: float | None = None,
        timeout: float | None = None,
        retry_after: float | None = None,
        status: int = 503,
    ) -> None:
        super().__init__(message, request_id=request_id, age=age, timeout=timeout)
        self.retry_after = retry_after
        self.status = status


class CorrelatorClosed(CorrelationError):
    """The correlator, or the pending's group, is closed, draining, or was never entered (503)."""

    status = 503


def shown(request_id: object) -> str:
    """Return an id for a message or a log line: its `repr`, so without line breaks, and cut."""
    try:
        text = repr(request_id)
    except Exception:  # an int of thousands of digits, or a class with a fault
        text = f"<{type(request_id).__name__}>"
    return text if len(text) <= 140 else f"{text[:137]}..."


def shown_seconds(seconds: float) -> str:
    """Return a time for a message or a log line: three digits of it, or the whole seconds."""
    return f"{seconds:.3g} s" if seconds < 1_000 else f"{seconds:.0f} s"


def fresh(error: _E) -> _E:
    """Return a copy of `error` that nobody has raised yet, or itself if it cannot be copied.

    One exception object raised to several waiters collects the traceback of each, and keeps all
    their frames.
    """
    kind = type(error)
    try:
        try:
            copy = kind(*error.__reduce__()[1])  # what pickling would do
        except Exception:  # it was not made from what it holds
            builtin: Any = next(base for base in kind.__mro__ if base.__module__ == "builtins")
            copy = builtin.__new__(kind)
        copy.args = error.args
        copy.__dict__.update(error.__dict__)
        copy.__cause__ = error.__cause__
        copy.__suppress_context__ = error.__suppress_context__
    except Exception:
        return error
    return copy
