"""RedisTransport: what is its own, against a real server: streams, groups, reconnecting."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import redis

from correlator import Correlator, CorrelatorClosed, RequestRejected, RequestTimeout
from correlator.transports import Message, connect, redis_intake, redis_link
from correlator.transports import redis as redis_module
from correlator.transports.redis_link import Link, pack
from correlator.transports.redis_server import Server

from ..conftest import balanced
from .proxy import Proxy

PATIENCE = 20.0  # seconds for what is to come at once
FOREIGN = Path(__file__).parent / "foreign" / "redis_worker.py"


@pytest.fixture
def name(request):
    """A destination of the test's own."""
    return "".join(each if each.isalnum() else "-" for each in request.node.name)[:200]


@pytest.fixture
def client(valkey_server):
    """Another client of the same server, which sees what lies there."""
    with plain(valkey_server) as client:
        yield client


def plain(server):
    return redis.Redis(port=server.port, protocol=2)


@contextlib.asynccontextmanager
async def entered(url, *, timeout=PATIENCE, **options):
    async with Correlator(timeout=timeout) as correlator:
        async with connect(url, correlator, **options) as transport:
            yield transport
        balanced(correlator)


@pytest.fixture
async def asking(valkey_server):
    async with entered(valkey_server.url) as transport:
        yield transport


@pytest.fixture
async def serving(valkey_server):
    async with entered(valkey_server.url, replica="serving") as transport:
        yield transport


@pytest.fixture
def quick(monkeypatch):
    """A silent server is noticed in fractions of a second."""
    monkeypatch.setattr(redis_link, "TIMEOUT", 0.3)
    monkeypatch.setattr(redis_module, "BLOCK", 0.2)
    monkeypatch.setattr(redis_intake, "BLOCK", 0.2)
    monkeypatch.setattr(redis_module, "_BEAT", 0.1)


@contextlib.contextmanager
def foreign_worker(server, destination):
    """Runs one; in the end, the list has the ids that it has answered."""
    command = [sys.executable, str(FOREIGN), f"redis://127.0.0.1:{server.port}", destination]
    answered = []
    with (
        tempfile.TemporaryFile("w+") as written,
        subprocess.Popen(command, stdout=written) as worker,  # noqa: S603  # it is ours
    ):
        try:
            yield answered
            assert worker.poll() is None
        finally:
            worker.kill()
            worker.wait()
            written.seek(0)
            answered += written.read().split()


async def echo(message):
    return message.body


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # there is no event in a server
            await asyncio.sleep(0.005)  # really: a broker's time cannot be moved


def replies_of(transport):
    return f"correlator:replies:{transport.owner}"


def raw(reply_to, *, request_id="r-1", **fields):
    return {"id": request_id, "reply_to": reply_to, "body": "x"} | fields


# -- what goes over the wire -----------------------------------------------------------------------


async def test_a_request_is_an_entry_with_these_fields(asking, client, name):
    request = asyncio.create_task(
        asking.request(name, b"\xff", timeout=7, headers={"A": "é"}, content_type="text/plain")
    )
    await until(lambda: client.exists(name))
    [(_, fields)] = client.xrange(name)
    (pending,) = asking._correlator.pending()
    assert 6000 < int(fields.pop(b"timeout_ms")) <= 7000
    assert fields == {
        b"id": pending.request_id.encode(),
        b"reply_to": replies_of(asking).encode(),
        b"body": b"\xff",
        b"content_type": b"text/plain",
        b"h:A": "é".encode(),
    }
    client.xadd(
        fields[b"reply_to"],
        {"id": fields[b"id"], "body": b"\xfe", "content_type": "a/b", "h:C": "d", "other": "e"},
        nomkstream=True,
    )
    assert await request == Message(b"\xfe", {"C": "d"}, "a/b")


async def test_a_worker_in_plain_redis_py_answers(asking, valkey_server, name):
    with foreign_worker(valkey_server, name):
        assert (await asking.request(name, b"hello")).body == b"HELLO"
        with pytest.raises(RequestRejected, match="422") as caught:
            await asking.request(name, b"fail")
    assert caught.value.reply.headers["Correlator-Error"] == "Refused"


async def test_a_client_in_plain_redis_py_is_answered(serving, client, name):
    client.xgroup_create("their:own:replies", "any", mkstream=True)
    async with serving.serve(name, echo):
        client.xadd(name, raw("their:own:replies"))
        await until(lambda: client.xlen("their:own:replies"))
    [(_, fields)] = client.xrange("their:own:replies")
    assert fields == {b"id": b"r-1", b"body": b"x"}
    client.delete("their:own:replies")


