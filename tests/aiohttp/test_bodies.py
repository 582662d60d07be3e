"""Bodies that are too large, packed, broken or cut off, and clients that leave in the middle."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from functools import cache

import pytest
from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol

from correlator import Correlator
from correlator.aiohttp import BodyTooLarge, read_bounded, setup

from ..conftest import balanced
from .conftest import gateway_of
from .serving import exchange, http_request, serving, status_of, until

MAX_MEMORY = 10_000_000
BOMB_SIZE = 50_000_000


@cache
def bomb(encoding: str) -> bytes:
    """Fifty megabytes of zeros, packed, without ever holding them."""
    wbits = {"gzip": 31, "deflate": 15, "raw deflate": -15}[encoding]
    packer = zlib.compressobj(9, wbits=wbits)
    piece = bytes(500_000)
    return b"".join(packer.compress(piece) for _ in range(BOMB_SIZE // len(piece))) + packer.flush()


def packed(body: bytes, encoding: str) -> dict:
    return {"data": body, "headers": {"Content-Encoding": encoding}}


class Memory:
    """How far the memory that Python gave out rose above what it was before the block."""

    def __enter__(self):
        tracemalloc.start()
        self._before = tracemalloc.get_traced_memory()[0]
        return self

    def __exit__(self, *exc_info):
        self.risen = tracemalloc.get_traced_memory()[1] - self._before
        tracemalloc.stop()


async def post(gateway, **options):
    """Call back for a pending; return the status, and whether the pending is still that."""
    with gateway.correlator.register() as pending:
        url = gateway.callback(pending.request_id)
        async with gateway.session.post(url, **options) as answer:
            return answer.status, pending.outcome is None


# -- too large -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "encoding"), [("gzip", "gzip"), ("deflate", "deflate"), ("raw deflate", "deflate")]
)
async def test_a_bomb_is_413_and_takes_less_than_ten_megabytes(gateway, kind, encoding):
    body = bomb(kind)
    assert len(body) < BOMB_SIZE / 500
    with Memory() as memory:
        assert await post(gateway, **packed(body, encoding)) == (413, True)
    assert memory.risen < MAX_MEMORY


async def test_many_bombs_at_once_take_no_more_than_their_bounds(gateway):
    body = bomb("gzip")
    with Memory() as memory:
        done = await asyncio.gather(*[post(gateway, **packed(body, "gzip")) for _ in range(4)])
    assert set(done) == {(413, True)}
    assert memory.risen < 4 * 3_000_000


async def test_a_bomb_for_a_token_that_is_none_is_not_even_unpacked(gateway):
    with Memory() as memory:
        url = gateway.served.url("/callbacks/v1..x.1.y")
        async with gateway.session.post(url, **packed(bomb("gzip"), "gzip")) as answer:
            assert answer.status == 404
    assert memory.risen < MAX_MEMORY


@pytest.mark.parametrize(("size", "status"), [(0, 204), (1, 204), (1000, 204), (1001, 413)])
@pytest.mark.parametrize("form", ["plain", "gzip", "chunked"])
async def test_a_body_may_have_as_many_bytes_as_the_bound_and_not_one_more(size, status, form):
    body = b"x" * size
    async with gateway_of(max_body=1000) as gateway:
        if form == "gzip":
            options = packed(gzip.compress(body), "gzip")
        elif form == "chunked":

            async def pieces():
                for _ in range(size):
                    yield b"x"

            options = {"data": pieces()}
        else:
            options = {"data": body}
        assert await post(gateway, **options) == (status, status != 204)


async def test_a_chunked_body_without_an_end_is_413_as_soon_as_it_is_too_large():
    async with gateway_of(max_body=1000) as gateway:
        with gateway.correlator.register() as pending:
            url = gateway.callback(pending.request_id)
            head = http_request(url.path, ("Transfer-Encoding", b"chunked"), method="POST")
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.served.port)
            writer.write(head + b"ffff\r\n" + bytes(0xFFFF) + b"\r\n")
            async with asyncio.timeout(5):
                assert status_of(await reader.readuntil(b"\r\n\r\n")) == 413
            writer.transport.abort()
            assert pending.outcome is None


async def test_the_applications_own_bound_on_bodies_does_not_widen_or_narrow_ours():
    app_bound = 2
    async with gateway_of(max_body=1000) as gateway:
        gateway.app._client_max_size = app_bound
        assert await post(gateway, data=b"x" * 900) == (204, False)


# -- broken ----------------------------------------------------------------------------------------

GOOD = gzip.compress(b"a result" * 1000)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"no gzip at all"),
        ("gzip", b"\x1f\x8b" + b"\xff" * 20),
        ("gzip", GOOD[:-4] + b"\0\0\0\0"),
        ("gzip", GOOD[:20] + b"\xff\xff\xff" + GOOD[23:]),
        ("deflate", b"no deflate"),
        ("deflate", zlib.compress(b"a result" * 1000)[:-6]),
    ],
    ids=["text", "only magic", "checksum", "flipped", "text in deflate", "cut off deflate"],
)
async def test_a_packed_body_that_is_broken_is_400_and_settles_nothing(gateway, encoding, body):
    assert await post(gateway, **packed(body, encoding)) == (400, True)


async def test_a_body_that_cannot_be_read_closes_its_connection_and_says_so(gateway):
    url = gateway.callback("a")
    async with gateway.session.post(url, **packed(b"no gzip at all", "gzip")) as answer:
        assert answer.headers["Connection"] == "close"
    async with gateway.session.post(url, data=b"a result") as answer:
        assert answer.status == 404


async def test_a_gzip_body_that_ends_early_is_400_or_what_there_was_of_it(gateway):
    # aiohttp looks for the end of a deflate stream, but not for that of a gzip stream: its
    # framing is whole, so this cannot be told from here. Only a signature could.
    with gateway.correlator.register() as pending:
        url = gateway.callback(pending.request_id)
        async with gateway.session.post(url, **packed(GOOD[: len(GOOD) // 2], "gzip")) as answer:
            assert answer.status in (204, 400)
        if answer.status == 204:
            assert (b"a result" * 1000).startswith((await pending).body)
        else:
            assert pending.outcome is None


async def test_an_encoding_that_nobody_knows_is_left_to_whoever_reads_the_reply(gateway):
    assert await post(gateway, **packed(b"as it is", "x-unknown")) == (204, False)


@pytest.mark.parametrize(
    "framing",
    [
        ("Transfer-Encoding: chunked", b"zz\r\nab\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"-1\r\nab\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"2\r\nabcd\r\n0\r\n\r\n"),
        ("Content-Length: -5", b"abcde"),
        ("Content-Length: 5\r\nContent-Length: 6", b"abcdef"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
        ("Content-Length: \xb2", b"ab"),
    ],
)
async def test_framing_that_is_broken_or_double_is_400_and_settles_nothing(gateway, framing):
    fields, body = framing
    with gateway.correlator.register() as pending:
        path = gateway.callback(pending.request_id).path
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n\r\n"
        answer = await exchange(gateway.served.port, head.encode("latin-1") + body)
        assert status_of(answer) == 400
        assert pending.outcome is None


# -- `Expect: 100-continue` --------------------------------------------------------------------

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def test_an_expectation_is_met_before_the_answer(gateway):
    with gateway.correlator.register() as pending:
        path = gateway.callback(pending.request_id).path
        request = http_request(path, ("Expect", b"100-continue"), method="POST", body=b"done")
        answer = await exchange(gateway.served.port, request)
        assert answer.startswith(CONTINUE)
        assert status_of(answer.removeprefix(CONTINUE)) == 204
        assert (await pending).body == b"done"


async def test_a_client_of_http_1_0_is_not_told_to_continue(gateway):
    """RFC 9110, section 10.1.1: its expectation is ignored, for it knows no interim answers."""
    with gateway.correlator.register() as pending:
        path = gateway.callback(pending.request_id).path
        request = http_request(path, ("Expect", b"100-continue"), method="POST", body=b"done")
        answer = await exchange(gateway.served.port, request.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert status_of(answer) == 204
        assert (await pending).body == b"done"


async def test_an_error_after_an_expectation_was_met_is_still_answered():
    """To have said 100 is not to have begun an answer."""
    async with gateway_of() as gateway:
        await gateway.correlator.aclose()
        path = gateway.callback("anybody").path
        request = http_request(path, ("Expect", b"100-continue"), method="POST", body=b"done")
        answer = await exchange(gateway.served.port, request)
        assert answer.startswith(CONTINUE)
        assert status_of(answer.removeprefix(CONTINUE)) == 503


# -- `read_bounded` by itself ------------------------------------------------------------------


async def _stream(*pieces: bytes, end: bool = True) -> StreamReader:
    loop = asyncio.get_running_loop()
    stream = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    for piece in pieces:
        stream.feed_data(piece)
    if end:
        stream.feed_eof()
    return stream


@pytest.mark.parametrize("pieces", [[], [b"abc"], [b"a", b"b", b"c"]])
async def test_a_body_is_read_whole_up_to_the_bound(pieces):
    assert await read_bounded(await _stream(*pieces), 3) == b"".join(pieces)


async def test_a_body_past_the_bound_is_given_up_before_its_end():
    with pytest.raises(BodyTooLarge, match="more than 3 bytes"):
        await read_bounded(await _stream(b"ab", b"cd", end=False), 3)


# -- clients that leave ------------------------------------------------------------------------


async def _leave_after(port: int, data: bytes, condition, read: int = 0) -> None:
    """Send bytes, wait until `condition()`, read some of the answer, and hang up hard."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await until(condition)
    if read:
        await reader.readexactly(read)
    writer.transport.abort()


POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
LEAVING = {
    "before the body": (POST + b"Content-Length: 10\r\n\r\n", "reading", 0),
    "in the body": (POST + b"Content-Length: 10\r\n\r\nhalf", "reading", 0),
    "in a chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nha", "reading", 0),
    "while it waits": (POST + b"Content-Length: 4\r\n\r\nbody", "waiting", 0),
    "in the response": (POST + b"Content-Length: 6\r\n\r\nstream", "streaming", 1000),
}


@pytest.mark.parametrize("point", LEAVING)
async def test_a_client_that_leaves_at_any_point_leaves_nothing_behind(point):
    data, state, read = LEAVING[point]
    correlator = Correlator(timeout=600.0)
    states = []

    async def handler(request):
        try:
            with correlator.register() as pending:
                states.append("reading")
                if await request.read() == b"stream":
                    response = web.StreamResponse()
                    await response.prepare(request)
                    states.append("streaming")
                    while True:
                        await response.write(bytes(100_000))
                states.append("waiting")
                await pending
        finally:
            states.append("left")

    app = web.Application()
    setup(app, correlator)
    app.router.add_post("/", handler)
    async with serving(app) as served:
        await _leave_after(served.port, data, lambda: state in states, read)
        await until(lambda: states[-1] == "left")
        assert balanced(correlator).cancelled == 1


