"""`setup`, `get_correlator` and the correlation middleware: an id for each request."""

from __future__ import annotations

import asyncio
import json

import pytest
import structlog
from aiohttp import web
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars

from correlator import Correlator, CorrelatorClosed, current_request_id
from correlator.aiohttp import correlation_middleware, get_correlator, setup
from correlator.ids import is_valid_request_id

from ..conftest import balanced
from .serving import exchange, header_of, http_request, http_session, serving, status_of, until

HEADER = "X-Request-ID"


async def ok(_request):
    return web.Response(text=current_request_id())


def app_of(handler=ok, correlator=None, **options):
    app = web.Application()
    setup(app, Correlator() if correlator is None else correlator, **options)
    app.router.add_route("*", "/", handler)
    return app


# -- setup -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"header": "no colon: please"}, ValueError),
        ({"header": ""}, ValueError),
        ({"header": "X-Id\n"}, ValueError),
        ({"header": None}, TypeError),
        ({"deadline_header": "a b"}, ValueError),
        ({"deadline_header": 3}, TypeError),
        ({"drain_timeout": 0}, ValueError),
        ({"drain_timeout": "1"}, TypeError),
    ],
)
def test_setup_refuses_an_argument_by_name_and_leaves_the_app_as_it_was(options, error):
    app = web.Application()
    with pytest.raises(error, match=next(iter(options))):
        setup(app, Correlator(), **options)
    assert not app.middlewares
    assert not app.cleanup_ctx
    setup(app, Correlator())


def test_setup_refuses_a_new_id_that_cannot_be_called():
    with pytest.raises(TypeError, match="new_id"):
        setup(web.Application(), Correlator(), new_id="an id")


@pytest.mark.parametrize("thing", [None, "correlator", Correlator])
def test_setup_refuses_what_is_no_correlator(thing):
    with pytest.raises(TypeError, match="correlator must be an instance of Correlator, not "):
        setup(web.Application(), thing)


def test_setup_refuses_an_app_that_has_a_correlator():
    app = app_of()
    with pytest.raises(ValueError, match="has a correlator already"):
        setup(app, Correlator())


def test_setup_returns_the_correlator():
    correlator = Correlator()
    assert setup(web.Application(), correlator) is correlator


async def test_the_correlator_starts_and_stops_with_the_application():
    correlator = Correlator()
    with pytest.raises(CorrelatorClosed, match="was not entered"):
        correlator.register()
    async with serving(app_of(correlator=correlator, drain_timeout=0.01)):
        correlator.register()
    with pytest.raises(CorrelatorClosed, match="is closed"):
        correlator.register()
    assert balanced(correlator).closed == 1


async def test_a_correlator_of_two_apps_fails_at_the_start_of_the_second():
    correlator = Correlator()
    async with serving(app_of(correlator=correlator)):
        with pytest.raises(CorrelatorClosed, match="was entered or closed before"):
            async with serving(app_of(correlator=correlator)):
                pass
        assert status_of(await _get(app_of())) == 200


async def _get(app, *headers):
    async with serving(app) as served:
        return await exchange(served.port, http_request("/", *headers))


async def test_shutdown_lets_what_is_under_way_get_its_reply():
    correlator = Correlator()

    async def wait(_request):
        return web.Response(text=await correlator.correlate("job"))

    async with serving(app_of(wait, correlator)) as served, http_session() as session:
        call = asyncio.create_task(_text(session, served.url()))
        await until(lambda: "job" in correlator)
        stop = asyncio.create_task(served.runner.cleanup())
        await until(lambda: "draining" in _refusal(correlator))
        correlator.resolve("job", "in time")
        assert await call == (200, "in time")
        await stop
    assert balanced(correlator).resolved == 1


async def _text(session, url):
    async with session.get(url) as response:
        return response.status, await response.text()


def _refusal(correlator):
    try:
        correlator.register("probe", reuse=True).cancel()
    except CorrelatorClosed as error:
        return str(error)
    return ""