async def test_an_owner_that_does_not_read_gets_no_more_replies_than_are_kept(
    serving, client, name
):
    serving._maxlen = 50
    address = f"{name}:replies:nobody-0"
    client.xgroup_create(address, "any", mkstream=True)
    async with serving.serve(name, echo):
        for number in range(1_000):
            client.xadd(name, raw(address, id=f"r-{number}"))
        await until(lambda: not client.xlen(name))
    # The server takes whole nodes of a hundred away.
    assert 50 <= client.xlen(address) <= 250
    client.delete(address)


async def test_what_the_server_refuses_costs_its_own_request(asking, serving, client, name):
    client.set(f"{name}:taken", "not a stream")
    async with serving.serve(name, echo):
        bad, good = await asyncio.gather(
            asking.request(f"{name}:taken", b""),
            asking.request(name, b"good"),
            return_exceptions=True,
        )
    assert isinstance(bad, RequestRejected)
    assert isinstance(bad.__cause__, redis.ResponseError)
    assert good.body == b"good"


# -- the reply stream ------------------------------------------------------------------------------


async def test_the_reply_stream_has_an_end_and_goes_with_its_owner(valkey_server, client):
    async with entered(valkey_server.url, prefix="other", reply_ttl=10) as transport:
        key = f"other:replies:{transport.owner}"
        assert client.type(key) == b"stream"
        assert client.xlen(key) == 0
        assert client.xinfo_groups(key) == []
        assert 9_000 < client.pttl(key) <= 10_000
    assert not client.exists(key)


async def test_the_heartbeat_keeps_the_reply_stream(valkey_server, client):
    async with entered(valkey_server.url, reply_ttl=1) as transport:
        await asyncio.sleep(1.5)  # really: it is the server that counts
        assert client.pttl(replies_of(transport)) > 300
        assert transport.stats().reconnects == 0


@pytest.mark.usefixtures("quick")
async def test_a_reply_stream_that_got_lost_is_made_again(valkey_server, serving, client, name):
    async with entered(valkey_server.url) as asking, serving.serve(name, echo):
        await asking.request(name, b"")
        client.delete(replies_of(asking))
        await until(lambda: client.exists(replies_of(asking)))
        assert (await asking.request(name, b"again")).body == b"again"


async def test_replies_that_were_read_do_not_stay(asking, serving, client, name):
    async with serving.serve(name, echo):
        for _ in range(10):
            await asyncio.gather(*(asking.request(name, b"") for _ in range(100)))
    assert client.xlen(replies_of(asking)) <= 300


@pytest.mark.parametrize(
    "fields",
    [
        {"body": "no id"},
        {"id": "0" * 32},
        {"id": b"\xff", "body": "x"},
        {"id": "a b\n", "body": "x"},
        {"id": "0" * 32, "body": "x", b"h:\xff": "x"},
        {"id": "0" * 32, "body": "x", "h:a b": "x"},
        {"id": "0" * 32, "body": "x", "h:A": "b\r\nC: d"},
        {"id": "0" * 32, "body": "x", "content_type": "a\nb"},
    ],
)
async def test_a_malformed_reply_costs_itself_and_is_counted(asking, client, fields, caplog):
    with asking._correlator.register("0" * 32) as pending:
        client.xadd(replies_of(asking), fields)
        client.xadd(replies_of(asking), {"id": "0" * 32, "body": "good"})
        assert (await pending).body == b"good"
    assert asking.stats().malformed == 1
    assert "\n" not in caplog.messages[0]


async def test_a_reply_for_an_owner_elsewhere_reaches_it_or_nobody(asking, serving, client):
    with asking._correlator.register("0" * 32) as pending:
        assert await serving.forward(asking.owner, "0" * 32, Message(b"here"))
        assert (await pending).body == b"here"
    assert not await serving.forward("gone-0", "0" * 32, Message(b"here"))
    assert not client.exists("correlator:replies:gone-0")
    assert serving.stats().forwarded == 1


# -- connections that break ------------------------------------------------------------------------


async def killing(server, count=15):
    for _ in range(count):
        await asyncio.sleep(0.1)  # really: the two sides are to get some way in between
        server.kill_connections()


