"""The header fields by which an id and a deadline travel: their names, and what they say."""

from __future__ import annotations

import re
from collections.abc import Callable

from .checks import MAX_SECONDS, TOKEN
from .context import current_request_id, remaining_time
from .errors import shown
from .ids import is_valid_request_id
from .refusals import too_late

__all__ = [
    "CALLBACK_HEADER",
    "DEADLINE_HEADER",
    "REQUEST_ID_HEADER",
    "ambient_headers",
    "check_header",
    "check_headers",
    "id_from",
    "timeout_from",
]

REQUEST_ID_HEADER = "X-Request-ID"
DEADLINE_HEADER = "X-Envoy-Expected-Rq-Timeout-Ms"
CALLBACK_HEADER = "Callback-URL"

_MILLISECONDS = re.compile(r"[0-9]{1,12}")

# What HTTP itself reads and writes: an id in its place would break the message.
_RESERVED = frozenset(
    (
        *("connection", "content-encoding", "content-length", "content-type", "date", "expect"),
        *("host", "keep-alive", "proxy-connection", "server", "te", "trailer"),
        *("transfer-encoding", "upgrade"),
    )
)


def check_header(name: str, value: object) -> str:
    """Return `value`, the name of a header field of our own.

    Raises:
        TypeError: it is no string.
        ValueError: it is not the name of a field, or of one that HTTP itself uses.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {shown(value)}")
    if TOKEN.fullmatch(value) is None:
        raise ValueError(f"{name} must be the name of a header field, not {shown(value)}")
    if value.lower() in _RESERVED:
        raise ValueError(f"{name} must not be {value!r}, which HTTP itself uses")
    return value


def check_headers(header: object, deadline_header: object) -> None:
    """Check the two names under which an id and a deadline travel; the second may be None.

    Raises:
        TypeError, ValueError: as `check_header`, or both are the same.
    """
    check_header("header", header)
    if deadline_header is not None:
        check_header("deadline_header", deadline_header)
        if str(header).lower() == str(deadline_header).lower():
            raise ValueError(f"deadline_header must not be {deadline_header!r}: header is that")


def id_from(value: str | None, new_id: Callable[[], str]) -> str:
    """Return the id that a caller sent, if it is valid, or a fresh one.

    Raises:
        ValueError: `new_id` made one that is not valid.
    """
    if is_valid_request_id(value):
        return value
    made = new_id()
    if not is_valid_request_id(made):
        raise ValueError(
            f"new_id must return 1 to 128 characters out of A-Z a-z 0-9 . _ -, not {shown(made)}"
        )
    return made


def timeout_from(milliseconds: str | None) -> float | None:
    """Return the seconds that a caller said it will wait, or None if it said nothing of sense."""
    if milliseconds is None or _MILLISECONDS.fullmatch(milliseconds) is None:
        return None
    seconds = int(milliseconds) / 1000
    return min(seconds, MAX_SECONDS) if seconds > 0 else None


def ambient_headers(header: str, deadline_header: str | None) -> dict[str, str]:
    """Return what to send along: the ambient request id, and the milliseconds that are left.

    Raises:
        RequestTimeout: the ambient deadline has passed.
    """
    headers = {}
    request_id = current_request_id()
    if is_valid_request_id(request_id):
        headers[header] = request_id
    remaining = remaining_time()
    if remaining is not None:
        if remaining == 0:
            raise too_late(request_id)
        if deadline_header is not None:
            headers[deadline_header] = str(max(1, int(remaining * 1000)))
    return headers