async def test_a_client_that_leaves_a_call_to_an_upstream_frees_its_pending(gateway):
    gateway.upstream.reply("/jobs", status=202)

    async def relay(request):
        await gateway.client.request("POST", gateway.upstream.url("/jobs"), timeout=600.0)

    app = web.Application()
    app.router.add_post("/", relay)
    async with serving(app) as front:
        request = POST + b"Content-Length: 0\r\n\r\n"
        await _leave_after(front.port, request, lambda: gateway.upstream.seen)
        await until(lambda: not len(gateway.correlator))
        assert balanced(gateway.correlator).cancelled == 1


@pytest.mark.parametrize("sent", [b"", b"half of", b"half of the body, no more"])
async def test_an_upstream_that_leaves_in_its_callback_settles_nothing_and_may_come_again(
    gateway, sent
):
    with gateway.correlator.register() as pending:
        path = gateway.callback(pending.request_id).path
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode()
        connections = gateway.served.runner.server.connections
        before = len(connections)
        await _leave_after(
            gateway.served.port,
            head + sent,
            lambda: len(gateway.served.runner.server.connections) > before,
        )
        await until(lambda: len(gateway.served.runner.server.connections) <= before)
        assert pending.outcome is None
        async with gateway.session.post(gateway.callback(pending.request_id), data=b"all") as done:
            assert done.status == 204
        assert (await pending).body == b"all"
