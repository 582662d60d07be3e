"""What every transport does, memory included: the laws, and that replies find their owner."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial, wraps
from pathlib import Path

import pytest

from correlator import (
    CapacityExceeded,
    Correlator,
    CorrelatorClosed,
    NoResponder,
    RequestRejected,
    RequestTimeout,
    current_request_id,
    remaining_time,
    request_scope,
)
from correlator.transports import Message, connect

from ..conftest import balanced

BROKERS = ["memory", "nats", "valkey", "rabbitmq"]
TELLS = ["memory", "nats", "rabbitmq"]  # those that can say that nobody listens
PATIENCE = 20.0  # seconds for what is to come at once; more than any broker needs


@pytest.fixture(params=BROKERS)
def url(request):
    """Where a real broker of each kind is; the memory's has a name of the test's own."""
    if request.param == "memory":
        return f"memory:{request.node.name}"
    return request.getfixturevalue(f"{request.param}_server").url


@pytest.fixture
def name(request):
    """A destination of the test's own: what one test leaves in a queue is nothing to another."""
    return "".join(each if each.isalnum() else "-" for each in request.node.name)[:200]


class Replica:
    """A correlator with its transport."""

    def __init__(self, url, **options):
        self.correlator = Correlator(timeout=PATIENCE, **options.pop("correlator", {}))
        self.transport = connect(url, self.correlator, **options)
        self.request = self.transport.request
        self.serve = self.transport.serve

    async def __aenter__(self):
        self._stack = contextlib.AsyncExitStack()
        await self._stack.enter_async_context(self.correlator)
        await self._stack.enter_async_context(self.transport)
        return self

    async def __aexit__(self, *exc_info):
        await self._stack.aclose()


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


async def echo(message):
    return message.body


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # what is waited for happens at a broker
            await asyncio.sleep(0.005)  # really: a broker's time cannot be moved


# -- asking and answering ------------------------------------------------------------------------


async def test_a_request_gets_its_reply(replica, other, name):
    async with other.serve(name, echo):
        reply = await replica.request(name, b"\x00\xff hello")
    assert reply.body == b"\x00\xff hello"
    assert balanced(replica.correlator).resolved == 1


async def test_an_empty_body_and_a_large_one_come_through(replica, other, name):
    large = bytes(range(256)) * 2000
    async with other.serve(name, echo):
        assert (await replica.request(name, b"")).body == b""
        assert (await replica.request(name, large)).body == large


async def test_headers_and_content_type_go_both_ways(replica, other, name):
    seen = []

    async def handler(message):
        seen.append(message)
        return Message(b"{}", {"Answer": "yes, é"}, "application/json")

    async with other.serve(name, handler):
        reply = await replica.request(
            name, b"x", headers={"X-Question": "why: not?"}, content_type="text/plain"
        )
    assert seen[0].headers["X-Question"] == "why: not?"
    assert seen[0].content_type == "text/plain"
    assert reply.headers["Answer"] == "yes, é"
    assert reply.content_type == "application/json"


@pytest.mark.parametrize("header", ["CC", "BCC", "Status", "Reply-To"])
async def test_a_header_that_a_broker_may_take_for_its_own_does_no_harm(
    replica, other, name, header
):
    async def handler(message):
        return Message(message.body, {header: "elsewhere"})

    async with other.serve(name, handler):
        reply = await replica.request(name, b"x", headers={header: "elsewhere"})
        assert reply.body == b"x"
    assert replica.transport.stats().reconnects == other.transport.stats().reconnects == 0


@pytest.mark.parametrize("header", ["Content-Type", "content-type", "CONTENT-TYPE"])
async def test_a_content_type_among_the_headers_is_refused_wherever_it_would_go(
    replica, other, name, header
):
    """Brokers that have a place of their own for it would have two."""
    reply = Message(b"x", {header: "text/plain"}, "text/html")

    async def handler(message):
        return reply

    async with other.serve(name, handler):
        with pytest.raises(ValueError, match="content_type="):
            await replica.request(name, b"x", headers=reply.headers)
        with pytest.raises(ValueError, match="content_type="):
            await other.transport.forward(replica.transport.owner, "0" * 32, reply)
        assert replica.transport.stats().sent == 0
        with pytest.raises(RequestRejected, match="500") as caught:
            await replica.request(name, b"x", content_type="text/plain")
    assert "ValueError" in caught.value.reply.headers.values()