async def test_no_reply_of_a_foreign_worker_is_lost_when_connections_are_killed(
    valkey_server, name
):
    resolved = set()

    async with entered(valkey_server.url, timeout=4) as asking:

        async def ask(number):
            # Really: so that some are under way whenever the connections are killed.
            await asyncio.sleep(number * 0.0008)
            with contextlib.suppress(RequestTimeout):
                reply = await asking.request(name, b"x", headers={"Number": str(number)})
                resolved.add(reply.headers["Id"])

        with foreign_worker(valkey_server, name) as answered:
            await asyncio.gather(killing(valkey_server), *map(ask, range(2000)))
        stats = balanced(asking._correlator)
        assert asking.stats().reconnects > 5
    # A reply that was sent twice, since the worker did not hear of the first, settled once; and
    # on a slow machine one may have come when its time was up.
    assert len(set(answered) - resolved) <= stats.late
    # A request may be lost, in the very moment in which its connection is killed.
    assert stats.resolved + stats.timed_out == 2000
    assert stats.resolved > 1500


async def test_no_reply_of_ours_is_lost_when_connections_are_killed(valkey_server, name):
    handled = set()

    async def handler(message):
        handled.add(message.body)
        await asyncio.sleep(0.005)  # really: so that it is killed with some at work
        return message.body

    async with (
        entered(valkey_server.url, timeout=4) as asking,
        entered(valkey_server.url) as serving,
        serving.serve(name, handler),
    ):

        async def ask(number):
            await asyncio.sleep(number * 0.0008)  # really: as above
            with contextlib.suppress(RequestTimeout):
                await asking.request(name, b"%d" % number)

        await asyncio.gather(killing(valkey_server), *map(ask, range(2000)))
        stats = balanced(asking._correlator)
        assert stats.resolved <= len(handled) <= stats.resolved + stats.late
        assert stats.resolved + stats.timed_out == 2000
        assert stats.resolved > 1500


async def test_a_reply_that_was_sent_while_its_owner_was_away_is_delivered(
    valkey_server, client, name
):
    async with Proxy(valkey_server.port) as proxy, entered(f"redis://127.0.0.1:{proxy.port}") as us:
        request = asyncio.create_task(us.request(name, b""))
        await until(lambda: client.xlen(name) if client.exists(name) else 0)
        proxy.refuse()
        proxy.cut()
        await until(lambda: not us.stats().connected)
        [(_, fields)] = client.xrange(name)
        client.xadd(fields[b"reply_to"], {"id": fields[b"id"], "body": "waited"})
        assert not request.done()
        proxy.accept()
        assert (await request).body == b"waited"
        assert us.stats().connected
        assert us.stats().reconnects == 1


async def test_a_server_that_forgets_everything_is_used_again(start_valkey_server, name):
    server = start_valkey_server()
    async with (
        entered(server.url) as asking,
        entered(server.url) as serving,
        serving.serve(name, echo),
    ):
        await asking.request(name, b"")
        # As if the clock of the next server were behind that of this one.
        asking._last = b"9999999999999-0"
        waiting = asyncio.create_task(asking.request(f"{name}:nobody", b""))
        await until(lambda: asking.stats().sent == 2)
        server.restart()
        await until(lambda: asking.stats().reconnects and serving.stats().reconnects)
        assert (await asking.request(name, b"again")).body == b"again"
        assert not waiting.done()
        waiting.cancel()


async def test_with_fail_pending_requests_end_when_the_connection_does(valkey_server, name):
    async with entered(valkey_server.url, on_disconnect="fail") as asking:
        request = asyncio.create_task(asking.request(name, b""))
        await until(lambda: asking.stats().sent == 1)
        valkey_server.kill_connections()
        with pytest.raises(CorrelatorClosed):
            await request
        await until(lambda: asking.stats().connected)
        async with asking.serve(name, echo):
            assert (await asking.request(name, b"again")).body == b"again"


@pytest.mark.usefixtures("quick")
async def test_a_server_that_stalls_holds_nobody_and_is_used_again(start_valkey_server, name):
    server = start_valkey_server()
    async with (
        entered(server.url) as asking,
        entered(server.url) as serving,
        serving.serve(name, echo),
    ):
        await asking.request(name, b"")
        server.pause()
        with pytest.raises(RequestTimeout):
            # More than the kernel buffers, so that it cannot even be written.
            await asking.request(f"{name}:large", b"x" * 30_000_000, timeout=0.5)
        await until(lambda: not (asking.stats().connected or serving.stats().connected))
        server.resume()
        assert (await asking.request(name, b"again")).body == b"again"
        with plain(server) as client:  # what nobody waits for any more is not sent after all
            assert not client.exists(f"{name}:large")


