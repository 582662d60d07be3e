"""Reader: what comes from NATS, in whatever pieces, gets to whom it is for, and nothing twice."""

from __future__ import annotations

import asyncio
import inspect
import random
import sys

import nats
import pytest
from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from correlator.transports import nats_reader
from correlator.transports.nats_link import Link
from correlator.transports.nats_reader import Reader

from ..clock import turns

OURS, THEIRS = 1, 2  # numbers of subscriptions
PATIENCE = 20.0
# Versions whose writelines() holds nobody back: https://github.com/python/cpython/issues/127655
UNBOUNDED = [((3, 12), (3, 12, 9)), ((3, 13), (3, 13, 2))]


class Heard(list):
    """The client, as its parser sees it: all that it is told, in order."""

    async def _process_msg(self, sid, subject, reply, data, headers):
        self.append((sid, bytes(subject), bytes(reply), data, headers))

    async def _process_ping(self):
        self.append("PING")

    async def _process_pong(self):
        self.append("PONG")

    async def _process_err(self, message):
        self.append(message)

    async def _process_info(self, info):
        self.append(info)


class HeardOrTaken(Heard):
    """With a taker for what is ours, which the client must not be told of then."""

    def take(self, subject, reply, data, headers):
        self.append((OURS, subject, reply, data, headers))

    async def _process_msg(self, sid, subject, reply, data, headers):
        assert sid != OURS
        await super()._process_msg(sid, subject, reply, data, headers)


def reading():
    heard = HeardOrTaken()
    reader = Reader(heard)
    reader.takers[b"%d" % OURS] = heard.take
    return reader, heard


def message(sid, body, *, subject=b"to.us", reply=b"", headers=b""):
    words = [b"HMSG" if headers else b"MSG", subject, b"%d" % sid]
    words += [reply] if reply else []
    words += [b"%d" % len(headers)] if headers else []
    words += [b"%d" % len(headers + body)]
    return b" ".join(words) + b"\r\n" + headers + body + b"\r\n"


HEADERS = b"NATS/1.0\r\nA: b\r\n\r\n"
TRAP = b"\r\nMSG to.us 1 3\r\nabc\r\nPING\r\n-ERR 'no'\r\n"
# With what surrounds each other in every way: ours and theirs, with and without each part.
STREAM = b"".join(
    [
        b'INFO {"name": "MSG to.us 1 3"}\r\n',
        message(OURS, b"first"),
        message(OURS, b"", reply=b"back.to~5"),
        b"PING\r\n",
        message(OURS, TRAP, headers=HEADERS),
        message(OURS, b"x", reply=b"MSG", headers=HEADERS),
        message(THEIRS, b"theirs", reply=b"back"),
        message(OURS, TRAP),
        b"-ERR 'Permissions 1 Violation'\r\n",
        message(THEIRS, TRAP, headers=HEADERS),
        message(THEIRS, b""),
        message(OURS, b"\r\n"),
        b"+OK\r\nPONG\r\n",
        message(OURS, bytes(range(256)), subject=b"to.\xff\xfe"),
        message(OURS, b"", headers=HEADERS),
        b"PING\r\nPONG\r\n",
        message(OURS, b"last"),
    ]
)


@pytest.fixture
async def expected():
    """What the client's own parser makes of it."""
    heard = Heard()
    await Parser(heard).parse(STREAM)
    assert len(heard) == 18
    return heard


async def test_it_hears_what_the_client_s_own_parser_does_wherever_it_is_cut(expected):
    for cut in range(len(STREAM) + 1):
        reader, heard = reading()
        await reader.parse(STREAM[:cut])
        await reader.parse(STREAM[cut:])
        assert heard == expected, cut


async def test_it_does_in_many_pieces(expected):
    for seed in range(200):
        pieces = random.Random(seed)
        reader, heard = reading()
        start = 0
        while start < len(STREAM):
            size = pieces.choice((1, 2, 3, 10, 50)) if seed else 1
            await reader.parse(STREAM[start : start + size])
            start += size
        assert heard == expected, seed


async def test_what_is_for_a_taker_never_gets_to_the_client_s_parser(monkeypatch):
    """That is what it is for. And a subject may hold what its patterns take for an end."""

    async def none(self, data=b""):
        raise AssertionError(data)

    monkeypatch.setattr(Parser, "parse", none)
    subject = b"a\x0bb\x0c\x1cc"
    data = message(OURS, b"x", subject=subject, reply=subject, headers=HEADERS) * 2
    for cut in range(len(data)):
        reader, heard = reading()
        await reader.parse(data[:cut])
        await reader.parse(data[cut:])
        assert heard == [(OURS, subject, subject, b"x", HEADERS)] * 2


@pytest.mark.parametrize(
    "line",
    [
        b"MSG to.us 1",
        b"MSG to.us 1 -19",
        b"MSG to.us 1 1_0",
        b"MSG to.us 1 +1",
        b"MSG to.us 1 a b 5",
        b"HMSG to.us 1 5",
        b"HMSG to.us 1 -5 5",
        b"HMSG to.us 1 back x 5",
        b"msgs to.us 1 5",
        b"GARBAGE",
        b"",
    ],
)
async def test_what_is_no_protocol_ends_the_connection(line):
    reader, heard = reading()
    with pytest.raises(ProtocolError):
        await reader.parse(message(OURS, b"x") + line + b"\r\n12345\r\n")
    assert heard == [(OURS, b"to.us", b"", b"x", None)]