async def test_what_is_left_of_the_time_travels_and_is_the_handlers_deadline(replica, other, name):
    left = []

    async def handler(_message):
        left.append(remaining_time())
        return b""

    async with other.serve(name, handler):
        await replica.request(name, b"", timeout=7.0)
    assert 0 < left[0] <= 7.0


async def test_the_ambient_id_travels_and_is_ambient_there(replica, other, name):
    ids = []

    async def handler(_message):
        ids.append(current_request_id())
        return b""

    async with other.serve(name, handler):
        with request_scope("mine-1"):
            await replica.request(name, b"")
        await replica.request(name, b"", headers={"X-Request-ID": "no\u2028id"})
    assert ids == ["mine-1", None]


async def test_each_of_many_gets_its_own_reply(replica, other, name):
    async def handler(message):
        await asyncio.sleep(0 if message.body[-1] % 2 else 0.001)  # so that they overtake
        return message.body * 2

    async with other.serve(name, handler, concurrency=50):
        bodies = [b"%d" % number for number in range(500)]
        replies = await asyncio.gather(*(replica.request(name, body) for body in bodies))
    assert [reply.body for reply in replies] == [body * 2 for body in bodies]


async def test_replicas_never_get_each_others_replies(url, name):
    async with contextlib.AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(Replica(url)) for _ in range(3)]
        for replica in replicas:
            await stack.enter_async_context(replica.serve(name, echo))

        async def ask(number):
            body = b"%d" % number
            assert (await replicas[number % 3].request(name, body)).body == body

        await asyncio.gather(*map(ask, range(300)))
        for replica in replicas:
            assert balanced(replica.correlator).resolved == 100
            assert replica.correlator.stats().unknown == 0


async def test_a_serving_replica_may_ask_another_in_turn(replica, other, name):
    async def inner(message):
        return message.body + b" inner"

    async def outer(message):
        return (await other.request(f"{name}-inner", message.body)).body + b" outer"

    async with replica.serve(f"{name}-inner", inner), other.serve(name, outer):
        assert (await replica.request(name, b"x")).body == b"x inner outer"


async def test_requests_are_shared_among_those_that_serve(url, name):
    seen = {"a": 0, "b": 0}

    def handler(who):
        async def handle(message):
            seen[who] += 1
            await asyncio.sleep(0.002)  # really: so that none could do it all alone
            return message.body

        return handle

    async with (
        Replica(url) as asking,
        Replica(url) as a,
        Replica(url) as b,
        a.serve(name, handler("a"), concurrency=2),
        b.serve(name, handler("b"), concurrency=2),
    ):
        await asyncio.gather(*(asking.request(name, b"x") for _ in range(200)))
    assert seen["a"] + seen["b"] == 200
    assert min(seen.values()) > 0


async def test_no_more_handlers_run_at_once_than_asked(replica, other, name):
    running = most = 0

    async def handler(_message):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return b""

    async with other.serve(name, handler, concurrency=3):
        await asyncio.gather(*(replica.request(name, b"") for _ in range(60)))
    assert most == 3


# -- errors --------------------------------------------------------------------------------------


async def test_what_a_handler_raises_is_an_error_reply_that_tells_nothing(
    replica, other, name, caplog
):
    async def handler(_message):
        raise ValueError("a secret")

    async with other.serve(name, handler):
        with pytest.raises(RequestRejected) as caught:
            await replica.request(name, b"")
    assert "500" in str(caught.value)
    reply = caught.value.reply
    assert "ValueError" in reply.headers.values()
    everything = f"{caught.value}{reply.headers}{reply.body}"
    assert "a secret" not in everything
    assert "Traceback" not in everything
    assert balanced(replica.correlator).rejected == 1


async def test_an_error_of_ours_is_answered_with_its_status(replica, other, name):
    async def handler(_message):
        raise CapacityExceeded("full")

    async with other.serve(name, handler):
        with pytest.raises(RequestRejected, match="503"):
            await replica.request(name, b"")