@pytest.mark.usefixtures("quick")
async def test_a_server_that_stalls_does_not_keep_us_from_leaving(start_valkey_server, name):
    server = start_valkey_server()
    async with contextlib.AsyncExitStack() as stack:
        serving = await stack.enter_async_context(entered(server.url))
        await stack.enter_async_context(serving.serve(name, echo))
        server.pause()
        before = asyncio.get_running_loop().time()
        await stack.aclose()
        assert asyncio.get_running_loop().time() - before < 3


@pytest.mark.usefixtures("quick")
async def test_a_connection_that_goes_silent_is_noticed(valkey_server):
    async with Proxy(valkey_server.port) as proxy, entered(f"redis://127.0.0.1:{proxy.port}") as us:
        proxy.freeze()
        await until(lambda: not us.stats().connected)
        proxy.thaw()
        await until(lambda: us.stats().connected)


async def test_a_request_is_never_sent_twice(valkey_server, client, name):
    async with (
        Proxy(valkey_server.port) as proxy,
        entered(f"redis://127.0.0.1:{proxy.port}", timeout=1) as us,
    ):
        # The server takes it, and what it answers is lost.
        proxy.cut_after(0, "down")
        with pytest.raises(RequestTimeout):
            await us.request(name, b"")
        assert us.stats().connected
    assert client.xlen(name) == 1


async def test_when_only_the_writing_breaks_both_connections_are_seen_to_at_once(asking):
    before = asyncio.get_running_loop().time()
    asking._broken()
    assert not asking.stats().connected
    await until(lambda: asking.stats().connected)
    assert asyncio.get_running_loop().time() - before < redis_link.BLOCK / 2


async def test_a_break_is_seen_by_a_reader_that_was_not_reading_just_then(asking):
    asking._disconnected()  # and nothing interrupts it
    await until(lambda: asking.stats().connected)


def breaking(transport, word):
    """Have the connection break, once, when something with this word was written to it."""
    link = transport._writer
    call = link.call

    async def breaks(*commands):
        answers = await call(*commands)
        if any(word in command for command in commands):
            link.call = call
            link.interrupt()
            raise ConnectionError("lost")
        return answers

    link.call = breaks


async def test_with_fail_a_request_ends_when_its_writing_breaks(valkey_server, name):
    async with entered(valkey_server.url, on_disconnect="fail") as asking:
        breaking(asking, b"XADD")
        with pytest.raises(CorrelatorClosed):
            await asking.request(name, b"")


async def test_an_answer_is_sent_again_when_its_writing_breaks(asking, serving, client, name):
    async with serving.serve(name, echo):
        breaking(serving, b"NOMKSTREAM")
        assert (await asking.request(name, b"x")).body == b"x"
        await until(lambda: asking._correlator.stats().duplicate == 1)
    assert client.xlen(name) == 0


async def test_whoever_forwards_is_told_when_the_writing_breaks(asking, serving):
    breaking(serving, b"NOMKSTREAM")
    with pytest.raises(ConnectionError):
        await serving.forward(asking.owner, "0" * 32, Message(b""))
    assert await serving.forward(asking.owner, "0" * 32, Message(b""))


async def test_a_connection_that_ended_while_idle_costs_no_request(asking, serving, client, name):
    async with serving.serve(name, echo):
        await asking.request(name, b"")
        peer = asking._writer._answers._transport.get_extra_info("sockname")
        client.client_kill_filter(addr=f"{peer[0]}:{peer[1]}")
        await until(lambda: asking._writer._answers.ended)
        assert (await asking.request(name, b"again")).body == b"again"


async def test_what_was_interrupted_leaves_no_answer_to_the_next(valkey_server, name):
    link = Link(Server("127.0.0.1", valkey_server.port, 0, None, None, None))
    try:
        waiting = asyncio.create_task(
            link.call(pack("BLPOP", name, 0), pack("ECHO", "theirs"), block=9)
        )
        await until(lambda: link._answers is not None and link._answers._all is not None)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await link.call(pack("ECHO", "ours")) == [b"ours"]
    finally:
        await link.close()


# -- writing and reading at once -------------------------------------------------------------------


def written(transport, monkeypatch):
    """Return a list of all that is written from now on, one after the other."""
    writes = []
    call = transport._writer.call

    async def writing(*commands):
        writes.append(b"".join(commands))
        return await call(*commands)

    monkeypatch.setattr(transport._writer, "call", writing)
    return writes