async def test_what_outlives_the_drain_is_closed_and_gets_503():
    correlator = Correlator(timeout=60.0)

    async def wait(_request):
        await correlator.correlate("job")

    app = app_of(wait, correlator, drain_timeout=0.02)
    # aiohttp cancels the handlers that are left after this time, 60 seconds by default.
    async with serving(app, shutdown_timeout=0.5) as served:
        call = asyncio.create_task(exchange(served.port, http_request()))
        await until(lambda: "job" in correlator)
        await served.runner.cleanup()
        answer = await call
    stats = balanced(correlator)
    assert (stats.closed, stats.cancelled) == (1, 0)
    assert status_of(answer) == 503


async def test_drained_by_hand_a_server_still_takes_replies_and_refuses_new_requests():
    correlator = Correlator()

    async def wait(_request):
        return web.Response(text=await correlator.correlate("job"))

    async def reply(_request):
        return web.Response(text=str(correlator.resolve("job", "by another connection")))

    app = app_of(wait, correlator)
    app.router.add_get("/reply", reply)
    async with serving(app) as served, http_session() as session:
        call = asyncio.create_task(_text(session, served.url()))
        await until(lambda: "job" in correlator)
        drain = asyncio.create_task(correlator.drain(5.0))
        await until(lambda: "draining" in _refusal(correlator))
        assert (await _text(session, served.url()))[0] == 503
        assert await _text(session, served.url("/reply")) == (200, "matched")
        assert await call == (200, "by another connection")
        assert await drain


# -- get_correlator --------------------------------------------------------------------------


async def test_get_correlator_gives_the_apps_own_also_in_a_sub_app():
    correlator = Correlator()

    async def handler(request):
        return web.Response(text=str(get_correlator(request) is correlator))

    app = app_of(handler, correlator)
    sub = web.Application()
    sub.router.add_get("/deep", handler)
    app.add_subapp("/sub", sub)
    async with serving(app) as served, http_session() as session:
        assert await _text(session, served.url()) == (200, "True")
        assert await _text(session, served.url("/sub/deep")) == (200, "True")


async def test_get_correlator_names_setup_where_it_was_forgotten():
    said = []

    async def handler(request):
        with pytest.raises(RuntimeError, match=r"call correlator\.aiohttp\.setup\(app") as failure:
            get_correlator(request)
        said.append(failure.value)
        return web.Response()

    app = web.Application()
    app.router.add_get("/", handler)
    assert status_of(await _get(app)) == 200
    assert said[0].__suppress_context__


async def test_a_sub_app_with_a_correlator_of_its_own_keeps_the_requests_id():
    inside = []

    async def handler(request):
        inside.append((current_request_id(), get_correlator(request).name))
        return web.Response()

    @web.middleware
    async def outside(request, handler):
        inside.append(current_request_id())
        return await handler(request)

    sub = app_of(handler, Correlator(name="inner"))
    app = app_of(correlator=Correlator(name="outer"))
    app.middlewares.append(outside)
    app.add_subapp("/sub", sub)
    async with serving(app) as served:
        answer = await exchange(served.port, http_request("/sub/", (HEADER, b"not valid")))
    [request_id] = header_of(answer, HEADER)
    assert inside == [request_id, (request_id, "inner")]


# -- the header on every response --------------------------------------------------------------


async def _found(_request):
    raise web.HTTPFound("/elsewhere")


async def _teapot(_request):
    raise web.HTTPConflict(headers={HEADER: "the handler's own"})


async def _crash(_request):
    raise ZeroDivisionError


async def _stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"a piece")
    return response


async def _stream_of_its_own(request):
    response = web.StreamResponse(headers={HEADER: "the handler's own"})
    await response.prepare(request)
    return response


async def _late(_request):
    raise CorrelatorClosed


@pytest.mark.parametrize(
    ("handler", "path", "status"),
    [
        (ok, "/", 200),
        (ok, "/nowhere", 404),
        (_found, "/", 302),
        (_teapot, "/", 409),
        (_crash, "/", 500),
        (_stream, "/", 200),
        (_stream_of_its_own, "/", 200),
        (_late, "/", 503),
    ],
)
async def test_every_response_carries_the_id_once(handler, path, status):
    async with serving(app_of(handler)) as served:
        answer = await exchange(served.port, http_request(path, (HEADER, b"mine-1")))
    assert status_of(answer) == status
    assert header_of(answer, HEADER) == ["mine-1"]