async def test_a_large_message_is_looked_at_once_and_not_with_each_piece(monkeypatch):
    looked = 0
    take = Reader._take

    def counted(self, data):
        nonlocal looked
        looked += 1
        return take(self, data)

    monkeypatch.setattr(Reader, "_take", counted)
    reader, heard = reading()
    data = message(OURS, b"x" * 1_000_000)
    for start in range(0, len(data), 1_000):
        await reader.parse(data[start : start + 1_000])
    assert len(heard) == 1
    assert looked <= 3


@pytest.mark.parametrize("at_once", [1, 20, 1_000])
async def test_a_flood_holds_up_nobody(at_once):
    reader, heard = reading()
    seen = []

    async def other():
        while True:
            seen.append(len(heard))
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await asyncio.sleep(0)
    for _ in range(2_000 // at_once):  # none of which waits for anything
        await reader.parse(message(OURS, b"x") * at_once)
    task.cancel()
    assert len(heard) == 2_000
    gaps = [after - before for before, after in zip(seen, [*seen[1:], 2_000], strict=True)]
    assert max(gaps) <= nats_reader._TURN


async def test_nothing_of_a_connection_that_was_reset_is_read_in_the_next():
    reader, heard = reading()
    former = message(OURS, b"former") * (nats_reader._TURN + 5)
    for rest in (b"", b"MSG to.us 1 100\r\nhalf", b"PIN", message(THEIRS, b"x" * 100)[:50]):
        task = asyncio.create_task(reader.parse(former + rest))
        await asyncio.sleep(0)  # it has taken what one turn allows
        taken = len(heard)
        assert taken == nats_reader._TURN
        reader.reset()  # as the client does where it reconnects
        await task
        assert len(heard) == taken
        await reader.parse(message(OURS, b"next") + b"PING\r\n")
        assert heard[taken:] == [(OURS, b"to.us", b"", b"next", None), "PING"]
        reader._left = nats_reader._TURN
        heard.clear()


@pytest.mark.parametrize("rest", [message(OURS, b"x" * 9)[:-5], message(THEIRS, b"x" * 9)[:-5]])
async def test_half_a_message_of_a_connection_that_was_reset_is_forgotten(rest):
    reader, heard = reading()
    await reader.parse(rest)
    reader.reset()
    await reader.parse(message(OURS, b"next"))
    assert heard == [(OURS, b"to.us", b"", b"next", None)]


@pytest.fixture
async def link(nats_server):
    link = Link(secure=False)
    await link.connect(nats_server.url)
    yield link
    await link.close()


async def test_an_attempt_to_reconnect_that_is_replaced_harms_neither(monkeypatch):
    async def never(_client):
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Client, "_select_next_server", never)
    link = Link(secure=False)
    link._current_server = object()
    link.options["dont_randomize"] = True
    attempts = []
    for _ in range(2):
        attempts.append(asyncio.create_task(link._attempt_reconnect()))
        await turns(2)
    for attempt in attempts:
        attempt.cancel()
        await attempt


async def test_what_is_sent_does_not_overtake_what_waits_to_be_written(link):
    taken = []
    link._reader.takers[b"77"] = lambda *message: taken.append(message)
    await link._send_command(b"SUB reader.order 77\r\n")
    await link.send([b"PUB reader.order 1\r\nx\r\n", b"PUB reader.order 1\r\ny\r\n"])
    await link.sync()
    assert [each[2] for each in taken] == [b"x", b"y"]


async def test_what_is_sent_where_the_socket_takes_no_more_waits_its_turn(link):
    """In the client's buffer, which is bounded, and not in the socket's."""
    is_faulty = any(first <= sys.version_info < fixed for first, fixed in UNBOUNDED)
    if is_faulty and isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop):
        pytest.skip("this Python's sockets take whatever they are given (CVE-2024-12254)")
    taken = 0

    def take(*_message):
        nonlocal taken
        taken += 1

    await link.take("reader.many", "", take)
    transport = link._transport._io_writer.transport
    command = b"PUB reader.many 100000\r\n%b\r\n" % (b"x" * 100_000)
    most = 0
    for _ in range(200):
        await link.send([command])
        most = max(most, transport.get_write_buffer_size())
    await link.sync(PATIENCE)
    assert taken == 200
    assert most < link._max_pending_size + 2 * len(command)


async def test_a_subject_that_the_client_s_parser_cannot_read_costs_no_connection(
    link, nats_server
):
    taken = []
    await link.take("reader.hostile.*", "", lambda *message: taken.append(message))
    stranger = await nats.connect(nats_server.url)
    for last in (b"a\x0bb", b"a\x0cb 9", b"\xff\xfe", b"good"):
        await stranger._send_command(b"PUB reader.hostile.%b 1\r\nx\r\n" % last)
        await stranger._send_command(b"PING\r\n" if last == b"good" else b"")
    await stranger._flush_pending()
    async with asyncio.timeout(PATIENCE):
        while not taken or taken[-1][0] != b"reader.hostile.good":  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.005)
    assert len(taken) == 4
    assert link.stats["reconnects"] == 0
    await stranger.close()


def test_what_we_lean_on_of_the_client_s_parser_is_there():
    assert inspect.iscoroutinefunction(Parser.parse)
    parser = Parser(None)
    assert (parser.state, parser.needed, parser.buf) == (1, 0, b"")
    assert isinstance(Link(secure=False)._ps, Reader)
    source = inspect.getsource(nats.aio.client.Client._read_loop)
    assert "self._ps.parse(" in source