async def test_what_is_asked_at_once_is_one_write_and_so_are_answers_and_acknowledgements(
    asking, serving, name, monkeypatch
):
    async with serving.serve(name, echo):
        await asking.request(name, b"")
        writes, answers = written(asking, monkeypatch), written(serving, monkeypatch)
        await asyncio.gather(*(asking.request(name, b"") for _ in range(40)))
    assert [write.count(b"XADD") for write in writes] == [40]
    assert [write.count(b"XADD") for write in answers] == [40]
    assert [(write.count(b"XACK"), write.count(b"XDEL")) for write in answers] == [(1, 1)]
    assert answers[0].rindex(b"XADD") < answers[0].index(b"XACK")


async def test_what_is_large_goes_in_several_writes(asking, serving, name, monkeypatch):
    monkeypatch.setattr(redis_module, "_LARGE", 1_000)
    writes, answers = written(asking, monkeypatch), written(serving, monkeypatch)
    async with serving.serve(name, echo):
        bodies = [b"%03d" % number * 100 for number in range(20)]
        replies = await asyncio.gather(*(asking.request(name, body) for body in bodies))
    assert [reply.body for reply in replies] == bodies
    for each in writes, answers:
        assert len(each) >= 6
        assert max(map(len, each)) < 1_000 + 600 + 300


async def test_when_one_of_several_writes_breaks_the_others_go_out(
    asking, serving, name, monkeypatch
):
    monkeypatch.setattr(redis_module, "_LARGE", 1_000)
    connected = []
    write_part = asking._write_part

    async def writing(*part):
        connected.append(asking.stats().connected)
        await write_part(*part)

    monkeypatch.setattr(asking, "_write_part", writing)
    async with serving.serve(name, echo):
        breaking(asking, b"number-4")
        bodies = [b"number-%d " % number * 50 for number in range(10)]
        replies = await asyncio.gather(*(asking.request(name, body) for body in bodies))
    assert [reply.body for reply in replies] == bodies
    assert asking.stats().reconnects == 1
    assert len(connected) >= 3
    assert all(connected)


async def test_replies_that_were_written_at_once_are_read_at_once(
    asking, serving, name, monkeypatch
):
    reads = []
    call = asking._reader.call

    async def reading(*commands, block):
        answers = await call(*commands, block=block)
        reads.append(len(answers[-1][0][1]) if answers[-1] else 0)
        return answers

    async with serving.serve(name, echo):
        for _ in range(2):  # the first one is how it learns that there are many
            await asyncio.gather(*(asking.request(name, b"") for _ in range(40)))
        monkeypatch.setattr(asking._reader, "call", reading)
        for _ in range(20):  # a busy machine may let the responder write them in two parts
            await asyncio.gather(*(asking.request(name, b"") for _ in range(40)))
            if 40 in reads:
                break
    assert 40 in reads


async def test_what_is_too_large_costs_its_own_request(asking, serving, name, monkeypatch):
    monkeypatch.setattr(redis_module, "_MAX_BODY", 100)
    async with serving.serve(name, echo):
        bad, good = await asyncio.gather(
            asking.request(name, b"x" * 101),
            asking.request(name, b"x" * 100),
            return_exceptions=True,
        )
    assert isinstance(bad, RequestRejected)
    assert str(bad.__cause__) == "a body of 101 bytes is too large: Redis takes 100"
    assert good.body == b"x" * 100
    with pytest.raises(ConnectionError, match="could not forward"):
        await asking.forward(serving.owner, "0" * 32, Message(b"x" * 101))


async def test_an_answer_that_is_too_large_is_not_tried_again(
    asking, serving, client, name, monkeypatch, caplog
):
    monkeypatch.setattr(redis_module, "_MAX_BODY", 100)

    async def handler(_message):
        return b"x" * 101

    async with serving.serve(name, handler):
        with pytest.raises(RequestTimeout):
            await asking.request(name, b"", timeout=0.3)
        await until(lambda: client.xlen(name) == 0)
    assert client.xpending(name, "workers")["pending"] == 0
    assert "101 bytes" in caplog.text


async def test_after_a_slow_read_the_next_is_for_fewer(asking, serving, name, monkeypatch):
    async with serving.serve(name, echo):
        await asking.request(name, b"")
        monkeypatch.setattr(redis_module, "_SLOW", -10.0)  # then every read is
        await asking.request(name, b"")
        assert asking._count < redis_module._READ
        monkeypatch.setattr(redis_module, "_SLOW", 10.0)
        for _ in range(5):
            await asyncio.gather(*(asking.request(name, b"%d" % each) for each in range(50)))
        assert asking._count == redis_module._READ


