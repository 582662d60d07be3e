"""What is no job, no HTTP, or no callback: a 4xx problem document, and nothing settled."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest

from .client import chunk, exchange, job_request

BOMB = 100_000_000  # bytes, a hundred times the bound
GROWTH = 10_000_000  # bytes of memory that refusing it may take

GZIP = b"Content-Encoding: gzip"
DEFLATE = b"Content-Encoding: deflate"
CHUNKED = b"Transfer-Encoding: chunked"
GET = b"GET %b HTTP/1.1\r\nHost: gateway\r\n\r\n"


def chunked(*pieces: bytes, fields: tuple[bytes, ...] = ()) -> bytes:
    return job_request(b"", CHUNKED, *fields, sized=False) + b"".join(pieces)


JSON = {
    "malformed": b"{",
    "empty": b"",
    "NaN": b'{"n": NaN}',
    "Infinity": b'{"n": Infinity}',
    "minus Infinity": b'{"n": -Infinity}',
    "nested too deep": b'{"n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects nested too deep": b'{"n": ' * 100_000 + b"{}" + b"}" * 100_000,
    "an endless integer": b'{"n": ' + b"9" * 5_000 + b"}",
    "a number beyond all bounds": b'{"n": 1e999}',
    "a number below all bounds": b'{"n": -1e999}',
    "two of them": b"{}{}",
    "a trailing comma": b'{"n": 1,}',
    "single quotes": b"{'n': 1}",
    "a comment": b'{"n": 1} // one',
    "no UTF-8": b'{"n": "\xff"}',
    "UTF-8 cut short": b'{"n": "\xc3"}',
    "UTF-8 too long": b'{"n": "\xc0\xaf"}',
    "UTF-16": '{"n": "\u00e4"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"n": 1}'.encode("utf-16-le"),
    "UTF-32": '{"n": 1}'.encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "null bytes": b"\0\0\0",
    "a null byte within": b'{"n": "\0"}',
    "a null byte after": b"{}\0",
    "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.",
}
NO_OBJECT = {"a list": b"[1]", "text": b'"x"', "a number": b"1", "true": b"true", "null": b"null"}
REFUSED = {
    "of another type": (415, job_request(content_type=b"text/plain")),
    "of no type": (415, job_request().replace(b"Content-Type", b"X-Content-Type")),
    "of a type that is none": (415, job_request(content_type=b";;=\xff")),
    "of a coding nobody knows": (415, job_request(b"{}", b"Content-Encoding: x-unknown")),
    "of two codings": (415, job_request(b"{}", b"Content-Encoding: x", b"Content-Encoding: y")),
    "too large": (413, job_request(b" " * 1_048_577)),
    "said to be too large": (413, job_request(b"", b"Content-Length: 99999999999", sized=False)),
    "too large, in pieces": (413, chunked(*[chunk(b" " * 65_536)] * 17, chunk(b""))),
    "gzip that is none": (400, job_request(b"no gzip at all", GZIP)),
    "gzip cut short": (400, job_request(gzip.compress(bytes(1_000))[:-12], GZIP)),
    "gzip of other data": (400, job_request(gzip.compress(b"{}")[:-8] + b"12345678", GZIP)),
    "deflate that is none": (400, job_request(b"no deflate", DEFLATE)),
    "deflate cut short": (400, job_request(zlib.compress(b'{"n": 1}')[:-6], DEFLATE)),
    "an expectation unheard of": (417, job_request(b"{}", b"Expect: the-unexpected")),
    "an expectation that is no text": (417, job_request(b"{}", b"Expect: \xff")),
    "an expectation elsewhere": (417, GET.replace(b"gateway", b"gateway\r\nExpect: x") % b"/stats"),
    "an expectation nowhere": (417, GET.replace(b"gateway", b"gateway\r\nExpect: \xff") % b"/x"),
    "an unknown path": (404, GET % b"/nowhere"),
    "another unknown path": (404, job_request(path=b"/v1/jobs/")),
    "a path that climbs": (404, GET % b"/v1/jobs/../../stats/../etc/passwd"),
    "a path with null bytes": (404, GET % b"/v1/jobs/%00"),
    "another host's path": (404, GET % b"http://elsewhere/nowhere"),
    "no path": (404, b"OPTIONS * HTTP/1.1\r\nHost: gateway\r\n\r\n"),
    "a tunnel": (404, b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: gateway\r\n\r\n"),
    "a wrong method": (405, GET % b"/v1/jobs"),
    "a method that deletes": (405, b"DELETE /v1/jobs/x HTTP/1.1\r\nHost: gateway\r\n\r\n"),
    "a wrong method for a callback": (405, GET % b"/callbacks/x"),
    "a wrong method for the stats": (405, job_request(path=b"/stats")),
}
NO_HTTP = {
    "no request": b"hello\r\n\r\n",
    "null bytes": b"\0\0\0\0\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303") + b"\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\nHost: gateway\r\n\r\n",
    "no host": b"GET /stats HTTP/1.1\r\n\r\n",
    "a method in small letters": b"get /stats HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "a path that is no UTF-8": GET % b"/v1/jobs/\xff",
    "a URL with no such port": GET % b"http://elsewhere:99999/",
    "a URL too long": GET % (b"/" + b"a" * 20_000),
    "a header too long": job_request(b"{}", b"X-Long: " + b"a" * 20_000),
    "a header's name too long": job_request(b"{}", b"X" * 20_000 + b": a"),
    "headers too many": job_request(b"{}", *[b"X-%d: 1" % n for n in range(5_000)]),
    "a header with a null byte": job_request(b"{}", b"X-Null: a\0b"),
    "a header's name with a space": job_request(b"{}", b"X Space: a"),
    "a header without a colon": job_request(b"{}", b"X-None"),
    "a folded header": job_request(b"{}", b"X-Folded: a\r\n b"),
    "two lengths": job_request(b"{}", b"Content-Length: 3"),
    "a length below zero": job_request(b"", b"Content-Length: -1", sized=False),
    "a length with a sign": job_request(b"{}", b"Content-Length: +2", sized=False),
    "a length and chunks": job_request(b"{}", CHUNKED),
    "a coding unheard of": job_request(b"", b"Transfer-Encoding: shuffled", sized=False),
    "a chunk whose size is no number": chunked(b"zz\r\n{}\r\n"),
    "a chunk with a size below zero": chunked(b"-2\r\n{}\r\n"),
    "a chunk of an endless size": chunked(b"f" * 20 + b"\r\n{}\r\n"),
}


@pytest.fixture
async def unmoved(client):
    """A client of a gateway in which nothing may have been registered or settled by the test."""
    before = await client.counters()
    yield client
    assert await client.counters() == before


@pytest.mark.parametrize("what", JSON)
async def test_what_is_not_json_is_a_400(unmoved, what):
    answer = await exchange(unmoved.gateway, job_request(JSON[what]))
    assert answer.is_problem(400)


SAID = {
    "empty": "The body is empty.",
    "no UTF-8": "The body is not UTF-8 at byte 7.",
    "single quotes": "line 1 column 2 (char 1).",
    "two of them": "The body is not JSON: Extra data: line 1 column 3 (char 2).",
    "NaN": "The body has the number NaN, which JSON has not.",
    "minus Infinity": "The body has the number -Infinity, which JSON has not.",
    "a number beyond all bounds": "A number in the body is too large.",
    "an endless integer": "A number in the body is too large.",
    "nested too deep": "The body is nested too deep.",
}


@pytest.mark.parametrize("what", SAID)
async def test_a_400_says_what_is_wrong_with_the_body(unmoved, what):
    answer = await exchange(unmoved.gateway, job_request(JSON[what]))
    assert answer.is_problem(400)
    assert answer.json["detail"].endswith(SAID[what])


async def test_a_body_of_nothing_but_space_is_empty(unmoved):
    answer = await exchange(unmoved.gateway, job_request(b" \r\n"))
    assert answer.is_problem(400)
    assert answer.json["detail"] == "The body is empty."


@pytest.mark.parametrize("what", NO_OBJECT)
async def test_json_that_is_no_object_is_a_422(unmoved, what):
    answer = await exchange(unmoved.gateway, job_request(NO_OBJECT[what]))
    assert answer.is_problem(422)


@pytest.mark.parametrize("what", REFUSED)
async def test_what_cannot_be_done_is_refused_with_the_status_for_it(unmoved, what):
    status, request = REFUSED[what]
    answer = await exchange(unmoved.gateway, request)
    assert answer.is_problem(status)
    if status == 405:
        assert answer.headers["Allow"]


@pytest.mark.parametrize("what", NO_HTTP)
async def test_what_is_not_http_is_a_400_problem_too(unmoved, what):
    answer = await exchange(unmoved.gateway, NO_HTTP[what])
    assert answer.is_problem(400)


@pytest.mark.parametrize("depth", [10, 300, 600, 900, 940, 960, 970, 980, 990, 1_000, 3_000])
async def test_nesting_is_either_taken_or_refused(client, depth):
    body = b'{"n": ' + b"[" * depth + b"]" * depth + b"}"
    answer = await exchange(client.gateway, job_request(body))
    assert answer.status == 200 or answer.is_problem(400)


@pytest.mark.parametrize(("field", "compress"), [(GZIP, gzip.compress), (DEFLATE, zlib.compress)])
async def test_a_compressed_job_is_taken(client, field, compress):
    answer = await exchange(client.gateway, job_request(compress(b'{"n": 1}'), field))
    assert answer.json == {"result": {"n": 1}}


@pytest.mark.parametrize(("field", "compress"), [(GZIP, gzip.compress), (DEFLATE, zlib.compress)])
@pytest.mark.parametrize("framing", ["sized", "chunked"])
async def test_a_bomb_is_a_413_and_costs_little_memory(unmoved, field, compress, framing):
    bomb = compress(bytes(BOMB))
    assert len(bomb) < 200_000
    request = job_request(bomb, field)
    if framing == "chunked":
        pieces = [chunk(bomb[at : at + 4_096]) for at in range(0, len(bomb), 4_096)]
        request = chunked(*pieces, chunk(b""), fields=(field,))
    before = unmoved.gateway.peak_memory()
    answers = await asyncio.gather(*(exchange(unmoved.gateway, request) for _ in range(3)))
    assert all(answer.is_problem(413) for answer in answers)
    assert unmoved.gateway.peak_memory() - before < GROWTH


@pytest.fixture
async def impatient(client_of):
    """As `unmoved`, of a gateway where nothing may take longer than half a second."""
    client = client_of("--timeout", "0.5", "--", "--delay", "0.01")
    before = await client.counters()
    yield client
    assert await client.counters() == before


BREAKING_OFF = {
    "a body that stops": (job_request(b"", b"Content-Length: 10", sized=False) + b'{"n": ',),
    "a body that never starts": (job_request(b"", b"Content-Length: 10", sized=False),),
    "chunks that stop": (chunked(chunk(b'{"n": ')),),
    "a bad chunk after a good one": (chunked(chunk(b'{"n": ')), b"zz\r\n}\r\n"),
    "a bad chunk within gzip": (
        chunked(chunk(gzip.compress(b'{"n": 1}')[:12]), fields=(GZIP,)),
        b"zz\r\n",
    ),
}


@pytest.mark.parametrize("what", BREAKING_OFF)
async def test_a_body_that_breaks_off_is_answered_before_long(impatient, what):
    answer = await exchange(impatient.gateway, *BREAKING_OFF[what], within=4)
    assert answer.status in (400, 408)
    assert answer.is_problem(answer.status)


async def test_gzip_that_turns_out_to_be_broken_later_is_a_400(impatient):
    start = chunked(chunk(gzip.compress(b'{"n": 1}')[:12]), fields=(GZIP,))
    answer = await exchange(impatient.gateway, start, chunk(b"x" * 30), chunk(b""))
    assert answer.is_problem(400)


async def test_what_follows_a_bad_request_on_its_connection_is_not_answered(impatient):
    smuggled = NO_HTTP["a length and chunks"] + b"GET /stats HTTP/1.1\r\nHost: gateway\r\n\r\n"
    reader, writer = await asyncio.open_connection(impatient.gateway.host, impatient.gateway.port)
    writer.write(smuggled)
    async with asyncio.timeout(5):
        everything = await reader.read()
    assert everything.count(b"HTTP/1.") == 1
    writer.close()
    await writer.wait_closed()


HOSTILE_IDS = {
    "a line break, encoded": b"a%0d%0aX-Evil: 1",
    "a space": b"a b",
    "a tab": b"a\tb",
    "8 KB": b"a" * 8_000,
    "129 characters": b"a" * 129,
    "a line separator": "a\u2028b".encode(),
    "Arabic digits": "\u0663\u0664".encode(),
    "a URN": b"urn:uuid:12345678-1234-1234-1234-123456789abc",
    "braces": b"{12345678}",
    "no UTF-8": b"\xff\xfe",
    "JSON": b'","level":"error","x":"',
    "escapes": b"\\u001b[31m",
    "nothing": b"",
}


@pytest.mark.parametrize("what", HOSTILE_IDS)
async def test_a_hostile_id_is_replaced_and_never_echoed(client, what):
    hostile = HOSTILE_IDS[what]
    lines = len(client.gateway.errors)
    answer = await exchange(client.gateway, job_request(b"{}", b"X-Request-ID: " + hostile))
    assert answer.status == 200
    (mine,) = answer.headers.getall("X-Request-ID")
    assert len(mine) == 32
    assert "X-Evil" not in answer.headers
    logged = client.gateway.log[lines:]
    assert {each["request_id"] for each in logged} <= {mine}


async def test_of_two_ids_none_is_taken(client):
    two = job_request(b"{}", b"X-Request-ID: one", b"X-Request-ID: two")
    answer = await exchange(client.gateway, two)
    assert answer.headers["X-Request-ID"] not in ("one", "two")
