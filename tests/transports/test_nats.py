"""What is NATS's own: foreign responders, hostile messages, and what we lean on of its client."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from correlator import Correlator, NoResponder, RequestRejected, RequestTimeout, new_request_id
from correlator.transports import Message, connect
from correlator.transports.nats_link import Link

from ..conftest import balanced
from .faults import through
from .proxy import Proxy

FOREIGN = Path(__file__).parent / "foreign"
PATIENCE = 20.0


@contextmanager
def running(program, *arguments):
    """Run a foreign program until it says that it is ready, and then for the block."""
    process = subprocess.Popen(  # noqa: S603  # our own code
        [sys.executable, FOREIGN / program, *arguments], stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


@pytest.fixture
async def correlator():
    async with Correlator(timeout=PATIENCE) as correlator:
        yield correlator
        balanced(correlator)


@pytest.fixture
async def transport(nats_server, correlator):
    async with connect(nats_server.url, correlator) as transport:
        yield transport


@pytest.fixture
async def client(nats_server):
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


@pytest.fixture
def subject():
    return f"foreign.{new_request_id()}"


async def test_a_plain_responder_answers_us_as_it_is(nats_server, transport, subject):
    with running("nats_responder.py", nats_server.url, subject):
        replies = await asyncio.gather(
            *(transport.request(subject, b"hello %d" % number) for number in range(200))
        )
    assert [reply.body for reply in replies] == [b"HELLO %d" % n for n in range(200)]


async def test_a_service_s_error_headers_are_a_rejection(nats_server, transport, subject):
    with running("nats_service.py", nats_server.url, subject):
        reply = await transport.request(subject, b"good", content_type="text/plain")
        assert (reply.body, reply.headers["Seen"]) == (b"GOOD", "yes")
        with pytest.raises(RequestRejected, match="422") as caught:
            await transport.request(subject, b"bad")
    assert caught.value.reply.body == b"because"
    assert caught.value.reply.headers["Nats-Service-Error"] == "that is bad"
    assert "that is bad" not in str(caught.value)


async def test_a_plain_requester_is_answered_by_us(transport, client, subject):
    async def handler(message):
        if message.body == b"bad":
            raise ValueError("a secret")
        return Message(message.body[::-1], {"Seen": "yes"})

    async with transport.serve(subject, handler):
        answer = await client.request(subject, b"abc", timeout=PATIENCE)
        assert (answer.data, answer.headers) == (b"cba", {"Seen": "yes"})
        answer = await client.request(subject, b"bad", timeout=PATIENCE)
        assert answer.headers == {
            "Nats-Service-Error": "ValueError",
            "Nats-Service-Error-Code": "500",
        }


async def test_a_request_without_a_reply_subject_is_done_and_not_answered(
    transport, client, subject
):
    done = asyncio.Event()

    async def handler(_message):
        done.set()
        return b""

    async with transport.serve(subject, handler):
        await client.publish(subject, b"x")
        await asyncio.wait_for(done.wait(), PATIENCE)


@pytest.mark.parametrize(
    "command",
    [
        b"HPUB {} 6 6\r\nno/1.0\r\n",
        b"HPUB {} 22 22\r\nNATS/1.0\r\nno colon\r\n\r\n\r\n",
        b"HPUB {} 19 19\r\nNATS/1.0\r\n\xff\xfe: b\r\n\r\n\r\n",
    ],
)
async def test_a_malformed_reply_costs_itself_and_is_counted(
    transport, correlator, client, subject, command
):
    with correlator.register() as pending:
        address = f"{transport._address}.{pending.request_id}".encode()
        await client._send_command(command.replace(b"{}", address))
        await client._flush_pending()
        async with asyncio.timeout(PATIENCE):
            while not transport.stats().malformed:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.005)
        assert pending.outcome is None
        await client.publish(address.decode(), b"good")
        assert (await pending).body == b"good"


@pytest.mark.parametrize(
    "last",
    [b"", b"unknown", b"a.b", "\u2028".encode(), b"\xff\xfe", b"~5", b"+1", b"x" * 1000, b"a\x0bb"],
)
async def test_a_reply_to_no_id_of_ours_settles_nothing(transport, correlator, client, last):
    with correlator.register() as pending:
        for dot in (b".", b""):
            subject = transport._address.encode() + dot + last
            await client._send_command(b"PUB %b 1\r\nx\r\n" % subject)
        await client._flush_pending()
        await client.publish(f"{transport._address}.{pending.request_id}", b"good")
        assert (await pending).body == b"good"


async def test_a_reply_says_whom_it_is_for_however_much_time_was_left(
    transport, correlator, client
):
    with correlator.register() as pending:
        await client.publish(f"{transport._address}.{pending.request_id}~4711", b"good")
        assert (await pending).body == b"good"


async def test_a_body_that_the_server_would_not_take_costs_itself(transport, subject):
    with pytest.raises(RequestRejected) as caught:
        await transport.request(subject, b"x" * (transport._nats.max_payload + 1))
    assert "MaxPayload" in type(caught.value.__cause__).__name__
    with pytest.raises(NoResponder):
        await transport.request(subject, b"x")


async def test_an_answer_that_the_server_would_not_take_is_an_error_reply(transport, subject):
    async def handler(_message):
        return b"x" * (transport._nats.max_payload + 1)

    async with transport.serve(subject, handler):
        with pytest.raises(RequestRejected, match="500") as caught:
            await transport.request(subject, b"x")
    assert caught.value.reply.headers["Nats-Service-Error"] == "MaxPayloadError"


async def test_headers_count_for_what_the_server_takes(transport, subject):
    """It would end the connection, with all that others have under way."""
    body = b"x" * transport._nats.max_payload
    with pytest.raises(RequestRejected):
        await transport.request(subject, body, headers={"A": "b"})
    with pytest.raises(NoResponder):
        await transport.request(subject, body)
    assert transport.stats().reconnects == 0


async def test_a_reply_that_the_server_would_not_take_cannot_be_forwarded(transport):
    reply = Message(b"x" * (transport._nats.max_payload + 1))
    with pytest.raises(ConnectionError, match="MaxPayload"):
        await transport.forward("replica-0", "0" * 32, reply)


@pytest.mark.parametrize("destination", [".", "a.", ".a", "a..b"])
async def test_a_destination_with_an_empty_part_is_refused(transport, correlator, destination):
    with pytest.raises(ValueError, match="destination"):
        await transport.request(destination, b"")
    assert correlator.stats().registered == 0


async def test_more_servers_may_be_named(nats_server, subject):
    servers = ["nats://127.0.0.1:1", nats_server.url]
    async with Correlator(timeout=PATIENCE) as correlator:
        options = {"servers": servers, "dont_randomize": True}
        with pytest.raises(NoResponder):
            async with connect(nats_server.url, correlator, client_options=options) as transport:
                await transport.request(subject, b"")


async def test_an_option_that_the_client_has_not_is_named(correlator):
    with pytest.raises(TypeError, match="client_options.*nope"):
        connect("nats://127.0.0.1", correlator, client_options={"nope": 1})


async def test_a_client_that_gives_up_is_replaced(transport, subject):
    """As it does where the server sends an error that it takes for the end."""

    async def echo(message):
        return message.body

    async with transport.serve(subject, echo):
        await transport.request(subject, b"x")
        former = transport._nats
        await former._process_err("'some other error'")
        async with asyncio.timeout(PATIENCE):
            while transport._nats is former or not transport.stats().connected:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)
        assert (await transport.request(subject, b"again")).body == b"again"
    assert transport.stats().reconnects == 1


async def test_a_server_that_is_stopped_ends_requests_at_their_deadline(start_nats_server):
    server = start_nats_server()
    async with Correlator() as correlator, connect(server.url, correlator) as transport:
        server.pause()
        with pytest.raises(RequestTimeout):
            await transport.request("nobody", b"", timeout=0.3)
        server.resume()
        with pytest.raises(NoResponder):
            await transport.request("nobody", b"", timeout=PATIENCE)


async def test_a_server_that_is_slow_to_see_it_come_back_is_waited_for(
    nats_server, monkeypatch, subject
):
    monkeypatch.setattr("correlator.transports.nats_link.PING", 0.2)
    monkeypatch.setattr(Link.sync, "__defaults__", (0.2,))
    async with (
        Proxy(nats_server.port) as proxy,
        Correlator(timeout=PATIENCE) as correlator,
        connect(through(proxy, nats_server), correlator) as transport,
    ):
        proxy.delay(0.5)  # so that each wait for the server's answer is too short
        proxy.cut()
        async with asyncio.timeout(PATIENCE):
            while transport.stats().connected:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)
            await asyncio.sleep(2.0)  # really: so that it has tried in vain
            assert not transport.stats().connected
            proxy.delay(0.0)
            with pytest.raises(NoResponder):
                await transport.request(subject, b"")
        assert transport.stats().reconnects == 1


async def test_nothing_goes_out_before_the_server_has_answered_to_the_new_subscriptions(
    nats_server, subject
):
    """The client calls itself connected sooner, and what it subscribes anew may be on its way."""
    back = asyncio.Event()
    async with (
        Proxy(nats_server.port) as proxy,
        Correlator(timeout=PATIENCE) as correlator,
        connect(through(proxy, nats_server), correlator) as transport,
    ):
        client = transport._nats
        reconnected = client._reconnected_cb

        async def frozen():
            proxy.freeze()  # so that no answer comes to what is sent from now on
            back.set()
            await reconnected()

        client._reconnected_cb = frozen
        proxy.cut()
        async with asyncio.timeout(PATIENCE):
            await back.wait()
            asking = asyncio.create_task(transport.request(subject, b""))
            await asyncio.sleep(0.1)  # really: what does not wait takes a turn or two
            assert client.is_connected
            assert not transport.stats().connected
            assert transport.stats().sent == 0
            proxy.thaw()
            with pytest.raises(NoResponder):
                await asking
        assert transport.stats().connected


@asynccontextmanager
async def a_forward_under_way(server):
    """Give what forwards, and the proxy and the transport by which it does not get through."""
    async with (
        Proxy(server.port) as proxy,
        Correlator() as correlator,
        connect(through(proxy, server), correlator) as transport,
    ):
        proxy.freeze()
        forwarding = asyncio.create_task(
            transport.forward("replica-0", "0" * 32, Message(b"x"), timeout=PATIENCE)
        )
        async with asyncio.timeout(PATIENCE):
            while not transport._forwards:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.005)
            yield forwarding, proxy, transport


async def test_a_forward_that_is_under_way_when_the_connection_is_lost_is_told_at_once(nats_server):
    async with a_forward_under_way(nats_server) as (forwarding, proxy, transport):
        proxy.cut()
        with pytest.raises(ConnectionError, match="the connection was lost"):
            await forwarding
        proxy.thaw()
        assert transport._forwards == {}
        assert transport.stats().forwarded == 0


async def test_a_forward_that_is_under_way_when_the_client_gives_up_is_told_at_once(nats_server):
    async with a_forward_under_way(nats_server) as (forwarding, proxy, transport):
        await transport._nats._process_err("'some other error'")
        with pytest.raises(ConnectionError, match="the connection was lost"):
            await forwarding
        proxy.thaw()


@pytest.mark.parametrize("turns", range(30))
async def test_a_cancellation_while_it_connects_is_never_lost(nats_server, turns):
    async with Correlator() as correlator:
        before = asyncio.all_tasks()
        transport = connect(nats_server.url, correlator)
        entering = asyncio.create_task(transport.__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        if not entering.cancel():
            await transport.__aexit__(None, None, None)
        else:
            with pytest.raises(asyncio.CancelledError):
                await entering
        async with asyncio.timeout(PATIENCE):
            while asyncio.all_tasks() != before:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)


async def test_leaving_does_not_hang_on_a_server_that_is_stopped(start_nats_server):
    server = start_nats_server()
    async with Correlator() as correlator, asyncio.timeout(PATIENCE):
        async with connect(server.url, correlator):
            server.pause()
        server.resume()


def test_what_we_lean_on_of_the_client_is_there():
    """These are inner names: a release without them must fail here, and not at a user's."""
    for name in ("_process_err", "_send_command", "_flush_pending"):
        assert inspect.iscoroutinefunction(getattr(Client, name))
    client = Client()
    assert client._pongs == client._pending == []
    assert "max_reconnect_attempts" not in client.options or client.options
