"""Errors as aiohttp's responses: problem documents."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from ..errors import CorrelationError
from ..problems import PROBLEM_TYPE, problem_body, problem_of

__all__ = ["error_response", "problem_response"]


def problem_response(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a problem document (RFC 9457) with the ambient request id in it.

    Args:
        status: the HTTP status, whose phrase is the problem's title. If it is one that has no
            phrase, there is no title.
        detail: what happened, and what to do about it, for people.
        headers: more headers for the response.
    """
    return web.Response(
        status=status,
        body=problem_body(status, detail),
        content_type=PROBLEM_TYPE,
        headers=headers,
    )


def error_response(error: CorrelationError) -> web.Response:
    """Return the problem document for an error of ours, with ``Retry-After`` where it has one.

    Raises:
        TypeError: `error` is not a `CorrelationError`.
    """
    status, detail, headers = problem_of(error)
    return problem_response(status, detail, headers=headers)
