"""The names of the header fields, and checking those that are given."""

from __future__ import annotations

import re

__all__ = [
    "CALLBACK_HEADER",
    "DEADLINE_HEADER",
    "REQUEST_ID_HEADER",
    "check_header",
    "check_headers",
]

REQUEST_ID_HEADER = "X-Request-ID"
DEADLINE_HEADER = "X-Envoy-Expected-Rq-Timeout-Ms"
CALLBACK_HEADER = "Callback-URL"

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, RFC 9110 section 5.6.2


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
        raise TypeError(f"{name} must be a string, not {value!r:.100}")
    if _HEADER_NAME.fullmatch(value) is None:
        raise ValueError(f"{name} must be the name of a header field, not {value!r:.100}")
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
