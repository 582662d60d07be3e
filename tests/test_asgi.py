"""The ASGI middleware: under Starlette on a real uvicorn, and message by message."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys

import pytest
import uvicorn
from aiohttp import ClientSession
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars

from correlator import (
    CapacityExceeded,
    CorrelationError,
    Correlator,
    CorrelatorClosed,
    NoResponder,
    RequestTimeout,
    current_request_id,
    remaining_time,
)
from correlator.asgi import CorrelationMiddleware
from correlator.ids import is_valid_request_id

from .aiohttp.serving import exchange, header_of, http_request, status_of, until

HEADER = "X-Request-ID"
BUDGET = "X-Envoy-Expected-Rq-Timeout-Ms"


@contextlib.asynccontextmanager
async def served(app):
    """Run an application on a real server, on a free port; give the port."""
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="on")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    running = asyncio.ensure_future(server._serve())
    try:
        await until(lambda: server.started or running.done())
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running


async def say_id(_request):
    return PlainTextResponse(current_request_id())


async def say_what_is_left(_request):
    left = remaining_time()
    return PlainTextResponse("none" if left is None else f"{left:.3f}")


async def stream(_request):
    async def parts():
        yield b"one "
        yield current_request_id().encode()

    return StreamingResponse(parts())


async def read(request):
    await request.body()
    return PlainTextResponse(current_request_id())


async def fail(_request):
    raise LookupError("canary")


async def time_out(_request):
    raise RequestTimeout("canary", request_id="canary", timeout=1.0)


async def greet(socket):
    await socket.accept()
    await socket.send_text(current_request_id())
    await socket.close()


def app_of(**options):
    routes = [
        Route("/", say_id),
        Route("/left", say_what_is_left),
        Route("/read", read, methods=["POST"]),
        Route("/stream", stream),
        Route("/fail", fail),
        Route("/time-out", time_out),
        WebSocketRoute("/socket", greet),
    ]
    return CorrelationMiddleware(Starlette(routes=routes), **options)


@pytest.fixture
async def port():
    async with served(app_of()) as port:
        yield port


async def get(port, path="/", **headers):
    async with ClientSession() as session:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with session.get(f"http://127.0.0.1:{port}{path}", headers=named) as response:
            return response.status, response.headers, await response.text()


async def test_a_valid_id_is_taken_bound_and_sent_back(port):
    _, headers, text = await get(port, X_Request_ID="my-id.7_A")
    assert text == headers[HEADER] == "my-id.7_A"
    assert current_request_id() is None


async def test_without_an_id_there_is_a_fresh_one(port):
    ids = {(await get(port))[2] for _ in range(3)}
    assert len(ids) == 3
    assert all(map(is_valid_request_id, ids))


@pytest.mark.parametrize(
    "value",
    [
        b"a b",
        b"x" * 129,
        b"\xd9\xa1",
        b"a\x00b",
        b"urn:uuid:1",
        b"a\xe2\x80\xa8b",
        b"x" * 8192,
        b"",
    ],
)
async def test_an_id_that_is_not_valid_is_replaced_and_never_repaired(port, value):
    answer = await exchange(port, http_request("/", (HEADER, value)))
    if status_of(answer) == 200:  # else the server itself has refused the line
        (sent,) = header_of(answer, HEADER)
        assert is_valid_request_id(sent)
        assert sent.encode() != value
    else:
        assert status_of(answer) == 400


async def test_two_ids_are_none(port):
    answer = await exchange(port, http_request("/", (HEADER, b"one"), (HEADER, b"two")))
    (sent,) = header_of(answer, HEADER)
    assert sent not in ("one", "two")


@pytest.mark.parametrize(
    ("milliseconds", "at_most"), [("2000", 2.0), ("1", 0.001), ("999999999999", 1e9)]
)
async def test_the_callers_deadline_is_the_ambient_one(port, milliseconds, at_most):
    left = float((await get(port, "/left", X_Envoy_Expected_Rq_Timeout_Ms=milliseconds))[2])
    assert at_most - 1.0 < left <= at_most


@pytest.mark.parametrize("nonsense", ["0", "-1", "1.5", "١٢", "soon", "9" * 13, ""])
async def test_a_deadline_that_is_nonsense_is_ignored(port, nonsense):
    answer = await exchange(port, http_request("/left", (BUDGET, nonsense.encode())))
    assert status_of(answer) in (200, 400)
    if status_of(answer) == 200:
        assert answer.endswith(b"none")


async def test_a_stream_carries_the_id_and_runs_in_its_scope(port):
    _, headers, text = await get(port, "/stream", X_Request_ID="my-id")
    assert (headers[HEADER], text) == ("my-id", "one my-id")


async def test_an_error_of_ours_becomes_a_problem_document(port):
    status, headers, text = await get(port, "/time-out", X_Request_ID="my-id")
    assert status == 504
    assert headers["Content-Type"] == "application/problem+json"
    assert headers[HEADER] == "my-id"
    assert json.loads(text) == {
        "type": "about:blank",
        "title": "Gateway Timeout",
        "status": 504,
        "detail": "No response came in time.",
        "request_id": "my-id",
    }


async def test_every_answer_has_the_id_also_a_404_and_a_crash(port):
    for path, expected in (("/nowhere", 404), ("/fail", 500)):
        status, headers, text = await get(port, path, X_Request_ID="my-id")
        assert (status, headers[HEADER]) == (expected, "my-id")
        assert "canary" not in text


async def test_a_request_inherits_nothing_of_the_one_before_on_its_connection(port):
    """After a body that the server had to hold back it runs in a context of that request.

    See https://github.com/python/cpython/issues/140947.
    """
    async with ClientSession() as session:
        url = f"http://127.0.0.1:{port}"
        headers = {HEADER: "the-first", BUDGET: "900000"}
        for _ in range(3):
            async with session.post(f"{url}/read", data=b"x" * 500_000, headers=headers) as first:
                assert await first.text() == "the-first"
            async with session.get(f"{url}/left") as second:
                assert await second.text() == "none"
                assert second.headers[HEADER] != "the-first"


async def test_a_second_one_within_leaves_everything_to_the_first():
    ids = iter(["outer", "inner"])
    inner = CorrelationMiddleware(Starlette(routes=[Route("/", say_id)]), new_id=lambda: next(ids))
    async with served(CorrelationMiddleware(inner, new_id=lambda: next(ids))) as port:
        _, headers, text = await get(port)
    assert text == "outer"
    assert headers.getall(HEADER) == ["outer"]


async def test_a_thousand_clients_with_one_id_get_each_its_own_answer():
    """CVE-2026-25536: what comes from outside never pairs."""
    correlator = Correlator(timeout=10.0)

    async def ask(request):
        number = request.query_params["n"]

        async def send(request_id):
            loop = asyncio.get_running_loop()
            loop.call_later(0.05, correlator.resolve, request_id, number)

        return PlainTextResponse(await correlator.correlate(send=send))

    @contextlib.asynccontextmanager
    async def lifespan(_app):
        async with correlator:
            yield

    app = CorrelationMiddleware(Starlette(routes=[Route("/", ask)], lifespan=lifespan))
    async with served(app) as port, ClientSession(headers={HEADER: "0"}) as session:

        async def one(number):
            async with session.get(f"http://127.0.0.1:{port}/?n={number}") as response:
                assert response.headers[HEADER] == "0"
                return await response.text()

        assert await asyncio.gather(*map(one, range(1_000))) == [str(n) for n in range(1_000)]


# -- message by message --------------------------------------------------------------------------


async def called(app, kind="http", headers=()):
    """Call an application as a server does, and return what it sends."""
    sent = []

    async def receive():
        return {"type": f"{kind}.connect" if kind == "websocket" else "http.request"}

    async def send(message):
        sent.append(message)

    await app({"type": kind, "headers": list(headers), "path": "/"}, receive, send)
    return sent


async def test_a_websocket_gets_its_id_with_the_acceptance():
    seen = []

    async def app(_scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        seen.append(current_request_id())
        raise NoResponder("nobody")

    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "headers": [(b"x-request-id", b"my-id")]}
    with pytest.raises(NoResponder):  # there is no response to make of it
        await CorrelationMiddleware(app)(scope, receive, send)
    assert sent == [{"type": "websocket.accept", "headers": [(b"x-request-id", b"my-id")]}]
    assert seen == ["my-id"]


async def test_a_websocket_that_is_denied_gets_its_id_with_the_response():
    async def app(_scope, _receive, send):
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        await send({"type": "websocket.http.response.body"})

    sent = await called(
        CorrelationMiddleware(app), "websocket", headers=[(b"x-request-id", b"my-id")]
    )
    assert sent[0]["headers"] == [(b"x-request-id", b"my-id")]
    assert "headers" not in sent[1]


async def test_what_comes_before_the_response_is_not_yet_the_response():
    async def app(_scope, _receive, send):
        await send({"type": "http.response.early_hint", "links": []})
        raise RequestTimeout("too late")

    hint, start, _ = await called(CorrelationMiddleware(app))
    assert hint == {"type": "http.response.early_hint", "links": []}
    assert start["status"] == 504


async def test_a_500_is_sent_at_once_whatever_goes_on_after_it():
    sent = []

    async def send(message):
        sent.append(message)

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"ours"})
        assert len(sent) == 2
        raise RequestTimeout("in a background task")

    with pytest.raises(RequestTimeout):
        await CorrelationMiddleware(app)({"type": "http", "headers": []}, None, send)
    assert [message.get("body") for message in sent] == [None, b"ours"]


@pytest.mark.parametrize("parts", [1, 2])
async def test_a_500_that_the_application_makes_of_an_error_itself_is_its_answer(parts):
    async def app(_scope, _receive, send):
        try:
            raise RequestTimeout("too late")
        except RequestTimeout:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            for number in range(parts):
                more = number + 1 < parts
                body = {"type": "http.response.body", "body": b"ours", "more_body": more}
                await send(body)

    start, *bodies = await called(CorrelationMiddleware(app))
    assert start["status"] == 500
    assert [body["body"] for body in bodies] == [b"ours"] * parts


async def test_once_such_a_500_has_left_nothing_takes_its_place():
    sent = []

    async def send(message):
        sent.append(message)

    async def app(_scope, _receive, send):
        try:
            raise RequestTimeout("too late")
        except RequestTimeout:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"ours", "more_body": True})
            raise

    with pytest.raises(RequestTimeout):
        await CorrelationMiddleware(app)({"type": "http", "headers": []}, None, send)
    assert [message.get("body") for message in sent] == [None, b"ours"]


async def test_what_denies_a_websocket_is_not_held_back():
    sent = []

    async def send(message):
        sent.append(message["type"])

    async def app(_scope, _receive, send):
        try:
            raise RequestTimeout("too late")
        except RequestTimeout:
            await send({"type": "websocket.http.response.start", "status": 500, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"no"})
            raise

    with pytest.raises(RequestTimeout):
        await CorrelationMiddleware(app)({"type": "websocket", "headers": []}, None, send)
    assert sent == ["websocket.http.response.start", "websocket.http.response.body"]


async def test_an_error_of_ours_whose_status_is_500_is_answered_too():
    async def app(_scope, _receive, _send):
        raise CorrelationError("canary")

    start, body = await called(CorrelationMiddleware(app))
    assert start["status"] == 500
    assert json.loads(body["body"])["detail"] == "The request got no response."


async def test_other_scopes_pass_untouched():
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send, current_request_id()))

    arguments = ({"type": "lifespan"}, object(), object())
    await CorrelationMiddleware(app)(*arguments)
    assert seen == [(*arguments, None)]


async def test_a_scope_is_left_as_it_was_and_may_be_served_again():
    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": [(HEADER.lower().encode(), b"order-42")]}
    for _ in range(2):
        before = dict(scope)
        await CorrelationMiddleware(app)(scope, None, send)
        assert scope == before
    assert [message["headers"] for message in sent[::2]] == [scope["headers"]] * 2


async def test_an_error_of_ours_in_a_websocket_is_the_servers():
    async def app(_scope, _receive, _send):
        raise CorrelatorClosed("closed")

    async def send(message):
        pytest.fail(f"nothing is to be sent, and {message['type']} is")

    with pytest.raises(CorrelatorClosed):
        await CorrelationMiddleware(app)({"type": "websocket", "headers": []}, None, send)


async def test_an_error_after_the_response_has_begun_goes_to_the_server():
    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise CorrelatorClosed("closed")

    with pytest.raises(CorrelatorClosed):
        await called(CorrelationMiddleware(app))


async def test_a_crash_is_answered_and_goes_to_the_server_too():
    async def app(_scope, _receive, _send):
        raise LookupError("canary")

    sent = []

    async def send(message):
        sent.append(message)

    with pytest.raises(LookupError):
        await CorrelationMiddleware(app)({"type": "http", "headers": []}, None, send)
    start, body = sent
    assert start["status"] == 500
    assert "canary" not in body["body"].decode()


async def test_a_client_that_has_gone_does_not_hide_what_went_wrong():
    async def app(_scope, _receive, _send):
        raise LookupError("canary")

    async def send(_message):
        raise ConnectionResetError

    with pytest.raises(LookupError):
        await CorrelationMiddleware(app)({"type": "http", "headers": []}, None, send)


async def test_a_framework_that_is_around_it_answers_a_crash_itself():
    """So its own page for a 500 is not taken away."""

    async def app(_scope, _receive, _send):
        raise LookupError("canary")

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": [], "app": object()}
    with pytest.raises(LookupError):
        await CorrelationMiddleware(app)(scope, None, send)
    assert not sent


async def test_a_500_of_the_applications_own_is_sent_whole():
    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    start, *parts = await called(CorrelationMiddleware(app))
    assert start["status"] == 500
    assert [part["body"] for part in parts] == [b"one", b"two"]


@pytest.mark.parametrize("path", ["/time-out", "/fail"])
async def test_as_one_of_starlettes_middlewares_it_works_too(path):
    app = Starlette(routes=[Route("/time-out", time_out), Route("/fail", fail)])
    app.add_middleware(CorrelationMiddleware)
    async with served(app) as port:
        status, headers, _ = await get(port, path, X_Request_ID="my-id")
    assert status == {"/time-out": 504, "/fail": 500}[path]
    if path == "/time-out":
        assert headers[HEADER] == "my-id"


async def test_a_full_correlator_says_when_to_come_again():
    async def app(_scope, _receive, _send):
        raise CapacityExceeded("full", retry_after=2.1)

    start, _ = await called(CorrelationMiddleware(app))
    assert start["status"] == 503
    assert (b"retry-after", b"3") in start["headers"]


async def test_the_id_replaces_one_that_the_application_has_set():
    async def app(_scope, _receive, send):
        headers = [(b"X-Request-Id", b"other"), (b"a", b"b")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    (start,) = await called(CorrelationMiddleware(app), headers=[(b"x-request-id", b"my-id")])
    assert start["headers"] == [(b"a", b"b"), (b"x-request-id", b"my-id")]


async def test_structlogs_variables_are_put_back():
    seen = []

    async def app(_scope, _receive, _send):
        seen.append(get_contextvars())

    bind_contextvars(request_id="mine", other="stays")
    try:
        await called(CorrelationMiddleware(app), headers=[(b"x-request-id", b"my-id")])
        assert seen == [{"request_id": "my-id", "other": "stays"}]
        assert get_contextvars() == {"request_id": "mine", "other": "stays"}
    finally:
        clear_contextvars()


async def test_names_of_ones_own():
    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200})

    made = CorrelationMiddleware(app, header="X-Trace", deadline_header=None, new_id=lambda: "made")
    (start,) = await called(made)
    assert start["headers"] == [(b"x-trace", b"made")]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"header": "no colon: please"}, ValueError, "header must be the name"),
        ({"header": "a", "deadline_header": "A"}, ValueError, "header is that"),
        ({"new_id": "x"}, TypeError, "new_id must be callable"),
    ],
)
def test_an_argument_that_is_no_good_is_named(options, error, match):
    with pytest.raises(error, match=match):
        app_of(**options)
    with pytest.raises(TypeError, match="app must be callable"):
        CorrelationMiddleware(None)


def test_it_needs_nothing_but_the_core():
    """In a process of its own, where neither structlog nor a web framework can be imported."""
    code = """if True:
        import sys
        for name in ("structlog", "aiohttp", "starlette", "httpx"):
            sys.modules[name] = None
        import asyncio
        from correlator.asgi import CorrelationMiddleware

        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200})

        async def send(message):
            print(message["headers"])

        scope = {"type": "http", "headers": [(b"x-request-id", b"my-id")]}
        asyncio.run(CorrelationMiddleware(app)(scope, None, send))
    """
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[(b'x-request-id', b'my-id')]", done.stderr