async def test_a_websockets_upgrade_carries_the_id():
    async def handler(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close()
        return socket

    upgrade = (
        (HEADER, b"mine-2"),
        ("Upgrade", b"websocket"),
        ("Sec-WebSocket-Version", b"13"),
        ("Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    )
    async with serving(app_of(handler)) as served:
        request = http_request("/", *upgrade).replace(b"Connection: close", b"Connection: Upgrade")
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
    assert status_of(answer) == 101
    assert header_of(answer, HEADER) == ["mine-2"]


@pytest.mark.parametrize("handler", [ok, _found, _late])
async def test_the_middleware_alone_in_a_list_sets_the_header_on_what_passes_through_it(handler):
    app = web.Application(middlewares=[correlation_middleware()])
    app.router.add_get("/", handler)
    answer = await _get(app, (HEADER, b"mine-3"))
    assert header_of(answer, HEADER) == ["mine-3"]


async def test_the_middleware_alone_makes_an_id_and_binds_it():
    app = web.Application(middlewares=[correlation_middleware(header="X-Trace")])
    app.router.add_get("/", ok)
    answer = await _get(app)
    [request_id] = header_of(answer, "X-Trace")
    assert is_valid_request_id(request_id)
    assert answer.endswith(request_id.encode())


async def test_setup_puts_the_middleware_outside_of_those_that_were_there():
    @web.middleware
    async def inner(request, handler):
        return web.Response(text=current_request_id())

    app = web.Application(middlewares=[inner])
    setup(app, Correlator(), header="X-Trace", new_id=lambda: "made-here")
    answer = await _get(app)
    assert header_of(answer, "X-Trace") == ["made-here"]
    assert answer.endswith(b"made-here")


# -- structlog's context variables -------------------------------------------------------------


async def test_the_id_is_bound_for_structlog_and_the_applications_own_variables_stay():
    seen = []

    @web.middleware
    async def outside(request, handler):
        bind_contextvars(tenant="t-1", request_id="of the application")
        try:
            return await handler(request)
        finally:
            seen.append(get_contextvars())
            clear_contextvars()

    async def handler(_request):
        seen.append(get_contextvars())
        raise web.HTTPNotFound

    app = web.Application(middlewares=[outside, correlation_middleware()])
    app.router.add_get("/", handler)
    assert status_of(await _get(app, (HEADER, b"mine-4"))) == 404
    assert seen == [
        {"tenant": "t-1", "request_id": "mine-4"},
        {"tenant": "t-1", "request_id": "of the application"},
    ]


async def test_requests_at_the_same_time_keep_their_ids_apart(log_lines):
    gate = asyncio.Event()

    async def handler(_request):
        before = current_request_id()
        await gate.wait()
        structlog.get_logger().info("handled", before=before)
        return web.Response(text=current_request_id())

    async with serving(app_of(handler)) as served:
        calls = [
            asyncio.create_task(exchange(served.port, http_request("/", (HEADER, b"id-%d" % each))))
            for each in range(20)
        ]
        await asyncio.sleep(0)
        gate.set()
        for each, call in enumerate(calls):
            assert (await call).endswith(b"id-%d" % each)
    assert all(line["before"] == line["request_id"] for line in log_lines.lines)
    assert len({json.dumps(line) for line in log_lines.lines}) == 20


async def test_a_stream_that_has_left_without_the_id_is_not_said_to_have_had_it():
    """What is outside, such as an access log, would else tell of a header that nobody got."""
    said = []

    @web.middleware
    async def outer(request, handler):
        response = await handler(request)
        said.append(response.headers.get("X-Request-ID"))
        return response

    async def stream(request):
        response = web.StreamResponse()
        await response.prepare(request)
        return response

    app = web.Application(middlewares=[outer, correlation_middleware()])
    app.router.add_get("/", stream)
    async with serving(app) as served:
        answer = await exchange(served.port, http_request("/", ("X-Request-ID", b"mine-1")))
    assert header_of(answer, "X-Request-ID") == []
    assert said == [None]
