"""The design's threats that reach us by HTTP, and for each a test that its answer holds."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import pickle
from pathlib import Path

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from standardwebhooks import Webhook
from structlog.contextvars import bind_contextvars, get_contextvars

import correlator
from correlator import Correlator, RequestRejected, RequestTimeout, current_request_id
from correlator.aiohttp import CallbackTokens, correlation_middleware, setup
from correlator.ids import is_valid_request_id, new_request_id
from correlator.observers.structlog import StructlogObserver

from ..conftest import balanced
from .conftest import KEY, gateway_of
from .serving import exchange, header_of, http_request, http_session, serving, status_of, until

HEADER = "X-Request-ID"


# -- forged and guessed tokens -------------------------------------------------------------------


async def test_a_token_with_any_character_changed_is_404_and_the_pending_goes_on(gateway):
    with gateway.correlator.register() as pending:
        token = gateway.tokens.issue(pending.request_id, 60.0)
        for at, was in enumerate(token):
            forged = token[:at] + ("A" if was != "A" else "B") + token[at + 1 :]
            url = gateway.served.url("/callbacks/") / forged
            async with gateway.session.post(url, data=b"forged") as answer:
                assert answer.status == 404
            assert pending.outcome is None
        assert gateway.correlator.stats().unknown == 0, "looked up before the MAC was checked"
        async with gateway.session.post(gateway.callback(pending.request_id)) as answer:
            assert answer.status == 204


async def test_an_expired_token_and_one_of_a_removed_key_are_404(gateway):
    with gateway.correlator.register() as pending:
        expired = CallbackTokens([KEY], clock=lambda: 1_000_000.0)
        removed = CallbackTokens([b"a key that was removed long ago"])
        for tokens in (expired, removed):
            url = gateway.served.url("/callbacks/") / tokens.issue(pending.request_id, 60.0)
            async with gateway.session.post(url, data=b"x") as answer:
                assert answer.status == 404
        assert pending.outcome is None


async def test_a_token_of_one_request_never_settles_another(gateway):
    with gateway.correlator.register() as one, gateway.correlator.register() as other:
        async with gateway.session.post(gateway.callback(one.request_id), data=b"1") as answer:
            assert answer.status == 204
        assert (await one).body == b"1"
        assert other.outcome is None


# -- ids that clients choose ---------------------------------------------------------------------


async def test_a_thousand_clients_that_all_send_the_same_id_each_get_their_own_answer(gateway):
    posts = []

    async def call_back_later(request):
        url, body = request.headers["Callback-URL"], await request.read()

        async def post():
            async with gateway.session.post(url, data=body) as answer:
                assert answer.status == 204

        posts.append(asyncio.create_task(post()))
        return web.Response(status=202)

    async def relay(request):
        body = await request.read()
        reply = await gateway.client.request("POST", gateway.upstream.url("/jobs"), data=body)
        return web.Response(body=reply.body, headers={"X-Id": current_request_id()})

    gateway.upstream.answers["/jobs"] = call_back_later
    front = web.Application()
    setup(front, Correlator())
    front.router.add_post("/", relay)

    async def ask(session, url, number):
        async with session.post(url, data=b"%d" % number, headers={HEADER: "0"}) as answer:
            return answer.headers["X-Id"], await answer.read()

    async with serving(front) as served, http_session() as session:
        answers = await asyncio.gather(*[ask(session, served.url(), n) for n in range(1000)])
    await asyncio.gather(*posts)
    assert answers == [("0", b"%d" % number) for number in range(1000)]
    assert balanced(gateway.correlator).resolved == 1000


HOSTILE = {
    "carriage return and line feed": "id\r\nX-Evil: 1",
    "line feed": "id\n",
    "carriage return": "id\r",
    "nothing": "",
    "null": "id\0",
    "line separator": "id\u2028",
    "next line": "id\x85",
    "eight kilobytes": "x" * 8_000,
    "one too long": "x" * 129,
    "arabic digits": "\u0661\u0662\u0663",
    "fullwidth": "\uff49\uff44",
    "urn": "urn:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    "braces": "{6ba7b810-9dad-11d1-80b4-00c04fd430c8}",
    "escape": "\x1b[31mred",
    "quote": 'id" injected="1',
    "inner space": "an id",
    "markup": "<script>",
    "shell": "$(id)",
    "bytes that are no text": "\udcff\udcfe",
}


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "bytes that are no text"])
async def test_a_hostile_id_is_replaced_whole_and_makes_one_log_line(name, log_lines):
    hostile = HOSTILE[name]

    async def handler(_request):
        structlog.get_logger().info("handled")
        return web.Response()

    # Handed to the middleware directly, since no HTTP parser lets all of these through.
    request = make_mocked_request("GET", "/", headers={HEADER: hostile})
    bind_contextvars(tenant="t-1")
    response = await correlation_middleware()(request, handler)
    request_id = response.headers[HEADER]
    assert is_valid_request_id(request_id)
    assert request_id not in hostile
    assert log_lines.lines == [{"event": "handled", "tenant": "t-1", "request_id": request_id}]
    assert len(log_lines.text.splitlines()) == 1
    assert get_contextvars() == {"tenant": "t-1"}


SENDABLE = [name for name, text in HOSTILE.items() if not set(text) & set("\r\n\0\x1b")]


@pytest.mark.parametrize("name", SENDABLE)
async def test_a_hostile_id_that_comes_over_the_wire_is_replaced_whole(name):
    async def handler(_request):
        return web.Response(text=current_request_id())

    app = web.Application()
    setup(app, Correlator())
    app.router.add_get("/", handler)
    raw = HOSTILE[name].encode("utf-8", "surrogateescape")
    async with serving(app) as served:
        answer = await exchange(served.port, http_request("/", (HEADER, raw)))
    assert status_of(answer) == 200
    [request_id] = header_of(answer, HEADER)
    assert is_valid_request_id(request_id)
    assert answer.endswith(b"\r\n\r\n" + request_id.encode())


@pytest.mark.parametrize("values", [(b"one", b"two"), (b"same", b"same"), (b"one", b"")])
async def test_of_several_ids_none_is_taken(values):
    app = web.Application()
    setup(app, Correlator(), new_id=lambda: "made-here")
    headers = [(HEADER, value) for value in values]
    async with serving(app) as served:
        answer = await exchange(served.port, http_request("/", *headers))
    assert header_of(answer, HEADER) == ["made-here"]


@pytest.mark.parametrize(
    "valid", ["0", "a" * 128, "A.b_c-9", "..", pytest.param(new_request_id(), id="one of ours")]
)
async def test_a_valid_id_is_taken_as_it_is(valid):
    app = web.Application()
    setup(app, Correlator())
    async with serving(app) as served:
        answer = await exchange(served.port, http_request("/", (HEADER, valid.encode())))
    assert header_of(answer, HEADER) == [valid]


# -- what the code may not contain -----------------------------------------------------------------

PACKAGE = Path(correlator.__file__).parent
SECRETS = ("mac", "sig", "digest", "token")


def _names(node: ast.AST) -> set[str]:
    return {
        each.id if isinstance(each, ast.Name) else each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Name | ast.Attribute)
    }


@pytest.mark.parametrize("name", ["tokens.py", "aiohttp/callbacks.py"])
def test_no_mac_is_compared_with_an_operator(name):
    tree = ast.parse((PACKAGE / name).read_text())
    by_value = (ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Lt, ast.Gt, ast.LtE, ast.GtE)
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(each, by_value) for each in node.ops):
            operands = [node.left, *node.comparators]
            if any(isinstance(each, ast.Constant) for each in operands):
                continue  # `"{token}" not in template` and the like
            names = {each.lower() for operand in operands for each in _names(operand)}
            assert not [each for each in names if any(part in each for part in SECRETS)]
        if isinstance(node, ast.Match):
            assert not any(part in each for each in _names(node.subject) for part in SECRETS)


def test_tokens_are_compared_in_constant_time_with_every_key():
    tree = ast.parse((PACKAGE / "tokens.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    compared = [each for each in calls if "compare_digest" in _names(each.func)]
    assert len(compared) == 1
    lists = [node for node in ast.walk(tree) if isinstance(node, ast.ListComp)]
    assert any(compared[0] is each.elt for each in lists), "a generator would stop at the first"


def test_nothing_that_comes_from_outside_is_unpickled():
    bad = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "jsonpickle"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not bad & {alias.name.split(".")[0] for alias in node.names}, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in bad, path
            elif isinstance(node, ast.Call):
                assert not {"eval", "exec", "__import__"} & _names(node.func), path


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("content_type", ["application/x-pickle", "application/python-pickle"])
async def test_a_pickle_is_so_many_bytes(gateway, content_type):
    payload = pickle.dumps(_Bomb())
    with gateway.correlator.register() as pending:
        headers = {"Content-Type": content_type}
        url = gateway.callback(pending.request_id)
        async with gateway.session.post(url, data=payload, headers=headers) as answer:
            assert answer.status == 204
        assert (await pending).body == payload


# -- secrets in logs -------------------------------------------------------------------------------


async def test_no_secret_body_or_token_shows_in_any_log_line_repr_or_error(
    everything_logged, log_lines, capfd
):
    canaries = ["CANARY-key-of-the-tokens", "CANARY-in-the-body", "CANARY-in-a-header"]
    tokens = CallbackTokens([canaries[0]])
    hook = Webhook(b"CANARY-of-the-hooks")
    shown = []
    observed = Correlator(observers=[StructlogObserver()], timeout=5.0)
    logging.getLogger("correlator").setLevel(logging.DEBUG)
    async with gateway_of(observed, tokens=tokens, max_body=1000) as gateway:
        body, headers = canaries[1].encode(), {"X-Secret": canaries[2]}
        url = gateway.upstream.url("/jobs")

        async def request(**options):
            try:
                reply = await gateway.client.request(
                    "POST", url, data=body, headers=headers, context=canaries[1], **options
                )
                shown.extend([repr(reply), str(reply)])
            except (RequestRejected, RequestTimeout) as error:
                # Not the `repr` of the cause: aiohttp's own show all headers of the request.
                shown.extend([repr(error), str(error), str(error.__cause__)])
                shown.append(repr(getattr(error, "reply", None)))
                logging.getLogger("tests").exception("a user logs it")

        gateway.calls_back("/jobs", body, body)
        await request()
        gateway.upstream.reply("/jobs", status=500, body=body, headers=headers)
        await request()
        gateway.upstream.reply("/jobs", status=202)
        await request(timeout=0.02)
        gateway.upstream.redirect("/jobs", "/jobs", 307)
        await request()
        for seen in gateway.upstream.seen:
            callback = seen.headers["Callback-URL"]
            canaries.append(callback.rpartition("/")[2])
            async with gateway.session.post(callback, data=body * 100) as answer:
                assert answer.status == 413
            async with gateway.session.post(callback + "x", data=body) as answer:
                assert answer.status == 404
            async with gateway.session.post(callback, data=body) as answer:
                assert answer.status in (204, 410)
        shown.extend(map(repr, (tokens, gateway.client, gateway.correlator, hook, observed)))
        shown.extend(map(repr, gateway.app.router.routes()))
        shown.append(repr(correlator.aiohttp.callback_route(observed, tokens=tokens, webhook=hook)))
    out, err = capfd.readouterr()
    everything = "\n".join([*shown, log_lines.text, everything_logged.text, out, err])
    assert "correlator.request_timed_out" in everything
    assert "a user logs it" in everything
    assert len(canaries) > 10
    for canary in canaries:
        assert canary not in everything


async def test_a_callback_that_crashes_an_observer_shows_no_secret(everything_logged):
    class Broken:
        def registered(self, pending):
            raise ZeroDivisionError

        settled = unmatched = refused = registered

    async with gateway_of(Correlator(observers=[Broken()])) as gateway:
        gateway.calls_back("/jobs", b"CANARY")
        await gateway.client.request("POST", gateway.upstream.url("/jobs"), data=b"CANARY")
        token = gateway.upstream.seen[0].headers["Callback-URL"].rpartition("/")[2]
    assert "ZeroDivisionError" in everything_logged.text
    assert "CANARY" not in everything_logged.text
    assert token not in everything_logged.text


# -- floods ----------------------------------------------------------------------------------------


async def test_what_is_refused_for_being_too_many_says_so_in_json_and_leaves_nothing():
    correlator = Correlator(max_pending=5, timeout=29.5)

    async def handler(request):
        await correlator.correlate()
        return web.Response()

    app = web.Application()
    setup(app, correlator)
    app.router.add_get("/", handler)
    async with serving(app) as served:
        requests = [http_request("/", (HEADER, b"%d" % each)) for each in range(20)]
        calls = [asyncio.create_task(exchange(served.port, each)) for each in requests]
        await until(lambda: correlator.stats().refused == 15)
        for pending in correlator.pending():
            correlator.resolve(pending.request_id, "done")
        answers = await asyncio.gather(*calls)
    assert sorted(map(status_of, answers)) == [200] * 5 + [503] * 15
    refused = [each for each in answers if status_of(each) == 503]
    for answer in refused:
        assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["status"] == 503
        assert header_of(answer, "Retry-After") == ["30"]
    balanced(correlator)