# -- serving ---------------------------------------------------------------------------------------


async def test_what_was_answered_is_out_of_the_stream_and_who_leaves_out_of_the_group(
    asking, serving, client, name
):
    async with serving.serve(name, echo):
        await asyncio.gather(*(asking.request(name, b"") for _ in range(50)))
        [consumer] = client.xinfo_consumers(name, "workers")
        assert consumer["name"] == serving.owner.encode()
    assert client.xlen(name) == 0
    assert client.xpending(name, "workers")["pending"] == 0
    assert client.xinfo_consumers(name, "workers") == []


async def test_2000_in_flight_at_once(asking, serving, name):
    async with serving.serve(name, echo):
        bodies = [b"%d" % number for number in range(2000)]
        replies = await asyncio.gather(*(asking.request(name, body) for body in bodies))
    assert [reply.body for reply in replies] == bodies


async def test_requests_that_came_before_the_first_worker_are_answered(asking, serving, name):
    request = asyncio.create_task(asking.request(name, b"early"))
    await until(lambda: asking.stats().sent == 1)
    async with serving.serve(name, echo):
        assert (await request).body == b"early"


async def test_time_in_the_stream_counts_by_the_brokers_clock(serving, client, name):
    done = []

    async def handler(message):
        done.append(message.body)
        return b""

    now = client.time()[0] * 1000
    client.xadd(name, raw("r", timeout_ms=30_000) | {"body": "late"}, id=f"{now - 31_000}-0")
    client.xadd(name, raw("r", timeout_ms=30_000) | {"body": "in time"}, id=f"{now - 10_000}-0")
    async with serving.serve(name, handler):
        await until(lambda: client.xlen(name) == 0)
    assert done == [b"in time"]


@pytest.mark.usefixtures("quick")
async def test_what_a_crashed_worker_left_is_claimed(asking, serving, client, name, monkeypatch):
    monkeypatch.setattr(redis_intake, "_IDLE", 0.05)
    request = asyncio.create_task(asking.request(name, b"left"))
    await until(lambda: asking.stats().sent == 1)
    client.xgroup_create(name, "workers", "0")
    assert client.xreadgroup("workers", "crashed", {name: ">"})
    async with serving.serve(name, echo):
        assert (await request).body == b"left"
    assert client.xpending(name, "workers")["pending"] == 0


@pytest.mark.usefixtures("quick")
async def test_what_is_at_work_is_not_claimed_by_others(valkey_server, name, monkeypatch):
    monkeypatch.setattr(redis_intake, "_IDLE", 0.4)
    calls = 0

    async def handler(_message):
        nonlocal calls
        calls += 1
        await asyncio.sleep(1.2)  # really: it is the server that counts
        return b"done"

    async with (
        entered(valkey_server.url) as one,
        entered(valkey_server.url) as two,
        one.serve(name, handler, concurrency=1),
    ):
        request = asyncio.create_task(two.request(name, b""))
        await until(lambda: calls)
        async with two.serve(name, handler):
            assert (await request).body == b"done"
    assert calls == 1


async def test_what_was_delivered_and_got_lost_on_the_way_is_taken_again(
    asking, serving, client, name
):
    request = asyncio.create_task(asking.request(name, b"lost"))
    await until(lambda: asking.stats().sent == 1)
    client.xgroup_create(name, "workers", "0")
    assert client.xreadgroup("workers", serving.owner, {name: ">"})
    async with serving.serve(name, echo):
        assert (await request).body == b"lost"


async def test_what_is_at_work_when_the_connection_breaks_is_not_done_again(
    valkey_server, asking, serving, name
):
    done, go_on = [], asyncio.Event()

    async def handler(message):
        done.append(message.body)
        if message.body == b"first":
            await go_on.wait()
        return message.body

    async with serving.serve(name, handler):
        first = asyncio.create_task(asking.request(name, b"first"))
        await until(lambda: done)
        valkey_server.kill_connections()
        await until(lambda: asking.stats().reconnects)
        await asking.request(name, b"second")  # comes after what is taken again
        go_on.set()
        assert (await first).body == b"first"
    assert done == [b"first", b"second"]


