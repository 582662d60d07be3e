"""The names of the header fields, and checking those that are given."""

from __future__ import annotations

import re

__all__ = ["CALLBACK_HEADER", "DEADLINE_HEADER", "REQUEST_ID_HEADER", "check_header"]

REQUEST_ID_HEADER = "X-Request-ID"
DEADLINE_HEADER = "X-Envoy-Expected-Rq-Timeout-Ms"
CALLBACK_HEADER = "Callback-URL"

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, RFC 9110 section 5.6.2


def check_header(name: str, value: object) -> str:
    """Return `value`, the name of a header field. Raises TypeError or ValueError naming it."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r:.100}")
    if _HEADER_NAME.fullmatch(value) is None:
        raise ValueError(f"{name} must be the name of a header field, not {value!r:.100}")
    return value