@pytest.mark.parametrize(
    "nonsense",
    [
        "text",
        None,
        Message("text"),
        Message(b"", {"a": "b\r\nc: d"}),
        Message(b"", {"a": 5}),
        Message(b"", content_type="a\nb"),
    ],
)
async def test_a_handler_that_returns_something_else_is_an_error_reply(
    replica, other, name, nonsense
):
    async def handler(message):
        return message.body if message.body == b"good" else nonsense

    async with other.serve(name, handler):
        bad, good = await asyncio.gather(
            replica.request(name, b"bad"), replica.request(name, b"good"), return_exceptions=True
        )
    assert isinstance(bad, RequestRejected)
    assert good.body == b"good", "it costs that one, and not what goes out with it"


async def generator(_message):
    yield b""


def annotated(_message) -> bytes:
    return b""


def annotated_otherwise(_message) -> Message | None:
    return None


class Called:
    def __call__(self, _message) -> bytes:
        return b""

    def method(self, _message) -> Message:
        return Message(b"")


@pytest.mark.parametrize(
    "handler",
    [
        *(None, b"", Message, bytes, generator, annotated, Called(), Called().method),
        *(partial(annotated), partial(partial(generator))),
    ],
)
async def test_a_handler_that_is_no_async_function_is_refused_at_once(replica, name, handler):
    with pytest.raises(TypeError, match="^handler must be"):
        replica.serve(name, handler)


class CalledLater:
    async def __call__(self, message) -> bytes:
        return message.body

    async def method(self, message) -> bytes:
        return message.body


def decorated(function):
    @wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


@pytest.mark.parametrize(
    "handler",
    [
        *(echo, CalledLater(), CalledLater().method, partial(CalledLater()), partial(echo)),
        *(lambda message: echo(message), decorated(CalledLater.method).__get__(CalledLater())),
        lambda message: asyncio.ensure_future(echo(message)),
    ],
)
async def test_whatever_returns_an_awaitable_is_a_handler(replica, other, name, handler):
    async with other.serve(name, handler):
        assert (await replica.request(name, b"x")).body == b"x"


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (lambda _message: "text", "a handler must be an async function; this one returned str"),
        (lambda _message: asyncio.sleep(0, {}), "must return a Message or bytes, not dict"),
        (lambda _message: asyncio.sleep(0), "must return a Message or bytes, not NoneType"),
        (annotated_otherwise, "a handler must be an async function; this one returned NoneType"),
    ],
)
async def test_what_is_wrong_with_a_handler_is_in_its_own_log(
    replica, other, name, handler, says, caplog
):
    async with other.serve(name, handler):
        with pytest.raises(RequestRejected):
            await replica.request(name, b"")
    assert says in caplog.text


@pytest.mark.parametrize("nonsense", [b"", Message("text"), Message(b"", {"a": "\udcff"})])
async def test_nonsense_is_not_forwarded(replica, other, nonsense):
    with pytest.raises((TypeError, ValueError), match="message|headers"):
        await other.transport.forward(replica.transport.owner, "0" * 32, nonsense)


@pytest.mark.parametrize("url", TELLS, indirect=True)
async def test_that_nobody_listens_is_told_at_once(replica, name):
    with pytest.raises(NoResponder):
        await replica.request(name, b"")
    assert balanced(replica.correlator).rejected == 1
    assert len(replica.correlator) == 0


async def test_a_request_that_nobody_answers_ends_at_its_deadline(replica, other, name):
    never = asyncio.Event()

    async def handler(_message):
        await never.wait()
        return b""

    async with other.serve(name, handler):
        with pytest.raises(RequestTimeout):
            await replica.request(name, b"", timeout=0.2)
        assert len(replica.correlator) == 0
        never.set()
        # Its reply comes late: it raises nothing, and is counted.
        await until(lambda: replica.correlator.stats().late == 1)


async def test_a_caller_that_is_cancelled_leaves_nothing(replica, other, name):
    started, never = asyncio.Event(), asyncio.Event()

    async def handler(_message):
        started.set()
        await never.wait()
        return b""

    async with other.serve(name, handler):
        asking = asyncio.create_task(replica.request(name, b""))
        await asyncio.wait_for(started.wait(), PATIENCE)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert len(replica.correlator) == 0
        never.set()
    assert balanced(replica.correlator).cancelled == 1


