"""Link: an exchange with a Redis server takes as long as something moves, and says what went wrong.

The servers here are made of a few lines, where a real one could not be had to do that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl

import pytest
import redis

from correlator.transports import redis_link
from correlator.transports.redis_link import Link, pack
from correlator.transports.redis_server import Server
from correlator.transports.redis_words import reason

PATIENCE = 20.0  # seconds for what is to come at once


@contextlib.asynccontextmanager
async def linked(answer, **options):
    """A link to a server that does `answer` with each connection."""

    async def accept(reader, writer):
        with contextlib.suppress(ConnectionError):
            await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, **options)
    port = server.sockets[0].getsockname()[1]
    link = Link(Server("127.0.0.1", port, 0, None, None, None))
    async with server, asyncio.timeout(PATIENCE):
        try:
            yield link
        finally:
            await link.close()


def pieces(count, then=b""):
    """Return what answers with so many pieces, each of them in time."""

    async def answer(reader, writer):
        await reader.read(100)
        writer.write(b"$%d\r\n" % count)
        for _ in range(count):
            writer.write(b"x")
            await asyncio.sleep(redis_link.TIMEOUT / 4)  # really: it is what is measured
        writer.write(then)
        await reader.read(100)

    return answer


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(redis_link, "TIMEOUT", 0.2)


@pytest.mark.usefixtures("quick")
async def test_a_large_answer_on_a_slow_link_takes_its_time():
    async with linked(pieces(12, b"\r\n")) as link:
        assert await link.call(pack("GET", "x")) == [b"x" * 12]


@pytest.mark.usefixtures("quick")
async def test_an_answer_that_stops_in_the_middle_is_given_up():
    async with linked(pieces(3)) as link:
        with pytest.raises(ConnectionError, match="no answer in time"):
            await link.call(pack("GET", "x"))


@pytest.mark.usefixtures("quick")
async def test_what_is_large_takes_its_time_on_the_way_out_too(monkeypatch):
    monkeypatch.setattr(redis_link, "TIMEOUT", 0.5)
    size = 32 << 20

    async def answer(reader, writer):
        taken = 0
        while taken < size:
            taken += len(await reader.read(1 << 20))
            await asyncio.sleep(0.015)  # really: it is what is measured
        writer.write(b"+OK\r\n")
        await reader.read(1)

    async with linked(answer, limit=1 << 20) as link:
        begun = asyncio.get_running_loop().time()
        assert await link.call(pack("SET", "x", b"x" * size)) == [b"OK"]
        assert asyncio.get_running_loop().time() - begun > redis_link.TIMEOUT


async def test_an_answer_that_nobody_asked_for_is_given_to_nobody():
    async def answer(reader, writer):
        number = 0
        while await reader.read(100):
            number += 1
            writer.write(b":%d\r\n:999\r\n" % number)

    async with linked(answer) as link:
        for _ in range(3):
            assert await link.call(pack("INCR", "x")) == [1]  # on a connection of its own


async def test_what_is_no_protocol_of_redis_is_an_error():
    async def answer(reader, writer):
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read(100)

    async with linked(answer) as link:
        with pytest.raises(ConnectionError, match="ProtocolError"):
            await link.call(pack("PING"))


async def test_a_server_that_is_full_says_so_before_it_is_asked():
    async def answer(reader, writer):
        writer.write(b"-ERR max number of clients reached\r\n")
        await writer.drain()
        await reader.read(100)

    async with linked(answer) as link:
        answers = await link._connect()
        while not answers.is_ahead:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.005)
        [answered] = await answers.to([pack("PING")], PATIENCE)
        assert reason(answered) == "it has as many clients as it takes (ERR)"


async def test_what_is_wrong_is_told_in_words(start_valkey_server):
    server = start_valkey_server(users=["user default on >right ~* &* +@all"])

    async def error_of(**options):
        given = {"user": None, "password": "right", "database": 0, "ssl": None} | options
        link = Link(Server(**{"host": "127.0.0.1", "port": server.port} | given))
        try:
            with pytest.raises(ConnectionError) as caught:
                redis_link.checked(*await link.call(pack("PING")))
        finally:
            await link.close()
        assert "s3cret" not in str(caught.value)
        return str(caught.value)

    assert "password is wrong" in await error_of(password="s3cret")
    assert "the URL has none" in await error_of(password=None)
    assert "no database of that number" in await error_of(database=99_999)
    assert "no host of that name" in await error_of(host="s3cret.invalid")
    server.kill()
    assert "nobody listens" in await error_of()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            redis.ResponseError("OOM command not allowed"),
            "its memory is full (OOM)",
        ),
        (redis.ResponseError("ERR something 's3cret'"), "ERR"),
        (redis.ResponseError("s3cret"), "ResponseError"),
        (ConnectionRefusedError(), "nobody listens there (ConnectionRefusedError)"),
        (
            OSError(f"Multiple exceptions: [Errno {errno.ECONNREFUSED}] Connect call failed"),
            "nobody listens there (ConnectionRefusedError)",
        ),
        (socket.gaierror("s3cret"), "there is no host of that name (gaierror)"),
        (ssl.SSLError("s3cret"), "it does not speak TLS as we do (SSLError)"),
        (TimeoutError(), "no answer in time (TimeoutError)"),
        (ConnectionResetError("s3cret"), "the connection was closed (ConnectionResetError)"),
        (ConnectionError("ours"), "ours"),
        (KeyError("s3cret"), "KeyError"),
    ],
)
def test_a_reason_is_words_and_never_the_text_of_others(error, words):
    assert reason(error) == words
