"""Problem documents (RFC 9457): what a stranger is told of an error."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from http import HTTPStatus

from .checks import check_instance
from .context import current_request_id
from .errors import (
    CapacityExceeded,
    CorrelationError,
    CorrelatorClosed,
    DuplicateRequest,
    NoResponder,
    RequestRejected,
    RequestTimeout,
)

__all__ = ["PROBLEM_TYPE", "problem_body", "problem_of"]

PROBLEM_TYPE = "application/problem+json"

# What a stranger is told: what happened, and nothing of our bounds, names and ids.
_DETAILS: dict[type[CorrelationError], str] = {
    RequestTimeout: "No response came in time.",
    RequestRejected: "The service behind this one answered with an error, or not at all.",
    NoResponder: "Nobody is there to answer the request.",
    DuplicateRequest: "A request of the same id is under way, or was a moment ago.",
    CapacityExceeded: "Too many requests are under way. Try again later.",
    CorrelatorClosed: "The service is shutting down. Try again elsewhere, or later.",
}


def problem_body(status: int, detail: str) -> bytes:
    """Return a problem document with the ambient request id in it.

    Args:
        status: the HTTP status, whose phrase is the problem's title. If it is one that has no
            phrase, there is no title.
        detail: what happened, and what to do about it, for people.
    """
    problem: dict[str, object] = {"type": "about:blank"}
    with suppress(ValueError):
        problem["title"] = HTTPStatus(status).phrase
    problem |= {"status": status, "detail": detail}
    request_id = current_request_id()
    if request_id is not None:
        problem["request_id"] = request_id
    return json.dumps(problem).encode()


def problem_of(error: CorrelationError) -> tuple[int, str, dict[str, str]]:
    """Return status and detail for an error, and headers: ``Retry-After`` where it has one.

    Raises:
        TypeError: `error` is not a `CorrelationError`.
    """
    check_instance("error", error, CorrelationError)
    headers = {}
    if isinstance(error, CapacityExceeded) and error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    detail = next(
        (text for kind, text in _DETAILS.items() if isinstance(error, kind)),
        "The request got no response.",
    )
    return error.status, detail, headers