async def test_expired_work_is_not_done(url, replica, other, name):
    done, go_on = [], asyncio.Event()

    async def handler(message):
        done.append(message.body)
        await go_on.wait()
        return message.body

    async with other.serve(name, handler, concurrency=1):
        first = asyncio.create_task(replica.request(name, b"first"))
        await until(lambda: done)
        with pytest.raises(RequestTimeout):
            await replica.request(name, b"too late", timeout=0.2)
        go_on.set()
        assert (await first).body == b"first"
        assert (await replica.request(name, b"in time")).body == b"in time"
    assert done == [b"first", b"in time"]
    # RabbitMQ drops it itself; and what was counted is, when the service has gone.
    assert other.transport.stats().expired == (0 if url.startswith("amqp") else 1)
    assert other.transport.stats().overflowed == replica.transport.stats().expired == 0


@pytest.mark.parametrize("url", TELLS[:2], indirect=True)
async def test_what_comes_when_too_much_waits_is_dropped_and_counted(
    replica, other, name, monkeypatch
):
    monkeypatch.setattr("correlator.transports.serving._MAX_BACKLOG", 2)
    started, go_on = asyncio.Event(), asyncio.Event()

    async def handler(message):
        started.set()
        await go_on.wait()
        return message.body

    async with other.serve(name, handler, concurrency=1), contextlib.AsyncExitStack() as stack:
        stack.callback(go_on.set)
        first = asyncio.create_task(replica.request(name, b"x"))
        await started.wait()
        more = [asyncio.create_task(replica.request(name, b"x", timeout=2)) for _ in range(5)]
        await until(lambda: other.transport.stats().overflowed == 3)
        go_on.set()
        outcomes = await asyncio.gather(first, *more, return_exceptions=True)
    assert sum(isinstance(each, RequestTimeout) for each in outcomes) == 3
    assert other.transport.stats().expired == 0


async def test_a_full_correlator_sends_nothing(url, other, name):
    served = []

    async def handler(message):
        served.append(message.body)
        await never.wait()
        return b""

    never = asyncio.Event()
    async with (
        Replica(url, correlator={"max_pending": 1}) as small,
        other.serve(name, handler),
    ):
        first = asyncio.create_task(small.request(name, b"first"))
        await until(lambda: served)
        with pytest.raises(CapacityExceeded):
            await small.request(name, b"second")
        never.set()
        await first
    assert served == [b"first"]


# -- replies that came elsewhere -------------------------------------------------------------------


async def test_a_reply_is_forwarded_to_its_owner(replica, other):
    with replica.correlator.register() as pending:
        reply = Message(b"done", {"A": "b"}, "text/plain")
        assert await other.transport.forward(replica.transport.owner, pending.request_id, reply)
        got = await pending
    assert (got.body, got.headers["A"], got.content_type) == (b"done", "b", "text/plain")
    assert other.transport.stats().forwarded == 1


async def test_a_reply_that_is_forwarded_twice_settles_once(replica, other):
    with replica.correlator.register() as pending:
        for body in (b"first", b"second"):
            await other.transport.forward(
                replica.transport.owner, pending.request_id, Message(body)
            )
        assert (await pending).body == b"first"
    await until(lambda: replica.correlator.stats().duplicate == 1)


async def test_a_reply_to_an_owner_that_has_gone_is_told_so(url, other):
    async with Replica(url) as gone:
        pass
    assert not await other.transport.forward(gone.transport.owner, "0" * 32, Message(b""))
    assert other.transport.stats().forwarded == 0


async def test_a_replica_that_starts_anew_has_another_owner_and_none_of_its_replies(url, other):
    async with Replica(url) as former:
        pass
    async with Replica(url) as present:
        assert former.transport.owner != present.transport.owner
        with present.correlator.register("0" * 32) as pending:
            assert not await other.transport.forward(
                former.transport.owner, "0" * 32, Message(b"old")
            )
            assert pending.outcome is None