@pytest.mark.usefixtures("quick")
async def test_a_request_whose_answer_could_not_be_sent_is_taken_again(
    asking, serving, name, monkeypatch
):
    monkeypatch.setattr(redis_intake, "_TRIES", 1)
    monkeypatch.setattr(redis_intake, "_IDLE", 0.4)
    monkeypatch.setattr(serving, "_send_out", failing(ConnectionError("lost"), serving._send_out))
    done = []

    async def handler(message):
        done.append(message.body)
        return message.body

    async with serving.serve(name, handler):
        assert (await asking.request(name, b"x")).body == b"x"
    assert done == [b"x", b"x"]


def failing(error, then):
    """Return what raises `error` at first, and then calls `then`."""
    errors = [error]

    async def call(*args):
        if errors:
            raise errors.pop()
        return await then(*args)

    return call


async def test_what_was_delivered_as_we_left_is_answered(asking, serving, client, name):
    with asking._correlator.register("0" * 32) as pending:
        async with serving.serve(name, echo):
            await asking.request(name, b"")
            # In one transaction, so that it is delivered in our name, and not to our connection.
            transaction = client.pipeline()
            transaction.xadd(name, raw(replies_of(asking), request_id="0" * 32))
            transaction.xreadgroup("workers", serving.owner, {name: ">"})
            transaction.execute()
        assert (await pending).body == b"x"
    assert client.xlen(name) == 0
    assert client.xinfo_consumers(name, "workers") == []


async def test_who_leaves_with_something_unanswered_stays_in_the_group(serving, client, name):
    client.xgroup_create(f"{name}:replies", "any", mkstream=True)

    async def handler(_message):
        raise asyncio.CancelledError  # as if it were interrupted in the middle

    async with serving.serve(name, handler):
        client.xadd(name, raw(f"{name}:replies"))
        await until(lambda: client.xpending(name, "workers")["pending"])
    [consumer] = client.xinfo_consumers(name, "workers")
    assert consumer["pending"] == 1
    assert client.xlen(f"{name}:replies") == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"body": "x"},
        {"id": "1", "body": "x"},
        {"reply_to": "r", "body": "x"},
        {"id": "1", "reply_to": "r"},
        {"id": b"\xff", "reply_to": "r", "body": "x"},
        {"id": "1", "reply_to": "r", "body": "x", "h:A": "b\nc"},
        {"id": "1", "reply_to": "", "body": "x"},
        {"id": "1", "reply_to": "a b", "body": "x"},
        {"id": "1", "reply_to": "a\n", "body": "x"},
        {"id": "1", "reply_to": "a*", "body": "x"},
        {"id": "1", "reply_to": "é", "body": "x"},
        {"id": "1", "reply_to": b"\xff", "body": "x"},
        {"id": "1", "reply_to": "x" * 256, "body": "x"},
    ],
)
async def test_a_malformed_request_is_dropped_and_counted(serving, client, name, fields):
    handled = []

    async def handler(message):
        handled.append(message)
        return b""

    async with serving.serve(name, handler):
        client.xadd(name, fields)
        await until(lambda: client.xlen(name) == 0)
    assert handled == []
    assert serving.stats().malformed == 1
    assert client.xpending(name, "workers")["pending"] == 0
    assert fields.get("reply_to") is None or not client.exists(fields["reply_to"] or "none")


async def test_a_request_cannot_make_us_write_elsewhere(serving, client, name):
    handled = []

    async def handler(message):
        handled.append(message.body)
        return b""

    client.set(f"{name}:text", "theirs")
    async with serving.serve(name, handler):
        for number, key in enumerate([f"{name}:none", f"{name}:text", name]):
            client.xadd(name, raw(key, request_id=f"r-{number}", body=str(number)))
        await until(lambda: client.xlen(name) == 0)
    assert not client.exists(f"{name}:none")
    assert client.get(f"{name}:text") == b"theirs"
    assert sorted(handled) == [b"0", b"1"]  # not the one that would have us answer ourselves
    assert serving.stats().malformed == 1


# -- connecting ------------------------------------------------------------------------------------

CANARY = "p4ss/w#rd?:@"
ESCAPED = "p4ss%2Fw%23rd%3F%3A%40"


async def test_a_user_and_a_database_come_from_the_url(start_valkey_server, name):
    server = start_valkey_server(users=[f"user us on >{CANARY} ~* &* +@all"])
    url = f"valkey://us:{ESCAPED}@127.0.0.1:{server.port}/3"
    async with entered(url) as transport, transport.serve(name, echo):
        assert (await transport.request(name, b"x")).body == b"x"
        with plain(server) as client:
            assert client.info("keyspace")["db3"]


