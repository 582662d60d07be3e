"""AmqpTransport: what only RabbitMQ does. What all transports do is in test_conformance.py."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import ssl
import sys
import threading
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pika
import pytest

from correlator import Correlator, CorrelatorClosed, NoResponder, RequestRejected, RequestTimeout
from correlator.transports import Message, amqp_link, amqp_taking, connect
from correlator.transports.amqp_link import Content, Refused
from correlator.transports.base import Outgoing

from ..conftest import balanced
from .servers import RabbitmqUser
from .test_conformance import Replica, echo, until

SERVER = Path(__file__).parent / "foreign" / "pika_server.py"


@pytest.fixture
def url(rabbitmq_server):
    return rabbitmq_server.url


@pytest.fixture
def name(request):
    return "".join(each if each.isalnum() else "-" for each in request.node.name)[:200]


@pytest.fixture
async def replica(url):
    async with Replica(url) as replica:
        yield replica
        balanced(replica.correlator)


@pytest.fixture
async def other(url):
    async with Replica(url, replica="other") as other:
        yield other
        balanced(other.correlator)


@contextlib.contextmanager
def channel_at(url):
    """A channel of plain pika: somebody who knows nothing of us."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    with contextlib.closing(connection):
        yield connection.channel()


class Direct:
    """A plain client that asks for direct replies."""

    def __init__(self, url):
        self.replies = []
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._channel.basic_consume(
            "amq.rabbitmq.reply-to",
            lambda *reply: self.replies.append((reply[2].correlation_id, reply[3])),
            auto_ack=True,
        )

    def ask(self, queue, body, correlation_id="any text: é"):
        properties = pika.BasicProperties(
            reply_to="amq.rabbitmq.reply-to", correlation_id=correlation_id, expiration="5000"
        )
        self._channel.basic_publish("", queue, body, properties)

    async def answered(self, count=1):
        async with asyncio.timeout(20):
            while len(self.replies) < count:
                await asyncio.to_thread(self._connection.process_data_events, 0.05)

    def close(self):
        self._connection.close()


@pytest.fixture
def direct(url):
    with contextlib.closing(Direct(url)) as direct:
        yield direct


def publish(url, queue, body=b"", **properties):
    with channel_at(url) as channel:
        channel.basic_publish("", queue, body, pika.BasicProperties(**properties))


def waiting_in(url, queue):
    """How many messages wait in a queue."""
    with channel_at(url) as channel:
        return channel.queue_declare(queue, passive=True).method.message_count


def exists(url, queue):
    try:
        waiting_in(url, queue)
    except pika.exceptions.ChannelClosedByBroker as error:
        return error.reply_code != 404
    return True


def inbox(replica):
    return replica.transport._address_of(replica.transport.owner)


def cut(replica):
    """Have a replica's connection lost, as a network does it."""
    replica.transport._session.link._transport.abort()


async def reconnected(replica, times=1):
    await until(lambda: replica.transport.stats().reconnects >= times)
    await until(lambda: replica.transport.stats().connected)


# -- who answers ---------------------------------------------------------------------------------


