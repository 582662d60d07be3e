"""Errors as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus

from aiohttp import web

from ..checks import check_instance
from ..context import current_request_id
from ..errors import (
    CapacityExceeded,
    CorrelationError,
    CorrelatorClosed,
    DuplicateRequest,
    NoResponder,
    RequestRejected,
    RequestTimeout,
)

__all__ = ["error_response", "problem_response"]

# What a stranger is told: what happened, and nothing of our bounds, names and ids.
_DETAILS: dict[type[CorrelationError], str] = {
    RequestTimeout: "No response came in time.",
    RequestRejected: "The service behind this one answered with an error, or not at all.",
    NoResponder: "Nobody is there to answer the request.",
    DuplicateRequest: "A request of the same id is under way, or was a moment ago.",
    CapacityExceeded: "Too many requests are under way. Try again later.",
    CorrelatorClosed: "The service is shutting down. Try again elsewhere, or later.",
}


def problem_response(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a problem document (RFC 9457) with the ambient request id in it.

    Args:
        status: the HTTP status, whose phrase is the problem's title.
        detail: what happened, and what to do about it, for people.
        headers: more headers for the response.
    """
    problem: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    request_id = current_request_id()
    if request_id is not None:
        problem["request_id"] = request_id
    return web.Response(
        status=status,
        body=json.dumps(problem).encode(),
        content_type="application/problem+json",
        headers=headers,
    )


def error_response(error: CorrelationError) -> web.Response:
    """Return the problem document for an error of ours, with ``Retry-After`` where it has one.

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
    return problem_response(error.status, detail, headers=headers)
