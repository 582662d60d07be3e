"""Reply stores on real servers: entering them, TLS, and what lies there that is none of ours."""

from __future__ import annotations

import ssl

import pytest
from nats.aio.client import Client
from redis.asyncio import Redis

from correlator import new_request_id
from correlator.transports import Message, reply_store
from correlator.transports.nats_replies import NatsReplyStore
from correlator.transports.redis_replies import RedisReplyStore

from .proxy import Proxy


@pytest.mark.parametrize("kind", ["valkey", "nats"])
async def test_a_store_at_a_server_that_is_not_there_is_not_entered(kind, request):
    server = request.getfixturevalue(f"start_{kind}_server")()
    server.kill()
    where = f"127.0.0.1:{server.port}"
    said = f"could not connect to .* at {where}: nobody listens there"
    with pytest.raises(ConnectionError, match=said) as caught:
        async with reply_store(f"{server.scheme}://us:p4ss@{where}"):
            pytest.fail("it was entered")
    assert "p4ss" not in str(caught.value)


async def test_a_store_that_refuses_us_is_not_entered_and_the_password_not_told(
    start_valkey_server,
):
    server = start_valkey_server(users=["user default off"])
    with pytest.raises(ConnectionError, match="the user or the password is wrong") as caught:
        async with reply_store(f"valkey://us:p4ss@127.0.0.1:{server.port}"):
            pytest.fail("it was entered")
    assert "p4ss" not in str(caught.value)


async def test_a_store_needs_no_more_than_its_two_commands(start_valkey_server):
    server = start_valkey_server(users=["user us on >p ~correlator:kept:* -@all +get +set"])
    async with reply_store(f"valkey://us:p@127.0.0.1:{server.port}") as store:
        assert await store.put("id", Message(b"x"), 10.0)
        assert await store.get("id") == Message(b"x")


async def test_the_store_on_redis_takes_a_context(valkey_server, certificates, other_certificates):
    async with Proxy(valkey_server.port, ssl=certificates.server()) as proxy:
        url = f"valkeys://127.0.0.1:{proxy.port}"
        async with reply_store(url, ssl=certificates.client()) as store:
            request_id = new_request_id()
            assert await store.put(request_id, Message(b"x"), 10.0)
            assert await store.get(request_id) == Message(b"x")
        for options in ({}, {"ssl": other_certificates.client()}):
            with pytest.raises(ConnectionError, match="certificate"):
                async with reply_store(url, **options):
                    pytest.fail("it was entered")


async def test_the_store_on_nats_takes_a_context(start_nats_server, certificates):
    server = start_nats_server(jetstream=True, tls=certificates)
    async with reply_store(server.url, ssl=certificates.client()) as store:
        assert await store.put("id", Message(b"x"), 10.0)
        assert await store.get("id") == Message(b"x")
    with pytest.raises(ConnectionError):
        async with reply_store(server.url):
            pytest.fail("it was entered")


@pytest.mark.parametrize("scheme", ["nats", "redis"])
def test_a_context_for_a_store_that_is_not_secret_is_refused(scheme):
    with pytest.raises(ValueError, match="ssl"):
        reply_store(f"{scheme}://127.0.0.1", ssl=ssl.create_default_context())


@pytest.mark.parametrize("scheme", ["tls", "rediss"])
def test_a_context_of_a_store_that_is_none_is_refused(scheme):
    with pytest.raises(TypeError, match="ssl"):
        reply_store(f"{scheme}://127.0.0.1", ssl="yes")


async def test_what_others_put_into_redis_is_no_reply(valkey_server, caplog):
    async with Redis(port=valkey_server.port) as client:
        store = RedisReplyStore(client)
        await client.set("correlator:kept:foreign", "s3cret")
        await client.lpush("correlator:kept:list", "s3cret")
        assert await store.get("foreign") is None
        assert await store.get("list") is None
        assert not await store.put("foreign", Message(b"x"), 10.0)
    assert caplog.text.count("holds something in the place of a reply") == 2
    assert "s3cret" not in caplog.text


@pytest.fixture
async def nats_client(start_nats_server):
    client = Client()
    await client.connect(start_nats_server(jetstream=True).url)
    yield client
    await client.close()


async def test_what_others_put_into_nats_is_no_reply(nats_client, caplog):
    store = NatsReplyStore(nats_client)
    assert await store.put("id", Message(b"x"), 10.0)
    bucket = await nats_client.jetstream().key_value("correlator-kept")
    await bucket.put("id", b"s3cret")
    assert await store.get("id") is None
    assert "holds something in the place of a reply" in caplog.text
    assert "s3cret" not in caplog.text


async def test_nats_keeps_nothing_longer_than_the_bucket_does_and_says_so(nats_client):
    store = NatsReplyStore(nats_client, bucket="short", longest=100.0)
    assert await store.put("id", Message(b"x"), 100.0)
    with pytest.raises(ValueError, match=r"ttl must be at most 100\.0 s, not 101\.0"):
        await store.put("other", Message(b"x"), 101.0)
    assert await store.get("other") is None