async def test_an_rpc_server_that_knows_nothing_of_us_answers(url, replica, name):
    server = await asyncio.create_subprocess_exec(
        sys.executable, str(SERVER), url, name, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert await server.stdout.readline() == b"ready\n"
        bodies = [b"a%d" % number for number in range(200)]
        replies = await asyncio.gather(
            *(replica.request(name, body, headers={"A": "b"}) for body in bodies)
        )
    finally:
        server.kill()
        await server.communicate()
    assert [reply.body for reply in replies] == [body.upper() for body in bodies]
    assert balanced(replica.correlator).resolved == 200


async def test_an_rpc_client_that_knows_nothing_of_us_is_answered(other, direct, name):
    async with other.serve(name, echo):
        direct.ask(name, b"hello")
        await direct.answered()
    assert direct.replies == [("any text: é", b"hello")]


async def test_two_thousand_at_once(replica, other, name):
    async with other.serve(name, echo, concurrency=500):
        bodies = [b"%d" % number for number in range(2000)]
        replies = await asyncio.gather(*(replica.request(name, body) for body in bodies))
    assert [reply.body for reply in replies] == bodies
    assert not replica.transport._session._unconfirmed


async def test_those_that_nobody_listens_to_are_told_among_those_that_are_answered(
    replica, other, name
):
    async with other.serve(name, echo):
        outcomes = await asyncio.gather(
            *(replica.request(name if i % 3 else f"{name}-none", b"%d" % i) for i in range(300)),
            return_exceptions=True,
        )
    for number, outcome in enumerate(outcomes):
        if number % 3:
            assert outcome.body == b"%d" % number
        else:
            assert isinstance(outcome, NoResponder)
    assert not replica.transport._session._returned


async def test_a_request_says_how_long_it_lives_and_where_its_reply_goes(url, replica, name):
    with channel_at(url) as channel:
        channel.queue_declare(name)
        asking = asyncio.create_task(
            replica.request(name, b"body", timeout=30, content_type="text/plain")
        )
        await until(lambda: replica.transport.stats().sent == 1)
        method = None
        while method is None:
            method, properties, body = channel.basic_get(name, auto_ack=True)
        assert body == b"body"
        assert 25_000 < int(properties.expiration) <= 30_000
        assert properties.headers == {"Correlator-Timeout-Ms": properties.expiration}
        assert properties.reply_to == inbox(replica)
        assert properties.content_type == "text/plain"
        assert properties.correlation_id in replica.correlator
        channel.queue_delete(name)
    asking.cancel()
    await asyncio.wait([asking])


async def test_a_deadline_beyond_what_rabbitmq_can_count_is_none_to_it(replica, other, name):
    async with other.serve(name, echo):
        asking = asyncio.create_task(replica.request(name, b"x", timeout=1e9))
        # Where it minds, it closes the channel, and nothing else would end the request.
        await until(lambda: asking.done() or replica.transport.stats().reconnects)
        asking.cancel()
        assert replica.transport.stats().reconnects == 0
        assert (await asking).body == b"x"


async def test_what_a_broker_refuses_to_take_is_told(url, replica, name):
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    with channel_at(url) as channel:
        channel.queue_declare(name, arguments=full)
        publish(url, name)
        with pytest.raises(RequestRejected, match="could not be sent"):
            await replica.request(name, b"")
        channel.queue_delete(name)


@pytest.mark.parametrize(
    "options", [{"content_type": "x" * 300}, {"headers": {"a": "b" * 140_000}}]
)
async def test_what_cannot_go_over_amqp_costs_itself(replica, other, name, options):
    async with other.serve(name, echo):
        bad, good = await asyncio.gather(
            replica.request(name, b"bad", **options),
            replica.request(name, b"good"),
            return_exceptions=True,
        )
    assert isinstance(bad, RequestRejected)
    assert good.body == b"good"
    assert replica.transport.stats().reconnects == 0


async def test_what_is_larger_than_the_broker_takes_costs_one_connection_and_then_itself(
    start_rabbitmq_server, name
):
    """RabbitMQ closes the channel, and says only then how much it takes."""
    server = start_rabbitmq_server(config="max_message_size = 1000")

    async def handler(message):
        return message.body * 1000

    async with Replica(server.url) as asking, Replica(server.url) as serving:
        async with serving.serve(name, handler):
            for _ in range(2):
                with pytest.raises(RequestTimeout):
                    await asking.request(name, b"too large", timeout=1.5)
                assert serving.transport.stats().reconnects == 1
            assert len((await asking.request(name, b"x")).body) == 1000
            assert waiting_in(server.url, name) == 0
        for timeout, error in ((1.0, RequestTimeout), (20.0, RequestRejected)):
            with pytest.raises(error):
                await asking.request(name, bytes(1001), timeout=timeout)
        assert asking.transport.stats().reconnects == 1


# -- the reply queue -----------------------------------------------------------------------------


async def test_the_reply_queue_is_there_for_as_long_as_its_replica_is(url):
    async with Replica(url, prefix="mine", reply_ttl=2.5) as replica:
        queue = inbox(replica)
        assert queue == f"mine.replies.{replica.transport.owner}"
        with channel_at(url) as channel:  # which fails if it was declared otherwise
            channel.queue_declare(queue, durable=True, arguments={"x-expires": 2500})
    assert not exists(url, queue)


async def test_a_reply_queue_that_was_deleted_is_made_anew(url, replica, other, name):
    with channel_at(url) as channel:
        channel.queue_delete(inbox(replica))
    await reconnected(replica)
    async with other.serve(name, echo):
        assert (await replica.request(name, b"x")).body == b"x"


async def test_malformed_replies_cost_themselves(url, replica, other, name, caplog):
    queue = inbox(replica)
    publish(url, queue, b"no id")
    publish(url, queue, b"no date is that late", correlation_id="a", timestamp=2**62)
    publish(url, queue, b"nobody asked", correlation_id="\u2028" * 50)
    async with other.serve(name, echo):
        assert (await replica.request(name, b"x")).body == b"x"
    stats = replica.transport.stats()
    assert (stats.malformed, stats.received, stats.reconnects) == (2, 2, 0)
    assert replica.correlator.stats().unknown == 1
    assert caplog.text.count("malformed") == 2
    cut(replica)  # so that what was not acknowledged would come again
    await reconnected(replica)
    assert (await other.transport.forward(replica.transport.owner, "b", Message(b""))) is True
    await until(lambda: replica.transport.stats().received == 3)
    assert replica.transport.stats().malformed == 2


async def test_headers_of_any_kind_are_read_as_text_where_they_have_one(url, replica):
    headers = {
        "text": "a",
        "number": 7,
        "decimal": Decimal("1.5"),
        "yes": True,
        "bytes": b"\xff",
        "date": datetime(2020, 1, 2, tzinfo=UTC),
        "table": {"a": 1},
        "array": [1],
        "nothing": None,
    }
    with replica.correlator.register() as pending:
        publish(url, inbox(replica), correlation_id=pending.request_id, headers=headers)
        reply = await pending
    assert reply.headers == {
        "text": "a",
        "number": "7",
        "decimal": "1.5",
        "yes": "true",
        "bytes": "\ufffd",
        "date": "2020-01-02T00:00:00+00:00",
    }


@pytest.mark.parametrize(
    ("content_type", "headers", "read"),
    [
        (None, {"content-type": "text/a"}, "text/a"),
        ("text/b", {"Content-Type": "text/a"}, "text/b"),
        (None, {"CONTENT-TYPE": "text/a", "content-type": ""}, "text/a"),
    ],
)
async def test_a_content_type_that_others_put_among_the_headers_is_the_content_type(
    url, replica, content_type, headers, read
):
    with replica.correlator.register() as pending:
        properties = {"content_type": content_type, "headers": {"a": "b", **headers}}
        publish(url, inbox(replica), correlation_id=pending.request_id, **properties)
        reply = await pending
    assert (reply.headers, reply.content_type) == ({"a": "b"}, read)


async def test_each_of_several_that_forward_to_an_owner_that_is_gone_is_told(other):
    reached = await asyncio.gather(
        *(other.transport.forward("gone", f"id{n % 2}", Message(b"x")) for n in range(10))
    )
    assert reached == [False] * 10
    assert not other.transport._session._returned


async def test_nothing_of_what_went_by_is_kept(replica, other, name):
    async with other.serve(name, echo):
        await asyncio.gather(*(replica.request(name, b"x") for _ in range(50)))
        await until(lambda: not replica.transport._session._unconfirmed)
        await until(lambda: not other.transport._session._unconfirmed)
        gc.collect()
        kept = [each for each in gc.get_objects() if isinstance(each, Content | Outgoing)]
    assert kept == []


# -- answering -----------------------------------------------------------------------------------


async def test_a_queue_that_exists_is_used_as_it_is(url, replica, other, name):
    with channel_at(url) as channel:
        channel.queue_declare(name, durable=False, arguments={"x-max-length": 1000})
        async with other.serve(name, echo):
            assert (await replica.request(name, b"x")).body == b"x"
        channel.queue_delete(name)


async def test_malformed_requests_cost_themselves(url, replica, other, name):
    handled = []

    async def handler(message):
        handled.append(message.body)
        return b""

    async with other.serve(name, handler, concurrency=1):
        publish(url, name, b"no id", reply_to="somewhere")
        publish(url, name, b"unreadable", reply_to="a", correlation_id="b", timestamp=2**62)
        publish(url, name, b"no reply wanted")
        await replica.request(name, b"asked")
    assert handled == [b"no reply wanted", b"asked"]
    assert other.transport.stats().malformed == 2
    assert waiting_in(url, name) == 0


async def test_an_answer_that_cannot_be_sent_does_not_hold_up_the_others(
    url, replica, other, name, caplog
):
    async def handler(message):
        return Message(b"x", content_type="x" * 300 if message.body == b"bad" else "")

    async with other.serve(name, handler, concurrency=1):
        with pytest.raises(RequestTimeout):
            await replica.request(name, b"bad", timeout=0.3)
        publish(url, name, b"", reply_to="nobody.is-there", correlation_id="1")
        assert (await replica.request(name, b"good")).body == b"x"
    assert "could not be sent" in caplog.text
    assert waiting_in(url, name) == 0


async def test_on_leaving_what_did_not_come_to_a_handler_goes_back(url, replica, other, name):
    started, go_on = asyncio.Event(), asyncio.Event()

    async def handler(message):
        started.set()
        await go_on.wait()
        return message.body

    async with other.serve(name, handler, concurrency=1):
        first = asyncio.create_task(replica.request(name, b"first"))
        await started.wait()
        second = asyncio.create_task(replica.request(name, b"second"))
        await until(lambda: replica.transport.stats().sent == 2)
        asyncio.get_running_loop().call_later(0.05, go_on.set)
    assert (await first).body == b"first"
    await until(lambda: waiting_in(url, name) == 1)
    async with replica.serve(name, echo):
        assert (await second).body == b"second"


async def test_who_may_not_listen_is_told(start_rabbitmq_server, name):
    user = RabbitmqUser("limited", "secret", configure="^correlator", read="^correlator")
    server = start_rabbitmq_server(users=[user])
    with channel_at(server.url) as channel:
        channel.queue_declare(name)
    url = server.url.replace("guest:guest", "limited:secret")
    async with Replica(url) as replica:
        with pytest.raises(Refused, match="403"):
            async with replica.serve(name, echo):
                pass
        with pytest.raises(NoResponder):  # it is as good as before
            await replica.request("none", b"")
        assert replica.transport.stats().reconnects == 0


# -- when the connection is lost -----------------------------------------------------------------


async def test_no_reply_is_lost_while_all_connections_are_killed_again_and_again(
    rabbitmq_server, url, name
):
    handled, answered, lost = set(), set(), set()

    async def handler(message):
        handled.add(message.body)
        return message.body

    async def ask(number):
        body = b"%d" % number
        try:
            assert (await asking.request(name, body, timeout=6)).body == body
            answered.add(body)
        except RequestTimeout:
            lost.add(body)

    enough = threading.Event()

    def kill_again_and_again():
        while not enough.is_set():
            rabbitmq_server.kill_connections()

    async with Replica(url) as asking, Replica(url) as serving:
        async with serving.serve(name, handler):
            killing = asyncio.create_task(asyncio.to_thread(kill_again_and_again))
            asked = []
            for start in range(0, 2000, 20):
                asked += [asyncio.create_task(ask(start + each)) for each in range(20)]
                await asyncio.sleep(0.04)  # really: so that several kills fall among them
            enough.set()
            await killing
            await asyncio.gather(*asked)
        assert asking.transport.stats().reconnects >= 2
        assert balanced(asking.correlator).resolved == len(answered)
    assert len(answered) + len(lost) == 2000
    # A request may be lost on its way, since none is sent twice. A reply is not.
    assert lost & handled == set()
    assert len(answered) > 1500


async def test_a_reply_that_comes_while_its_owner_is_away_waits_for_it(
    replica, other, name, monkeypatch
):
    started, go_on, back = asyncio.Event(), asyncio.Event(), asyncio.Event()
    connect_again = replica.transport._connect

    async def when_allowed():
        await back.wait()
        return await connect_again()

    async def handler(_message):
        started.set()
        await go_on.wait()
        return b"kept"

    monkeypatch.setattr(replica.transport, "_connect", when_allowed)
    async with other.serve(name, handler):
        asking = asyncio.create_task(replica.request(name, b""))
        await started.wait()
        cut(replica)
        await until(lambda: not replica.transport.stats().connected)
        go_on.set()
    assert await other.transport.forward(replica.transport.owner, "another", Message(b""))
    assert not asking.done()
    back.set()
    assert (await asking).body == b"kept"


async def test_what_is_asked_in_the_turn_of_the_loss_goes_out_afterwards(replica, other, name):
    async with other.serve(name, echo):
        cut(replica)
        assert (await replica.request(name, b"x")).body == b"x"
    assert replica.transport.stats().reconnects == 1


async def test_a_forward_that_was_not_confirmed_is_told(replica, other):
    forwarding = asyncio.create_task(
        other.transport.forward(replica.transport.owner, "id", Message(b"x"))
    )
    while not other.transport._session._unconfirmed:  # noqa: ASYNC110  # nobody tells of it
        await asyncio.sleep(0)  # one turn: the confirm comes soon
    cut(other)
    with pytest.raises(ConnectionError, match="before the broker confirmed"):
        await forwarding


async def test_where_asked_the_loss_ends_what_is_pending(url, other, name):
    started = asyncio.Event()

    async def handler(message):
        started.set()
        if message.body == b"first":
            await asyncio.sleep(0.5)  # really: longer than it takes to tell of the loss
        return message.body

    async with Replica(url, on_disconnect="fail") as asking, other.serve(name, handler):
        first = asyncio.create_task(asking.request(name, b"first"))
        await started.wait()
        cut(asking)
        with pytest.raises(CorrelatorClosed, match="lost its connection"):
            await first
        await reconnected(asking)
        assert (await asking.request(name, b"second")).body == b"second"


async def test_a_restart_of_the_broker_is_survived(rabbitmq_server, replica, other, name):
    async with other.serve(name, echo):
        await replica.request(name, b"before")
        await asyncio.to_thread(rabbitmq_server.restart)
        await reconnected(replica)
        await reconnected(other)
        # A broker that is killed may not yet have written down what is durable; the service makes
        # its queue anew.
        await until(lambda: exists(rabbitmq_server.url, name))
        assert (await replica.request(name, b"after")).body == b"after"
        assert replica.transport.owner in inbox(replica)


async def test_a_service_whose_queue_is_deleted_makes_it_anew(url, replica, other, name):
    async with other.serve(name, echo):
        with channel_at(url) as channel:
            channel.queue_delete(name)
        await until(lambda: exists(url, name))
        assert (await replica.request(name, b"x")).body == b"x"
    assert other.transport.stats().reconnects == 0


async def test_a_broker_that_says_nothing_any_more_is_noticed(
    rabbitmq_server, url, name, monkeypatch
):
    monkeypatch.setattr(amqp_link, "HEARTBEAT", 1)
    async with Replica(url) as replica, replica.serve(name, echo):
        rabbitmq_server.pause()
        try:
            await until(lambda: not replica.transport.stats().connected)
        finally:
            rabbitmq_server.resume()
        await reconnected(replica)
        assert (await replica.request(name, b"x")).body == b"x"


async def test_leaving_takes_no_longer_than_it_may_when_the_broker_says_nothing(
    rabbitmq_server, url, name
):
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        replica = await stack.enter_async_context(Replica(url))
        await stack.enter_async_context(replica.serve(name, echo))
        rabbitmq_server.pause()
        try:
            before = loop.time()
            await stack.aclose()
        finally:
            rabbitmq_server.resume()
    assert loop.time() - before < 3 * amqp_taking.LEAVING


async def test_a_service_may_be_left_after_its_transport(url, name):
    async with contextlib.AsyncExitStack() as stack, Replica(url) as replica:
        await stack.enter_async_context(replica.serve(name, echo))


# -- connecting ----------------------------------------------------------------------------------


async def test_a_broker_that_is_not_there_is_told_at_once(unused_tcp_port):
    async with Correlator() as correlator:
        link = connect(f"amqp://user:s3cret@127.0.0.1:{unused_tcp_port}", correlator)
        with pytest.raises(ConnectionError, match=f"127.0.0.1:{unused_tcp_port}") as caught:
            async with link:
                pass
    assert "s3cret" not in "".join(map(str, [caught.value, caught.value.__cause__, link]))


async def test_a_wrong_password_is_told_and_shown_nowhere(url, caplog):
    caplog.set_level(logging.DEBUG)
    async with Correlator() as correlator:
        link = connect(url.replace(":guest@", ":s3cret@"), correlator)
        with pytest.raises(ConnectionError, match="403") as caught:
            async with link:
                pass
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r} {link!r} {caplog.text}"