async def test_a_reply_that_cannot_be_forwarded_in_time_is_a_connection_error(replica, other):
    other.transport._disconnected()
    with replica.correlator.register() as pending:
        with pytest.raises(ConnectionError, match="in 0.1 s"):
            await other.transport.forward(
                replica.transport.owner, pending.request_id, Message(b"x"), timeout=0.1
            )
        other.transport._connected()
        reply = Message(b"again")
        assert await other.transport.forward(replica.transport.owner, pending.request_id, reply)
        assert (await pending).body == b"again"
    assert replica.correlator.stats().duplicate == 0, "what came too late was not sent after all"


async def test_decode_makes_of_a_reply_what_callers_get(url, other, name):
    async with (
        Replica(url, decode=lambda message: message.body.decode()) as asking,
        other.serve(name, echo),
    ):
        assert await asking.request(name, b"text") == "text"


async def test_a_reply_that_cannot_be_decoded_costs_itself_and_is_counted(url, other, name):
    async with (
        Replica(url, decode=lambda message: message.body.decode()) as asking,
        other.serve(name, echo),
    ):
        with pytest.raises(RequestTimeout):
            await asking.request(name, b"\xff", timeout=0.5)
        assert asking.transport.stats().malformed == 1
        assert await asking.request(name, b"text") == "text"


# -- leaving -------------------------------------------------------------------------------------


async def test_leaving_a_service_waits_for_what_runs(replica, other, name):
    started, go_on = asyncio.Event(), asyncio.Event()

    async def handler(_message):
        started.set()
        await go_on.wait()
        return b"done"

    async with other.serve(name, handler):
        asking = asyncio.create_task(replica.request(name, b""))
        await asyncio.wait_for(started.wait(), PATIENCE)
        asyncio.get_running_loop().call_later(0.05, go_on.set)
    assert (await asking).body == b"done"


@pytest.mark.parametrize("on_disconnect", ["wait", "fail"])
async def test_leaving_ends_what_is_pending_at_once(url, other, name, on_disconnect):
    started, never = asyncio.Event(), asyncio.Event()

    async def handler(_message):
        started.set()
        await never.wait()
        return b""

    async with other.serve(name, handler), Correlator(timeout=PATIENCE) as correlator:
        async with connect(url, correlator, on_disconnect=on_disconnect) as transport:
            asking = asyncio.create_task(transport.request(name, b""))
            await asyncio.wait_for(started.wait(), PATIENCE)
            with correlator.register() as elsewhere:
                await transport.__aexit__(None, None, None)
                with pytest.raises(CorrelatorClosed):
                    await asking
                assert elsewhere.outcome is None, "what is not of this transport goes on"
        assert balanced(correlator).closed == 1
        never.set()


@pytest.mark.parametrize("url", TELLS[:2], indirect=True)
async def test_after_leaving_nobody_listens_there(replica, other, name):
    async with other.serve(name, echo):
        await replica.request(name, b"")
    with pytest.raises(NoResponder):
        await replica.request(name, b"")


async def test_leaving_ends_the_tasks_it_had(url, name):
    before = asyncio.all_tasks()
    async with Replica(url) as replica, replica.serve(name, echo):
        await replica.request(name, b"")
    await until(lambda: asyncio.all_tasks() == before)


def timers():
    """How many timers the loop has, where it is asyncio's, which can be looked into."""
    scheduled = getattr(asyncio.get_running_loop(), "_scheduled", ())
    return sum(not handle.cancelled() for handle in scheduled)