async def test_refused_credentials_are_told_at_once_and_not_repeated(
    start_valkey_server, caplog, capsys
):
    caplog.set_level(logging.DEBUG)
    server = start_valkey_server(users=["user default off", "user us on >other ~* &* +@all"])
    with pytest.raises(ConnectionError, match="password is wrong .WRONGPASS") as caught:
        async with entered(f"redis://us:{ESCAPED}@127.0.0.1:{server.port}"):
            pass
    everything = f"{caught.value!r}{caught.value.__context__!r}{caplog.text}{capsys.readouterr()}"
    assert f"127.0.0.1:{server.port}" in str(caught.value)
    assert "p4ss" not in everything


async def test_a_server_that_is_not_there_is_told_at_once(start_valkey_server):
    server = start_valkey_server()
    server.kill()
    with pytest.raises(ConnectionError, match="nobody listens there .ConnectionRefusedError"):
        async with entered(server.url):
            pass


async def test_who_may_not_read_replies_is_told_at_once(start_valkey_server):
    server = start_valkey_server(users=["user default on nopass ~* &* +@all -xread"])
    with pytest.raises(ConnectionError, match="the user may not do that .NOPERM"):
        async with entered(server.url):
            pass


async def test_nothing_shows_the_password(start_valkey_server, name, caplog):
    caplog.set_level(logging.DEBUG)
    server = start_valkey_server(users=[f"user us on >{CANARY} ~* &* +@all"])
    url = f"redis://us:{ESCAPED}@127.0.0.1:{server.port}"
    async with entered(url) as transport, transport.serve(name, echo):
        server.kill()
        await until(lambda: "could not connect" in caplog.text)
        assert "p4ss" not in repr(transport) + repr(transport._server) + repr(transport._reader)
        server.start()
        await until(lambda: transport.stats().connected)
    assert "p4ss" not in caplog.text


async def test_certificates_are_verified(valkey_server, certificates, other_certificates, name):
    async with Proxy(valkey_server.port, ssl=certificates.server()) as proxy:
        url = f"valkeys://127.0.0.1:{proxy.port}"
        async with (
            entered(url, ssl=certificates.client()) as transport,
            transport.serve(name, echo),
        ):
            assert (await transport.request(name, b"x")).body == b"x"
        for options in ({}, {"ssl": other_certificates.client()}):
            with pytest.raises(ConnectionError, match="its certificate is not valid here .SSLCert"):
                async with entered(url, **options):
                    pass


@pytest.mark.parametrize(
    ("url", "options", "error", "match"),
    [
        ("redis://h", {"prefix": "a b"}, ValueError, "prefix.*'a b'"),
        ("redis://h", {"prefix": ""}, ValueError, "prefix"),
        ("redis://h", {"prefix": 5}, TypeError, "prefix"),
        ("redis://h", {"group": "a\n"}, ValueError, "group"),
        ("redis://h", {"reply_ttl": 0.5}, ValueError, "reply_ttl.*0.5"),
        ("redis://h", {"reply_ttl": "60"}, TypeError, "reply_ttl"),
        ("rediss://h", {"ssl": True}, TypeError, "ssl"),
        ("redis://h", {"none": 1}, TypeError, "none"),
        ("redis:", {}, ValueError, "url"),
        ("redis://h/x", {}, ValueError, "url"),
        ("redis://h/1/2", {}, ValueError, "url"),
        ("redis://h?ssl_cert_reqs=none", {}, ValueError, "url"),
        ("redis://:secret/x@h", {}, ValueError, "url"),
        ("redis://:secret#x@h", {}, ValueError, "url"),
        ("redis://:secret?x@h", {}, ValueError, "url"),
        ("redis://h:secret", {}, ValueError, "url"),
        ("redis://h:99999", {}, ValueError, "url"),
    ],
)
def test_a_bad_argument_is_named_and_no_url_is_shown(url, options, error, match):
    with pytest.raises(error, match=match) as caught:
        connect(url, Correlator(), **options)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_tls_context_without_tls_is_refused(certificates):
    with pytest.raises(ValueError, match="ssl"):
        connect("redis://h", Correlator(), ssl=certificates.client())


# -- law 16 ----------------------------------------------------------------------------------------


async def test_nothing_of_what_came_and_went_is_kept(asking, serving, name):
    async with serving.serve(name, echo):
        for number in range(5):
            await asking.request(name, b"x", headers={"Marked": str(number)})
    gc.collect()
    kept = [each for each in gc.get_objects() if isinstance(each, Message)]
    assert [each for each in kept if each.body or each.headers] == []