async def test_what_is_no_broker_is_told():
    async def serve(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Correlator() as correlator:
        with pytest.raises(ConnectionError, match="no AMQP"):
            async with connect(f"amqp://127.0.0.1:{port}", correlator):
                pass


async def test_over_tls_with_an_authority_of_ones_own(start_rabbitmq_server, certificates, name):
    server = start_rabbitmq_server(tls=certificates)
    async with (
        Replica(server.url, ssl=certificates.client()) as replica,
        replica.serve(name, echo),
    ):
        large = bytes(1_000_000)
        assert (await replica.request(name, large)).body == large
    async with Correlator() as correlator:
        with pytest.raises(ConnectionError, match="(?i)certificate"):
            async with connect(server.url, correlator):
                pass


@pytest.mark.parametrize(
    ("url", "options", "error", "says"),
    [
        ("amqp://u:s3cret/x@host", {}, ValueError, "port"),
        ("amqp://u:s3cret@host:99999", {}, ValueError, "port"),
        ("amqp://u:s3cret@host/?heartbeat=5", {}, ValueError, "query"),
        ("amqp://u:s3cret@host/#a", {}, ValueError, "fragment"),
        ("amqp://host", {"prefix": "a*"}, ValueError, "^prefix must be 1 to 255"),
        ("amqp://host", {"prefix": ""}, ValueError, "^prefix must be 1 to 255"),
        ("amqp://host", {"prefix": "destination*"}, ValueError, "not 'destination\\*'"),
        ("amqp://host", {"prefix": 7}, TypeError, "^prefix must be a string"),
        ("amqp://host", {"prefix": "x" * 129}, ValueError, "prefix"),
        ("amqp://host", {"reply_ttl": 0}, ValueError, "reply_ttl"),
        ("amqp://host", {"reply_ttl": "60"}, TypeError, "reply_ttl"),
        ("amqp://host", {"reply_ttl": 5e6}, ValueError, "reply_ttl"),
        ("amqps://host", {"ssl": True}, TypeError, "ssl"),
        ("amqp://host", {"ssl": ssl.create_default_context()}, ValueError, "amqps"),
    ],
)
def test_bad_arguments_are_refused(url, options, error, says):
    with pytest.raises(error, match=says) as caught:
        connect(url, Correlator(), **options)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://host", ("host", 5672, "guest", "guest", "/")),
        ("amqps://host/", ("host", 5671, "guest", "guest", "/")),
        ("amqp://a%40b:c%2Fd@[::1]:7/my%2Fhost", ("::1", 7, "a@b", "c/d", "my/host")),
    ],
)
def test_where_a_url_leads(url, expected):
    broker = connect(url, Correlator())._broker
    assert (broker.host, broker.port, broker.user, broker.password, broker.vhost) == expected