def connections():
    """How many files and sockets this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_request_has_no_task_timer_or_connection_of_its_own(replica, other, name):
    never = asyncio.Event()

    async def handler(_message):
        await never.wait()
        return b""

    async with other.serve(name, handler, concurrency=1):
        await asyncio.sleep(0.05)  # really: what a client starts by itself at first is not ours
        before = len(asyncio.all_tasks()), connections(), timers()
        asking = [asyncio.create_task(replica.request(name, b"")) for _ in range(200)]
        await until(lambda: replica.transport.stats().sent == 200)
        # The callers' own tasks, and that of the one handler that runs.
        assert len(asyncio.all_tasks()) <= before[0] + 200 + 1
        assert connections() <= before[1]
        # The reaper's, and those that a client has for its own connections.
        assert timers() <= before[2] + 5
        never.set()
        await asyncio.gather(*asking)


async def test_it_is_used_inside_its_block_and_once(url, name):
    async with Correlator() as correlator:
        transport = connect(url, correlator)
        with pytest.raises(CorrelatorClosed, match="async with"):
            await transport.request(name, b"")
        async with transport:
            pass
        with pytest.raises(CorrelatorClosed):
            await transport.request(name, b"")
        with pytest.raises(CorrelatorClosed):
            await transport.forward("a-b", "c", Message(b""))
        with pytest.raises(CorrelatorClosed):
            async with transport:
                pass
        assert balanced(correlator).registered == 0


# -- bad input -----------------------------------------------------------------------------------

HOSTILE = ["", "*", ">", "a b", "a\r\nb", "a\n", "a\x00", "a>b", "x" * 256, "é", "a{b}", "a#"]


@pytest.mark.parametrize("destination", HOSTILE)
async def test_a_destination_that_could_reach_others_is_refused(replica, destination):
    for use in (
        lambda: replica.request(destination, b""),
        lambda: replica.serve(destination, echo).__aenter__(),
    ):
        with pytest.raises(ValueError, match="destination"):
            await use()
    assert balanced(replica.correlator).registered == 0
    assert replica.transport.stats().sent == 0


@pytest.mark.parametrize("owner", ["", "a.b", "a*", ">", "a\n", "x" * 65, "a:b", "é"])
async def test_an_owner_that_could_reach_others_is_refused(replica, owner):
    with pytest.raises(ValueError, match="owner"):
        await replica.transport.forward(owner, "0" * 32, Message(b""))


@pytest.mark.parametrize("request_id", ["", "a.b", "*", "a\n", 7, "x" * 201])
async def test_an_id_that_could_reach_others_is_refused(replica, request_id):
    with pytest.raises(ValueError, match="request_id"):
        await replica.transport.forward("a-b", request_id, Message(b""))


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"a\r\nb": "c"}, ValueError),
        ({"a": "b\r\nc: d"}, ValueError),
        ({"a": "b\x00"}, ValueError),
        ({"a": "b\x85"}, ValueError),
        ({"a": "half a pair: \udcff"}, ValueError),
        ({"": "b"}, ValueError),
        ({"a": 1}, TypeError),
        ({1: "a"}, TypeError),
        ("a: b", TypeError),
    ],
)
async def test_a_header_that_could_break_a_line_is_refused(replica, name, headers, error):
    with pytest.raises(error, match="headers"):
        await replica.request(name, b"", headers=headers)
    assert balanced(replica.correlator).registered == 0


@pytest.mark.parametrize("body", ["text", None, 5, bytearray(b"x")])
async def test_a_body_that_is_not_bytes_is_refused(replica, name, body):
    with pytest.raises(TypeError, match="body"):
        await replica.request(name, body)


async def test_a_bad_timeout_is_refused_and_nothing_is_sent(replica, name):
    with pytest.raises(ValueError, match="timeout"):
        await replica.request(name, b"", timeout=-1)
    assert replica.transport.stats().sent == 0


async def test_its_repr_does_not_tell_where_it_is(replica):
    assert "://" not in repr(replica.transport)
    assert replica.transport.owner not in repr(replica.transport)


# -- law 16 --------------------------------------------------------------------------------------


async def test_nothing_of_a_request_stays_behind(replica, other, name, caplog):
    caplog.set_level(logging.WARNING)
    async with other.serve(name, echo):
        for _ in range(20):
            await replica.request(name, b"x" * 1000)
        assert len(replica.correlator) == 0
        assert not replica.transport._outbox
    assert caplog.records == []


async def test_what_ends_while_the_link_is_down_is_not_kept_for_when_it_is_up(replica, name):
    replica.transport._disconnected()
    asking = [
        asyncio.create_task(replica.request(name, b"x" * 1000, timeout=0.05)) for _ in range(50)
    ]
    await asyncio.sleep(0)
    assert len(replica.transport._outbox) == 50
    asking[0].cancel()
    ended = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(ended[0], asyncio.CancelledError)
    assert all(isinstance(each, RequestTimeout) for each in ended[1:])
    assert not replica.transport._outbox
    replica.transport._connected()
    assert replica.transport.stats().sent == 0
