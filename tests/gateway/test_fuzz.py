"""Random bytes and mutated requests on raw sockets: no 5xx, no hanging, nothing settled by them."""

from __future__ import annotations

import asyncio
import random
import re
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .client import chunk, job_request, read_answer
from .process import Gateway

QUICK = ("--", "--delay", "0.01", "--distribution", "fixed")  # as the fixture `client` has it

TEMPLATES = [
    job_request(b'{"order": 42}', b"X-Request-ID: fuzz"),
    job_request(b'{"order": 42}', b"Prefer: respond-async, wait=1"),
    job_request(b"", b"Transfer-Encoding: chunked", sized=False) + chunk(b'{"a": 1}') + chunk(b""),
    job_request(b"{}", path=b"/callbacks/v1..YQ.9999999999." + b"A" * 43),
    b"GET /v1/jobs/abcdefghijklmnopqrstuv HTTP/1.1\r\nHost: gateway\r\n\r\n",
    b"GET /stats HTTP/1.1\r\nHost: gateway\r\n\r\n",
]
SPICE = [b"\0", b"\r\n", b"\n", b" ", b":", b"\xff", b"%00", b"%", b"/", b"..", b"-1", b"chunked"]
SPICE += [b"9" * 25, b"\xe2\x80\xa8", b"HTTP/1.0", b"Upgrade: websocket\r\n", b"gzip", b'"', b"{"]


def mutated(chance: random.Random) -> bytes:
    """Return a request with some bytes changed, put in, taken out, or doubled."""
    data = bytearray(chance.choice(TEMPLATES))
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice([1, 1, 2, 8, 40]))
        what = chance.randrange(5)
        if what == 0:
            data[at:end] = chance.randbytes(end - at)
        elif what == 1:
            data[at:at] = chance.choice(SPICE)
        elif what == 2:
            del data[at:end]
        elif what == 3:
            data[at:at] = data[at:end]
        else:
            del data[max(1, at) :]
    return bytes(data)


async def status_of(gateway: Gateway, data: bytes) -> int | None:
    """Send bytes; return the first status, or None if it waits for more, or hangs up, instead."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
        try:
            writer.write(data)
            try:
                async with asyncio.timeout(0.5):
                    return (await read_answer(reader, has_body=False)).status
            except TimeoutError:
                writer.write_eof()
                assert await reader.read() == b"", "it answers, or hangs up when the client does"
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
    return None


@pytest.mark.parametrize("seed", range(4))
async def test_mutated_requests_are_answered_below_500_or_not_at_all(client, seed):
    chance = random.Random(seed)
    before = await client.counters()
    requests = [mutated(chance) for _ in range(100)]
    statuses = await asyncio.gather(*(status_of(client.gateway, each) for each in requests))
    wrong = [
        (status, request)
        for status, request in zip(statuses, requests, strict=True)
        if status is not None and status >= 500
    ]
    assert not wrong
    assert {200, 400} <= set(statuses)  # else this proves nothing
    await client.idle()
    after = await client.counters()
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= {"registered", "resolved", "cancelled"}  # jobs that were still good ones


def blurt(gateway: Gateway, data: bytes) -> bytes:
    """Send bytes and hang up; return what was answered before the gateway did so too."""
    with socket.create_connection((gateway.host, gateway.port), timeout=5) as connection:
        received = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65_536):
                received += piece
        except ConnectionError:
            pass
        return received


FIELD = st.tuples(st.binary(max_size=20), st.binary(max_size=40)).map(b": ".join)
REQUEST = st.builds(
    lambda method, path, fields, body: job_request(body, *fields, method=method, path=path),
    st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS"]) | st.binary(max_size=8),
    st.sampled_from([b"/v1/jobs", b"/v1/jobs/x", b"/callbacks/x", b"/stats"]) | st.binary(),
    st.lists(FIELD, max_size=4),
    st.binary() | st.just(b"{}"),
)


@given(data=st.binary() | REQUEST)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_whatever_bytes_come_the_answer_is_below_500(shared_gateways, data):
    answered = blurt(shared_gateways(*QUICK), data)
    assert answered == b"" or re.match(rb"HTTP/\d\.\d [1-4]\d\d ", answered)