# -- direct replies ------------------------------------------------------------------------------


# Both end the connection of who sends there: one that is no base64, and one of another cluster's.
FORGED = ["x.y", "g2dkABFhQGIAAAAAAAAA.AAAA=="]


@pytest.mark.parametrize("forged", FORGED)
async def test_a_forged_address_for_direct_replies_costs_no_other_traffic(
    url, replica, other, direct, name, forged
):
    started, go_on = asyncio.Event(), asyncio.Event()

    async def handler(message):
        if message.body == b"long":
            started.set()
            await go_on.wait()
        return message.body

    forged = f"amq.rabbitmq.reply-to.{forged}"
    # Each asks and serves: whatever connection of theirs is lost, something goes with it.
    async with (
        other.serve(name, handler),
        replica.serve(f"{name}-2", handler),
        contextlib.AsyncExitStack() as stack,
    ):
        stack.callback(go_on.set)
        asking = asyncio.create_task(other.request(f"{name}-2", b"long"))
        await started.wait()
        for times in range(1, 4):
            await asyncio.to_thread(publish, url, name, b"x", reply_to=forged, correlation_id="a")
            await until(lambda times=times: other.transport.stats().malformed == times)
            assert (await replica.request(name, b"hello")).body == b"hello"
        go_on.set()
        assert (await asking).body == b"long"
        direct.ask(name, b"honest")
        await direct.answered()
    assert direct.replies == [("any text: é", b"honest")]
    assert other.transport.stats().malformed == 3, "none came again"
    assert other.transport.stats().reconnects == replica.transport.stats().reconnects == 0
    assert waiting_in(url, name) == 0


