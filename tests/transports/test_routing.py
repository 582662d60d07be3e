"""Callbacks that arrive at another replica than the one that waits, over a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from aiohttp import ClientSession, web

from correlator import Correlator, new_request_id
from correlator.aiohttp import CallbackReply, CallbackTokens, callback_route
from correlator.transports import MemoryReplyStore, Message, connect, reply_store
from correlator.transports.replies import pack, unpack
from correlator.transports.routing import CallbackRouter, callback_reply

from ..conftest import balanced

KEY = b"sixteen bytes and more"


def _unused_port():
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        return nobody.getsockname()[1]


BROKERS = ["memory", "nats", "valkey", "rabbitmq"]


@pytest.fixture(params=BROKERS)
def url(request):
    if request.param == "memory":
        return f"memory:{request.node.name}"
    return request.getfixturevalue(f"{request.param}_server").url


class Front:
    """A replica that takes callbacks by HTTP."""

    def __init__(self, url, store):
        self.correlator = Correlator(timeout=20.0)
        self.transport = connect(url, self.correlator, decode=callback_reply)
        self.router = CallbackRouter(self.transport, store=store)
        self.tokens = CallbackTokens([KEY])

    async def __aenter__(self):
        self._stack = contextlib.AsyncExitStack()
        await self._stack.enter_async_context(self.correlator)
        await self._stack.enter_async_context(self.transport)
        app = web.Application()
        app.add_routes([callback_route(self.correlator, tokens=self.tokens, router=self.router)])
        runner = web.AppRunner(app)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.session = await self._stack.enter_async_context(ClientSession())
        self.port = site._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info):
        await self._stack.aclose()

    async def call_back(self, token, body=b"done", **headers):
        url = f"http://127.0.0.1:{self.port}/callbacks/{token}"
        async with self.session.post(url, data=body, headers=headers) as answer:
            return answer.status

    def token(self, request_id, owner=None):
        return self.tokens.issue(request_id, 60, self.transport.owner if owner is None else owner)


@pytest.fixture
def store():
    return MemoryReplyStore()


@pytest.fixture
async def fronts(url, store):
    async with Front(url, store) as one, Front(url, store) as two:
        yield one, two
        balanced(one.correlator)
        balanced(two.correlator)


async def test_a_callback_at_another_replica_reaches_the_one_that_waits(fronts):
    one, two = fronts
    with one.correlator.register() as pending:
        token = one.token(pending.request_id)
        sent = {"Content-Type": "application/json", "X-Detail": "d", "Authorization": "secret"}
        assert await two.call_back(token, b"{}", **sent) == 204
        reply = await pending
    assert isinstance(reply, CallbackReply)
    assert (reply.status, reply.body) == (200, b"{}")
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-detail"] == "d"
    assert "authorization" not in reply.headers
    assert two.transport.stats().forwarded == 1


async def test_a_header_that_cannot_go_over_a_broker_costs_itself_and_not_its_callback(fronts):
    """HTTP lets more through: whoever calls back can do no better than that."""
    one, two = fronts
    with one.correlator.register() as pending:
        sent = {"X-Control": "a\x85b", "X-Other": "é"}
        assert await two.call_back(one.token(pending.request_id), b"x", **sent) == 204
        reply = await pending
    assert (reply.body, reply.headers["x-other"]) == (b"x", "é")
    assert "x-control" not in reply.headers


async def test_a_callback_at_the_owner_itself_is_not_forwarded(fronts):
    one, _two = fronts
    with one.correlator.register() as pending:
        assert await one.call_back(one.token(pending.request_id)) == 204
        assert (await pending).body == b"done"
    assert one.transport.stats().forwarded == 0


async def test_a_callback_whose_owner_has_gone_is_kept(url, store):
    async with Front(url, store) as gone:
        token = gone.token("0" * 32)
    async with Front(url, store) as other:
        assert await other.call_back(token, b"kept", **{"X-Detail": "d"}) == 204
        assert await other.call_back(token, b"a second") == 204
        kept = await store.get("0" * 32)
    assert kept.body == b"kept"
    assert kept.headers["X-Detail"] == "d"


async def test_without_a_store_a_callback_whose_owner_has_gone_is_told_404(url):
    async with Front(url, None) as gone:
        token = gone.token("0" * 32)
    async with Front(url, None) as other:
        assert await other.call_back(token) == 404


async def test_without_a_router_a_token_of_another_replica_settles_nothing():
    tokens = CallbackTokens([KEY])
    async with Correlator() as correlator, ClientSession() as session:
        app = web.Application()
        app.add_routes([callback_route(correlator, tokens=tokens)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        with correlator.register() as pending:
            token = tokens.issue(pending.request_id, 60, "another")
            async with session.post(f"http://127.0.0.1:{port}/callbacks/{token}") as answer:
                assert answer.status == 404
            assert pending.outcome is None
        await runner.cleanup()


async def test_a_token_whose_owner_was_changed_settles_nothing(fronts):
    one, two = fronts
    with one.correlator.register() as pending:
        token = two.token(pending.request_id).replace(two.transport.owner, one.transport.owner)
        assert await two.call_back(token) == 404
        assert pending.outcome is None


async def test_the_same_id_at_two_replicas_is_never_crossed(fronts):
    one, two = fronts
    with one.correlator.register("0" * 32) as first, two.correlator.register("0" * 32) as second:
        assert await two.call_back(one.token("0" * 32), b"for one") == 204
        assert (await first).body == b"for one"
        assert second.outcome is None
        assert await one.call_back(two.token("0" * 32), b"for two") == 204
        assert (await second).body == b"for two"


async def test_many_callbacks_at_any_replica_each_reach_theirs(fronts):
    async def ask(number):
        owner, receiver = fronts[number % 2], fronts[number // 2 % 2]
        with owner.correlator.register() as pending:
            body = b"%d" % number
            assert await receiver.call_back(owner.token(pending.request_id), body) == 204
            assert (await pending).body == body

    await asyncio.gather(*map(ask, range(100)))
    assert sum(front.transport.stats().forwarded for front in fronts) == 50


async def test_after_the_link_is_closed_a_callback_is_told_to_come_again(url, store):
    async with Front(url, store) as one, Front(url, store) as two:
        token = one.token("0" * 32)
        await two.transport.__aexit__(None, None, None)
        assert await two.call_back(token) == 503


# -- keeping replies -----------------------------------------------------------------------------


@pytest.fixture(params=["memory", "nats", "valkey"])
async def kept(request):
    """Each kind of store, on its real server."""
    if request.param == "memory":
        url = "memory:"
    elif request.param == "nats":
        start = request.getfixturevalue("start_nats_server")
        url = start(jetstream=True).url
    else:
        url = request.getfixturevalue("valkey_server").url
    async with reply_store(url) as store:
        yield store


async def test_every_store_keeps_the_first_and_gives_it_as_it_was(kept):
    reply = Message(b"\x00\xff first", {"A": "b"}, "text/plain")
    request_id = new_request_id()
    assert await kept.get(request_id) is None
    assert await kept.put(request_id, reply, 60.0)
    assert not await kept.put(request_id, Message(b"second"), 60.0)
    assert await kept.get(request_id) == reply
    assert "://" not in repr(kept)


async def test_every_store_forgets_when_the_time_is_up(kept):
    request_id = new_request_id()
    assert await kept.put(request_id, Message(b"x"), 1.0)
    async with asyncio.timeout(20):
        while await kept.get(request_id) is not None:  # noqa: ASYNC110  # it is the server's doing
            await asyncio.sleep(0.05)  # really: a server's time cannot be moved


@pytest.mark.parametrize("scheme", ["nats", "valkey"])
async def test_a_store_that_is_not_there_is_a_connection_error(scheme):
    port = _unused_port()
    with pytest.raises(ConnectionError) as caught:
        async with reply_store(f"{scheme}://user:canary@127.0.0.1:{port}") as store:
            await store.get("0" * 32)
    assert "canary" not in str(caught.value)


async def test_of_two_replies_the_first_is_kept(store):
    assert await store.put("id", Message(b"first"), 10.0)
    assert not await store.put("id", Message(b"second"), 10.0)
    assert (await store.get("id")).body == b"first"
    assert await store.get("other") is None


async def test_a_store_that_is_full_forgets_what_would_go_soonest():
    store = MemoryReplyStore(max_replies=2, max_bytes=10)
    await store.put("a", Message(b"x"), 30.0)
    await store.put("b", Message(b"x"), 20.0)
    await store.put("c", Message(b"x"), 40.0)
    assert await store.get("b") is None
    assert not await store.put("large", Message(b"x" * 11), 10.0)
    assert (await store.get("a")).body == b"x"


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ((5, Message(b""), 1.0), TypeError, "request_id"),
        (("a", b"", 1.0), TypeError, "reply"),
        (("a", Message(b""), 0), ValueError, "ttl"),
        (("a", Message(b""), "1"), TypeError, "ttl"),
    ],
)
async def test_a_bad_argument_of_a_store_is_named(store, arguments, error, name):
    with pytest.raises(error, match=name):
        await store.put(*arguments)


@pytest.mark.parametrize(
    "reply",
    [Message(b""), Message(b"\n\n{}\x00\xff", {"A": "b", "C": "é"}, "text/plain")],
)
def test_what_is_packed_comes_out_as_it_was(reply):
    assert unpack(pack(reply)) == reply


@pytest.mark.parametrize(
    "packed",
    [b"", b"{}", b"{}\n", b"[]\nx", b"\x80\x04\n", b'{"headers":{"a\\n":"b"},"content_type":""}\n'],
)
def test_what_was_never_packed_is_refused(packed):
    with pytest.raises(ValueError, match="stored reply"):
        unpack(packed)


async def test_a_bad_argument_of_the_router_is_named(url):
    async with Correlator() as correlator, connect(url, correlator) as transport:
        with pytest.raises(TypeError, match="transport"):
            CallbackRouter("here")
        with pytest.raises(TypeError, match="store"):
            CallbackRouter(transport, store={})
        with pytest.raises(ValueError, match="ttl"):
            CallbackRouter(transport, ttl=0)
