"""The callback URL: what goes out, where it does not go, and the route it leads to."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from correlator import Correlator, RequestRejected, request_scope
from correlator.aiohttp import (
    CallbackClient,
    CallbackReply,
    CallbackTokens,
    callback_middleware,
    callback_route,
    propagation_middleware,
)

from ..conftest import balanced
from .conftest import KEY, gateway_of
from .serving import http_session, origin, until

URL_HEADER = "Callback-URL"


# -- what goes out -----------------------------------------------------------------------------


async def test_middlewares_of_the_session_run_too():
    async with gateway_of(session={"middlewares": (propagation_middleware(),)}) as gateway:
        # The client reads this attribute, which is not public: this aiohttp has it.
        assert gateway.session._middlewares == gateway.session._middlewares[:1] != ()
        gateway.calls_back("/jobs", b"done")
        with request_scope("outer-1"):
            await gateway.client.request("POST", gateway.upstream.url("/jobs"), timeout=3.0)
        headers = gateway.upstream.seen[0].headers
        assert headers["X-Request-ID"] == "outer-1"
        assert int(headers["X-Envoy-Expected-Rq-Timeout-Ms"]) <= 3000
        assert URL_HEADER in headers


async def test_the_token_in_the_url_is_for_the_pending_and_good_for_a_minute_longer():
    now = 1_000_000.0
    tokens = CallbackTokens([KEY], clock=lambda: now)
    async with gateway_of(tokens=tokens) as gateway:
        gateway.upstream.reply("/jobs", status=202)
        call = asyncio.create_task(
            gateway.client.request("POST", gateway.upstream.url("/jobs"), timeout=5.0)
        )
        await until(lambda: gateway.upstream.seen)
        url, _, token = gateway.upstream.seen[0].headers[URL_HEADER].rpartition("/")
        assert url == str(gateway.served.url("/callbacks"))
        [pending] = gateway.correlator.pending()
        assert tokens.verify(token) == (pending.request_id, None)
        now += 64.0
        assert tokens.verify(token) == (pending.request_id, None)
        now += 2.0
        assert tokens.verify(token) is None
        call.cancel()
        await asyncio.wait([call])


async def test_the_longest_timeout_of_all_still_gets_a_token(gateway):
    gateway.calls_back("/jobs", b"done")
    url = gateway.upstream.url("/jobs")
    assert (await gateway.client.request("POST", url, timeout=1e9)).body == b"done"


@pytest.mark.parametrize(
    ("callback_url", "expected"),
    [
        ("https://us.example/cb", "https://us.example/cb/T"),
        ("https://us.example/cb/", "https://us.example/cb/T"),
        ("https://us.example/cb/{token}/end?a=1", "https://us.example/cb/T/end?a=1"),
        ("https://us.example/cb?token={token}", "https://us.example/cb?token=T"),
    ],
)
async def test_the_token_goes_where_the_url_says(callback_url, expected, correlator):
    tokens = CallbackTokens([KEY])
    middleware = callback_middleware(callback_url, tokens, header="X-Reply-To")
    async with origin() as upstream, http_session(middlewares=(middleware,)) as session:
        with correlator.register() as pending:
            async with session.get(upstream.url()):
                pass
    url = upstream.seen[0].headers["X-Reply-To"]
    start, end = expected.split("T")
    assert url.startswith(start)
    assert url.endswith(end)
    assert tokens.verify(url[len(start) : len(url) - len(end)]) == (pending.request_id, None)


async def test_outside_of_a_pending_nothing_is_added(gateway):
    middleware = callback_middleware(gateway.served.url("/callbacks"), gateway.tokens)
    async with http_session(middlewares=(middleware,)) as session:
        with request_scope("only-an-id", 5.0):
            async with session.get(gateway.upstream.url()):
                pass
    assert URL_HEADER not in gateway.upstream.seen[0].headers


@pytest.mark.parametrize(
    ("url", "options", "error"),
    [
        ("/callbacks", {}, ValueError),
        ("ftp://us.example", {}, ValueError),
        ("", {}, ValueError),
        ("http://us.example", {"header": "a b"}, ValueError),
        ("http://us.example", {"grace": 0}, ValueError),
        ("http://us.example", {"grace": "1"}, TypeError),
    ],
)
def test_the_middleware_refuses_arguments_that_are_no_good(url, options, error):
    with pytest.raises(error):
        callback_middleware(url, CallbackTokens([KEY]), **options)


async def test_the_client_and_the_route_refuse_arguments_that_are_no_good():
    correlator, tokens = Correlator(), CallbackTokens([KEY])
    with pytest.raises(ValueError, match="max_body"):
        callback_route(correlator, tokens=tokens, max_body=0)
    with pytest.raises(ValueError, match=r"path must contain \{token\}"):
        callback_route(correlator, "/callbacks", tokens=tokens)
    async with http_session() as session:
        with pytest.raises(ValueError, match="max_body"):
            CallbackClient(session, correlator, callback_url="http://a", tokens=tokens, max_body=0)


# -- redirects -----------------------------------------------------------------------------------


async def test_a_redirect_on_the_same_origin_carries_the_url_along(gateway):
    gateway.upstream.redirect("/moved", "/jobs", 307)
    gateway.calls_back("/jobs", b"done")
    reply = await gateway.client.request("POST", gateway.upstream.url("/moved"), data=b"job")
    assert reply.body == b"done"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_origin_never_carries_the_url(gateway, status):
    async with origin() as stranger:
        gateway.upstream.redirect("/jobs", stranger.url("/jobs"), status)
        await gateway.client.request("POST", gateway.upstream.url("/jobs"))
        assert URL_HEADER in gateway.upstream.seen[0].headers
        assert [URL_HEADER in each.headers for each in stranger.seen] == [False]


async def test_a_session_middleware_that_runs_hops_in_tasks_of_their_own_leaks_no_url():
    async def in_a_task(request, handler):  # as `asyncio.wait_for` does before Python 3.12
        return await asyncio.create_task(handler(request))

    async with gateway_of(session={"middlewares": (in_a_task,)}) as gateway, origin() as stranger:
        gateway.upstream.redirect("/jobs", stranger.url("/jobs"), 307)
        await gateway.client.request("POST", gateway.upstream.url("/jobs"), data=b"job")
        assert [URL_HEADER in each.headers for each in stranger.seen] == [False]


async def test_a_call_after_one_whose_redirect_failed_carries_its_url(gateway):
    async with origin() as other:
        gateway.upstream.redirect("/jobs", other.url("/hangs-up"), 307)

        async def hang_up(request):
            request.transport.abort()
            return web.Response()

        other.answers["/hangs-up"] = hang_up
        with pytest.raises(RequestRejected):
            await gateway.client.request("POST", gateway.upstream.url("/jobs"), data=b"job")
        await gateway.client.request("POST", other.url("/jobs"), data=b"job")
        assert URL_HEADER in other.seen[-1].headers, "without it, it cannot call back"


# -- the route ---------------------------------------------------------------------------------


async def _post(gateway, url, **options):
    async with gateway.session.post(url, **options) as answer:
        return answer.status, await answer.read()


async def test_the_route_tells_matched_and_duplicate_204_late_410_and_unknown_404(gateway):
    pending = gateway.correlator.register("known")
    assert await _post(gateway, gateway.callback("known"), data=b"1") == (204, b"")
    assert (await pending).body == b"1"
    assert await _post(gateway, gateway.callback("known"), data=b"2") == (204, b"")
    gateway.correlator.register("late").cancel()
    assert (await _post(gateway, gateway.callback("late"), data=b"3"))[0] == 410
    assert (await _post(gateway, gateway.callback("unknown"), data=b"4"))[0] == 404
    stats = balanced(gateway.correlator)
    assert (stats.resolved, stats.duplicate, stats.late, stats.unknown) == (1, 1, 1, 1)


async def test_a_bad_token_and_an_unknown_id_get_the_same_answer_but_for_the_requests_own_id(
    gateway,
):
    headers = {"X-Request-ID": "same"}
    answers = [
        await _post(gateway, url, data=b"x", headers=headers)
        for url in (gateway.callback("unknown"), gateway.served.url("/callbacks/nonsense"))
    ]
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_only_a_post_settles(gateway, method):
    with gateway.correlator.register("known") as pending:
        async with gateway.session.request(method, gateway.callback("known")) as answer:
            assert answer.status == 405
        assert pending.outcome is None


async def test_a_callback_to_a_closed_correlator_gets_503(gateway):
    await gateway.correlator.aclose()
    assert (await _post(gateway, gateway.callback("known"), data=b"x"))[0] == 503


async def test_a_path_of_its_own_is_taken():
    async with gateway_of(path="/a/{token}/b") as gateway:
        with gateway.correlator.register("known") as pending:
            url = gateway.served.url(f"/a/{gateway.tokens.issue('known', 9)}/b")
            assert (await _post(gateway, url, data=b"x"))[0] == 204
            assert (await pending).body == b"x"


def test_a_reply_shows_its_status_only():
    reply = CallbackReply(200, {"Authorization": "CANARY"}, b"CANARY")
    assert repr(reply) == "CallbackReply(status=200)"
    with pytest.raises(AttributeError):
        reply.status = 500