async def test_a_request_for_a_direct_reply_that_comes_again_is_answered(other, direct, name):
    calls, go_on = [], asyncio.Event()

    async def handler(message):
        calls.append(message.body)
        await go_on.wait()
        return message.body

    async with other.serve(name, handler):
        direct.ask(name, b"x")
        await until(lambda: len(calls) == 1)
        cut(other)
        await until(lambda: len(calls) == 2)
        go_on.set()
        await direct.answered()
    assert direct.replies[0] == ("any text: é", b"x")


async def test_direct_replies_are_out_when_the_transport_is_left(url, direct, name):
    handled = []

    async def handler(message):
        handled.append(message.body)
        return message.body

    async with Replica(url) as replica:
        async with replica.serve(name, handler):
            for number in range(100):
                direct.ask(name, b"%d" % number)
            await until(lambda: len(handled) == 100)
        link = replica.transport._direct._link
        assert not link.lost, "one for all of them"
    assert link.lost
    await direct.answered(100)
    assert [body for _, body in direct.replies] == [b"%d" % number for number in range(100)]


async def test_a_handler_that_goes_on_when_the_transport_is_left_connects_no_more(
    direct, url, name
):
    started, go_on = asyncio.Event(), asyncio.Event()

    async def handler(message):
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await go_on.wait()
        await asyncio.sleep(0.1)  # really: so that the transport is gone
        return message.body

    async with Correlator() as correlator:
        transport = await connect(url, correlator).__aenter__()
        async with transport.serve(name, handler):
            direct.ask(name, b"x")
            await started.wait()
            await transport.__aexit__(None, None, None)
        link = transport._direct._link
        assert link is None or link.lost


async def test_a_direct_reply_that_cannot_be_sent_does_not_hold_up_the_others(
    other, direct, name, monkeypatch, caplog
):
    async def fails():
        raise ConnectionRefusedError

    async with other.serve(name, echo, concurrency=1):
        with monkeypatch.context() as broken:
            broken.setattr(other.transport._direct, "_dial", fails)
            direct.ask(name, b"lost")
            await until(lambda: "could not be sent: ConnectionRefusedError" in caplog.text)
        direct.ask(name, b"x")
        await direct.answered()
    assert direct.replies == [("any text: é", b"x")]
