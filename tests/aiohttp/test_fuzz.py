"""Noise over raw sockets: every answer is an HTTP status of 2xx or 4xx, soon, and settles nothing.

The servers run for a whole test, and Hypothesis's examples one after the other against them.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import zlib
from contextlib import contextmanager
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook

from .conftest import KEY, gateway_of
from .serving import exchange, http_request, status_of

many = settings(
    max_examples=150,
    deadline=None,  # a socket's time is not ours; `exchange` has a bound of its own
    suppress_health_check=[HealthCheck.too_slow],
)

values = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=50).map(str.encode),
    st.integers().map(lambda number: str(number).encode()),
    st.text(alphabet="0123456789abcdefABCDEF-{}:urn", max_size=60).map(str.encode),
).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b""))

NAMES = [
    "X-Request-ID",
    "X-Envoy-Expected-Rq-Timeout-Ms",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "Content-Type",
    "Callback-URL",
    "Accept",
    "Cookie",
]


class Target:
    """A gateway that runs while the examples come, and one pending that none of them may end."""

    def __init__(self, runner: asyncio.Runner, gateway, pending) -> None:
        self._runner = runner
        self._gateway = gateway
        self.pending = pending

    @property
    def path(self) -> str:
        return self._gateway.callback(self.pending.request_id).path

    def send(self, data: bytes, *, eof: bool = False) -> bytes:
        return self._runner.run(exchange(self._gateway.served.port, data, eof=eof))

    def check(self, answer: bytes) -> int:
        status = status_of(answer)
        assert 200 <= status < 300 or 400 <= status < 500
        assert b"Traceback" not in answer
        assert self.pending.outcome is None
        return status


@contextmanager
def target(**route):
    with asyncio.Runner() as runner:
        made = gateway_of(**route)
        gateway = runner.run(made.__aenter__())
        try:

            async def register():
                return gateway.correlator.register(timeout=1000.0)

            pending = runner.run(register())
            yield Target(runner, gateway, pending)
            assert pending.outcome is None
            assert gateway.correlator.stats().registered == 1
        finally:

            async def leave():
                pending.cancel()
                await made.__aexit__(None, None, None)

            runner.run(leave())


@pytest.fixture(scope="module")
def plain():
    with target() as it:
        yield it


@pytest.fixture(scope="module")
def hooked():
    with target(webhook=Webhook(KEY), max_body=1000) as it:
        yield it


@many
@given(st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=6))
def test_header_values_of_any_bytes_get_an_answer(hooked, headers):
    status = hooked.check(
        hooked.send(http_request(hooked.path, *headers, method="POST", body=b"{}"))
    )
    assert status in (400, 401)


@pytest.mark.parametrize("value", [b"something", b"\x80", b"\xff\xfe", b"", b"100-Continue"])
def test_an_expectation_of_any_bytes_gets_an_answer(hooked, value):
    # aiohttp's own handler answers with the value in the text, which not all bytes can be.
    request = http_request(hooked.path, ("Expect", value), method="POST", body=b"{}")
    answer = hooked.send(request).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert hooked.check(answer) in (401, 417)


signatures = st.one_of(
    values,
    st.binary(max_size=40).map(lambda raw: b"v1," + base64.b64encode(raw)),
    st.lists(st.sampled_from([b"v1,", b"v1", b",", b"v1,=", b"v1,\xff", b"v1a,AA=="])).map(
        b" ".join
    ),
)


@many
@given(msg_id=values, timestamp=values, signature=signatures, body=st.binary(max_size=100))
def test_a_malformed_signature_is_401_and_never_500(hooked, msg_id, timestamp, signature, body):
    headers = [
        ("webhook-id", msg_id),
        ("webhook-timestamp", timestamp),
        ("webhook-signature", signature),
    ]
    request = http_request(hooked.path, *headers, method="POST", body=body)
    # 400 is the HTTP parser's, which takes no control characters in a header.
    assert hooked.check(hooked.send(request)) in (400, 401)


@many
@given(
    encoding=st.sampled_from([b"gzip", b"deflate", b"br", b"zstd", b"identity", b"x-unknown", b""]),
    body=st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(gzip.compress),
        st.binary(max_size=300).map(zlib.compress),
        st.binary(max_size=300).map(lambda raw: gzip.compress(raw)[:-5] + b"\0"),
        st.integers(0, 100_000).map(lambda size: gzip.compress(bytes(size))),
    ),
)
def test_bodies_of_any_bytes_and_encoding_get_an_answer(hooked, encoding, body):
    headers = [("Content-Encoding", encoding)]
    request = http_request(hooked.path, *headers, method="POST", body=body)
    assert hooked.check(hooked.send(request)) in (400, 401, 413, 415)


# What may stand in a path without ending it or the request line.
path_bytes = st.one_of(
    st.text(alphabet="ABCxyz019._~-%/?#", max_size=120).map(str.encode),
    st.binary(max_size=60).map(lambda raw: b"".join(b"%%%02x" % each for each in raw)),
    st.binary(max_size=60).map(lambda raw: bytes(each for each in raw if each > 0x20)),
)


@many
@given(token=path_bytes)
def test_tokens_of_any_bytes_are_404_or_400(plain, token):
    head = b"POST /callbacks/" + token + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    answer = plain.send(head + b"Content-Length: 1\r\n\r\nx")
    assert plain.check(answer) in (400, 404)


@many
@given(data=st.data())
def test_a_good_token_with_something_changed_is_404_or_400(plain, data):
    good = plain.path.rpartition("/")[2].encode()
    at = data.draw(st.integers(0, len(good) - 1))
    new = data.draw(st.sampled_from([b"A", b"%00", b"%0a", b"%2e", b".", b"", b"-", b"\xff", b"~"]))
    token = good[:at] + new + good[at + 1 :]
    if unquote_to_bytes(token) == good:
        return
    head = b"POST /callbacks/" + token + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    assert plain.check(plain.send(head + b"Content-Length: 1\r\n\r\nx")) in (400, 404)


@many
@given(
    st.one_of(
        st.binary(max_size=400),
        st.lists(
            st.sampled_from(
                [b"POST ", b"GET ", b"/callbacks/", b"x", b" HTTP/1.1", b"\r\n", b"\r\n\r\n", b"\n"]
                + [b"Host: x", b"Transfer-Encoding: chunked", b"Content-Length: 3", b"5\r\n", b"\0"]
            ),
            max_size=20,
        ).map(b"".join),
    )
)
def test_noise_that_is_no_http_gets_4xx_or_nothing_and_the_server_goes_on(plain, noise):
    answer = plain.send(noise, eof=True)
    if answer:
        plain.check(answer)
    assert plain.pending.outcome is None
    assert plain.check(plain.send(http_request("/nowhere"))) == 404


@many
@given(cut=st.integers(0, 400), data=st.data())
def test_a_good_callback_that_is_cut_off_anywhere_settles_nothing(plain, cut, data):
    whole = http_request(plain.path, method="POST", body=b"the body of it")
    cut = min(cut, len(whole) - 1)
    answer = plain.send(whole[:cut], eof=True)
    if answer:
        plain.check(answer)
    assert plain.pending.outcome is None
