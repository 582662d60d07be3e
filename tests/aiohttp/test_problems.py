"""Errors of ours become problem documents: the right status, and nothing of our insides."""

from __future__ import annotations

import json

import pytest
from aiohttp import web

from correlator import (
    CapacityExceeded,
    CorrelationError,
    Correlator,
    CorrelatorClosed,
    DuplicateRequest,
    NoResponder,
    RequestRejected,
    RequestTimeout,
)
from correlator.aiohttp import get_correlator, problem_response, setup

from .serving import exchange, header_of, http_request, serving, status_of

SECRET = "CANARY-inside"

ERRORS = [
    (CorrelationError, {}, 500),
    (RequestTimeout, {}, 504),
    (RequestRejected, {"reply": SECRET}, 502),
    (NoResponder, {}, 503),
    (DuplicateRequest, {}, 409),
    (CapacityExceeded, {}, 503),
    (CapacityExceeded, {"status": 429}, 429),
    (CorrelatorClosed, {}, 503),
]


async def _answer(handler, *headers):
    app = web.Application()
    setup(app, Correlator(name=SECRET, max_pending=1), drain_timeout=0.01)
    app.router.add_get("/", handler)
    async with serving(app) as served:
        return await exchange(served.port, http_request("/", *headers))


def _problem(answer):
    assert header_of(answer, "Content-Type")[0].split(";")[0] == "application/problem+json"
    return json.loads(answer.split(b"\r\n\r\n", 1)[1])


@pytest.mark.parametrize(("kind", "more", "status"), ERRORS)
async def test_an_error_of_ours_becomes_a_problem_with_its_status_and_the_requests_id(
    kind, more, status
):
    async def handler(_request):
        raise kind(SECRET, request_id=SECRET, age=1.25, timeout=2.5, **more)

    answer = await _answer(handler, ("X-Request-ID", b"asked-1"))
    assert status_of(answer) == status
    problem = _problem(answer)
    assert set(problem) == {"type", "title", "status", "detail", "request_id"}
    assert problem["type"] == "about:blank"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"].endswith(".")
    assert problem["request_id"] == "asked-1"


@pytest.mark.parametrize(("kind", "more", "status"), ERRORS)
async def test_a_problem_shows_nothing_of_the_error_but_its_kind(kind, more, status):
    async def handler(_request):
        try:
            raise ValueError(SECRET)
        except ValueError as cause:
            raise kind(SECRET, request_id=SECRET, **more) from cause

    answer = await _answer(handler)
    assert SECRET.encode() not in answer
    assert b"Traceback" not in answer
    assert kind.__name__.encode() not in answer


class _Ours(RequestRejected):
    """A user's own kind of rejection."""


async def test_a_subclass_is_answered_as_its_parent():
    async def handler(_request):
        raise _Ours(SECRET)

    answer = await _answer(handler)
    assert status_of(answer) == 502
    assert "behind this one" in _problem(answer)["detail"]


class _Gone(RequestRejected):
    """Of a status that no RFC has a phrase for."""

    status = 499


async def test_a_status_that_has_no_phrase_gives_no_title():
    async def handler(_request):
        raise _Gone(SECRET)

    answer = await _answer(handler)
    assert status_of(answer) == 499
    problem = _problem(answer)
    assert "title" not in problem
    assert (problem["status"], problem["type"]) == (499, "about:blank")


@pytest.mark.parametrize(
    ("retry_after", "header"),
    [(None, []), (0.0, ["1"]), (0.2, ["1"]), (1.0, ["1"]), (1.01, ["2"]), (90.0, ["90"])],
)
async def test_retry_after_is_in_whole_seconds_rounded_up_and_at_least_one(retry_after, header):
    async def handler(_request):
        raise CapacityExceeded(retry_after=retry_after)

    assert header_of(await _answer(handler), "Retry-After") == header


async def test_a_full_correlator_answers_503_and_says_when_to_come_again():
    async def handler(request):
        correlator = get_correlator(request)
        correlator.register(timeout=6.5)
        await correlator.correlate()

    answer = await _answer(handler)
    assert status_of(answer) == 503
    assert header_of(answer, "Retry-After") == ["7"]
    assert b"max_pending" not in answer
    assert SECRET.encode() not in answer


async def test_a_request_that_gets_no_reply_answers_504():
    async def handler(request):
        await get_correlator(request).correlate(timeout=0.01)

    answer = await _answer(handler)
    assert status_of(answer) == 504
    assert _problem(answer)["detail"] == "No response came in time."


async def test_an_error_after_the_response_has_begun_ends_it_and_writes_no_second_one():
    async def handler(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"a piece")
        raise RequestTimeout

    answer = await _answer(handler)
    assert status_of(answer) == 200
    assert answer.count(b"HTTP/1.1") == 1
    assert b"problem" not in answer
    assert not answer.endswith(b"0\r\n\r\n"), "a stream that was cut off must not look whole"


async def test_an_error_in_a_websocket_writes_no_response_into_it():
    async def handler(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        raise RequestTimeout

    upgrade = (
        ("Upgrade", b"websocket"),
        ("Sec-WebSocket-Version", b"13"),
        ("Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    )
    app = web.Application()
    setup(app, Correlator())
    app.router.add_get("/", handler)
    request = http_request("/", *upgrade).replace(b"Connection: close", b"Connection: Upgrade")
    async with serving(app) as served:
        answer = await exchange(served.port, request)
    assert status_of(answer) == 101
    assert answer.count(b"HTTP/1.1") == 1


async def test_errors_of_others_are_left_to_aiohttp():
    async def handler(_request):
        raise TimeoutError(SECRET)

    answer = await _answer(handler)
    assert status_of(answer) == 504
    assert header_of(answer, "Content-Type") != ["application/problem+json"]


async def test_a_problem_outside_of_a_request_has_no_id():
    problem = problem_response(404, "There is no such thing.", headers={"X-More": "1"})
    assert problem.status == 404
    assert problem.content_type == "application/problem+json"
    assert problem.headers["X-More"] == "1"
    assert json.loads(problem.body) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "There is no such thing.",
    }
