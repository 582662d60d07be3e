"""Arguments of the web hooks that are no good: the message names which, and what it was."""

import pytest
from aiohttp import web

from correlator import Correlator
from correlator.aiohttp import (
    CallbackClient,
    CallbackTokens,
    callback_middleware,
    callback_route,
    correlation_middleware,
    error_response,
    propagation_middleware,
    setup,
)

from .serving import http_session, serving

TOKENS = CallbackTokens([b"k" * 16])
URL = "http://127.0.0.1/callbacks"


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("app", lambda: setup("app", Correlator())),
        ("correlator", lambda: setup(web.Application(), "bad")),
        ("header", lambda: setup(web.Application(), Correlator(), header=7)),
        ("header", lambda: correlation_middleware(header=b"X")),
        ("deadline_header", lambda: propagation_middleware(deadline_header=7)),
        ("new_id", lambda: correlation_middleware(new_id="abc")),
        ("tokens", lambda: callback_middleware(URL, "bad")),
        ("callback_url", lambda: callback_middleware(7, TOKENS)),
        ("header", lambda: callback_middleware(URL, TOKENS, header=None)),
        ("grace", lambda: callback_middleware(URL, TOKENS, grace="1")),
        ("correlator", lambda: callback_route("bad", tokens=TOKENS)),
        ("path", lambda: callback_route(Correlator(), 7, tokens=TOKENS)),
        ("tokens", lambda: callback_route(Correlator(), tokens=[b"k" * 16])),
        ("webhook", lambda: callback_route(Correlator(), tokens=TOKENS, webhook="whsec_x")),
        ("webhook", lambda: callback_route(Correlator(), tokens=TOKENS, webhook=7)),
        ("max_body", lambda: callback_route(Correlator(), tokens=TOKENS, max_body=1.5)),
        ("body_timeout", lambda: callback_route(Correlator(), tokens=TOKENS, body_timeout="1")),
    ],
)
def test_an_argument_of_the_wrong_type_is_named(name, call):
    with pytest.raises(TypeError, match=f"^{name} must be "):
        call()


@pytest.mark.parametrize("name", ["session", "correlator", "tokens", "max_body"])
async def test_so_is_one_of_the_callback_client(name):
    async with http_session() as session:
        good = {
            "session": session,
            "correlator": Correlator(),
            "callback_url": URL,
            "tokens": TOKENS,
        }
        with pytest.raises(TypeError, match=f"^{name} must be .*, not 'bad'"):
            CallbackClient(**{**good, name: "bad"})
        CallbackClient(**good)


@pytest.mark.parametrize("name", ["Content-Length", "host", "Transfer-Encoding", "Connection"])
def test_a_header_of_http_itself_is_refused(name):
    """An id in its place would break the message, or never be sent."""
    for call in (
        lambda: correlation_middleware(header=name),
        lambda: propagation_middleware(header=name),
        lambda: callback_middleware(URL, TOKENS, header=name),
        lambda: setup(web.Application(), Correlator(), header=name),
    ):
        with pytest.raises(ValueError, match=f"^header must not be '{name}'"):
            call()
    with pytest.raises(ValueError, match=f"^deadline_header must not be '{name}'"):
        correlation_middleware(deadline_header=name)


def test_an_id_and_a_deadline_need_headers_of_their_own():
    for make in (correlation_middleware, propagation_middleware):
        with pytest.raises(ValueError, match="^deadline_header must not be 'x-a'"):
            make(header="X-A", deadline_header="x-a")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gateway.example/callbacks",
        "ftp://gateway.example/",
        "http://",
        "http://gateway.example/#there",
        "http://gateway.example/?key=1",
        "http://gateway.example/{token}/{token}",
        "http://gateway.example/\r\nX: y",
        "http://gateway.example/a b",
        "http://[::1",
    ],
)
def test_a_callback_url_that_cannot_work_is_refused_with_its_value(url):
    with pytest.raises(ValueError, match="^callback_url must be") as error:
        callback_middleware(url, TOKENS)
    assert repr(url) in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://gateway.example",
        "https://gateway.example/base/",
        "https://gateway.example/hook?token={token}",
        "http://[::1]:8080/callbacks/{token}",
    ],
)
def test_a_callback_url_that_works_is_taken(url):
    callback_middleware(url, TOKENS)


@pytest.mark.parametrize("path", ["/callbacks", "/{token}/{token}"])
def test_the_route_needs_the_token_once(path):
    with pytest.raises(ValueError, match=r"^path must contain \{token\}, once, not "):
        callback_route(Correlator(), path, tokens=TOKENS)


@pytest.mark.parametrize("keys", [5, None, b"k" * 16, "k" * 16, {b"k" * 16}])
def test_keys_are_a_list_and_are_not_repeated_in_the_error(keys):
    with pytest.raises(TypeError, match="^keys must be a list of keys, newest first") as error:
        CallbackTokens(keys)
    assert "kkkk" not in str(error.value)


def test_the_clock_of_the_tokens_can_be_called():
    with pytest.raises(TypeError, match="^clock must be callable, not 5"):
        CallbackTokens([b"k" * 16], clock=5)


@pytest.mark.parametrize("token", [None, 5, b"v1.a.1.b"])
def test_what_is_no_text_is_no_token(token):
    with pytest.raises(TypeError, match="^token must be a string, not "):
        TOKENS.verify(token)


def test_an_error_response_is_for_errors_of_ours():
    with pytest.raises(TypeError, match="^error must be an instance of CorrelationError"):
        error_response(ValueError("secret"))


async def test_setup_comes_before_the_start():
    app = web.Application()
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        with pytest.raises(RuntimeError, match="before it starts"):
            setup(app, Correlator())
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("made", [None, "", "a\r\nb", 5, "x" * 129])
async def test_an_id_made_in_a_wrong_way_is_a_500_and_never_a_header(made):
    app = web.Application(middlewares=[correlation_middleware(new_id=lambda: made)])

    async def handler(request):
        raise AssertionError("it never gets here")

    app.router.add_get("/", handler)
    async with (
        serving(app) as server,
        http_session() as session,
        session.get(server.url("/")) as answer,
    ):
        assert answer.status == 500
        assert "X-Request-ID" not in answer.headers


async def test_so_it_is_with_an_application_that_was_set_up():
    app = web.Application()
    setup(app, Correlator(), new_id=lambda: None)
    async with (
        serving(app) as server,
        http_session() as session,
        session.get(server.url("/")) as answer,
    ):
        assert answer.status == 500
        assert "X-Request-ID" not in answer.headers


async def test_an_answer_before_any_middleware_has_the_id_too():
    app = web.Application()
    setup(app, Correlator())

    async def handler(request):
        return web.Response()

    app.router.add_post("/", handler)
    async with serving(app) as server, http_session() as session:
        headers = {"Expect": "something", "X-Request-ID": "mine-1"}
        async with session.post(server.url("/"), headers=headers) as answer:
            assert answer.status == 417
            assert answer.headers["X-Request-ID"] == "mine-1"
        headers["X-Request-ID"] = "not valid"
        async with session.post(server.url("/"), headers=headers) as answer:
            assert answer.headers.getall("X-Request-ID") != ["not valid"]
            assert len(answer.headers.getall("X-Request-ID")) == 1
