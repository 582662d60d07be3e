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
    propagation_middleware,
    setup,
)

from .serving import http_session

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
