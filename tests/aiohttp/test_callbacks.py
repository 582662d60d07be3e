"""`CallbackClient`: an upstream that calls back, or does not, is one awaited call."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import weakref
import zlib

import aiohttp
import pytest
from aiohttp import ClientTimeout, web

from correlator import (
    CapacityExceeded,
    Correlator,
    CorrelatorClosed,
    RequestRejected,
    RequestTimeout,
)
from correlator.aiohttp import CallbackReply

from ..conftest import balanced
from .conftest import gateway_of
from .serving import until

URL_HEADER = "Callback-URL"


# -- an upstream that calls back -----------------------------------------------------------------


async def test_a_callback_after_the_202_is_the_reply(gateway):
    gateway.upstream.reply("/jobs", status=202)
    call = asyncio.create_task(
        gateway.client.request("POST", gateway.upstream.url("/jobs"), json={"n": 1}, timeout=5.0)
    )
    await until(lambda: gateway.upstream.seen)
    [seen] = gateway.upstream.seen
    headers = {"X-Of-The-Callback": "1"}
    url = seen.headers[URL_HEADER]
    async with gateway.session.post(url, data=b"the result", headers=headers) as answer:
        assert answer.status == 204
    reply = await call
    assert (reply.status, reply.body) == (200, b"the result")
    assert reply.headers["x-of-the-callback"] == "1"
    assert (seen.method, seen.body) == ("POST", b'{"n": 1}')
    assert balanced(gateway.correlator).resolved == 1


async def test_a_callback_before_the_202_is_read_is_the_reply(gateway):
    statuses = gateway.calls_back("/jobs", b"early")
    reply = await gateway.client.request("POST", gateway.upstream.url("/jobs"))
    assert reply.body == b"early"
    assert statuses == [204]
    assert balanced(gateway.correlator).resolved == 1


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_once_it_has_called_back_what_it_answers_does_not_count(gateway, status):
    gateway.calls_back("/jobs", b"early", status=status)
    reply = await gateway.client.request("POST", gateway.upstream.url("/jobs"))
    assert reply.body == b"early"
    assert balanced(gateway.correlator).resolved == 1


@pytest.mark.parametrize("status", [404, 500])
async def test_a_failure_after_the_callback_is_no_reply_of_its_own(gateway, status):
    gateway.calls_back("/jobs", b"early", status=status)
    await gateway.client.request("POST", gateway.upstream.url("/jobs"))
    stats = balanced(gateway.correlator)
    assert (stats.resolved, stats.duplicate, stats.late) == (1, 0, 0)


async def test_of_two_callbacks_the_first_wins_and_both_are_told_204(gateway):
    statuses = gateway.calls_back("/jobs", b"first", b"second")
    reply = await gateway.client.request("POST", gateway.upstream.url("/jobs"))
    assert reply.body == b"first"
    assert statuses == [204, 204]
    assert gateway.correlator.stats().duplicate == 1


async def test_the_context_comes_back_to_whoever_sees_the_pending(gateway):
    seen = []

    class Observer:
        def registered(self, pending):
            seen.append(pending.context)

        settled = unmatched = refused = lambda self, *args: None

    async with gateway_of(Correlator(observers=[Observer()])) as observed:
        observed.calls_back("/jobs", b"done")
        await observed.client.request("POST", observed.upstream.url("/jobs"), context="the order")
    assert seen == ["the order"]


async def test_an_upstream_that_never_calls_back_ends_in_a_timeout(gateway):
    gateway.upstream.reply("/jobs", status=202)
    with pytest.raises(RequestTimeout):
        await gateway.client.request("POST", gateway.upstream.url("/jobs"), timeout=0.03)
    assert balanced(gateway.correlator).timed_out == 1
    url = gateway.upstream.seen[0].headers[URL_HEADER]
    async with gateway.session.post(url, data=b"late") as answer:
        assert answer.status == 410, "a token outlives its request, to tell late from unknown"
    assert gateway.correlator.stats().late == 1


async def test_an_upstream_that_never_answers_ends_in_a_timeout(gateway):
    async def hang(_request):
        await asyncio.Event().wait()

    gateway.upstream.answers["/jobs"] = hang
    with pytest.raises(RequestTimeout):
        await gateway.client.request("POST", gateway.upstream.url("/jobs"), timeout=0.03)
    assert balanced(gateway.correlator).timed_out == 1


@pytest.mark.parametrize("path", ["/accepts", "/hangs"])
async def test_a_caller_that_is_cancelled_leaves_nothing(gateway, path):
    async def hang(_request):
        await asyncio.Event().wait()

    gateway.upstream.answers["/hangs"] = hang
    gateway.upstream.reply("/accepts", status=202)
    call = asyncio.create_task(gateway.client.request("POST", gateway.upstream.url(path)))
    await until(lambda: gateway.upstream.seen)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert balanced(gateway.correlator).cancelled == 1


async def test_a_full_correlator_sends_nothing():
    async with gateway_of(Correlator(max_pending=1)) as gateway:
        with gateway.correlator.register(), pytest.raises(CapacityExceeded):
            await gateway.client.request("POST", gateway.upstream.url("/jobs"))
        assert gateway.upstream.seen == []


async def test_a_draining_correlator_sends_nothing_and_still_takes_callbacks(gateway):
    gateway.upstream.reply("/jobs", status=202)
    call = asyncio.create_task(gateway.client.request("POST", gateway.upstream.url("/jobs")))
    await until(lambda: gateway.upstream.seen)
    drain = asyncio.create_task(gateway.correlator.drain(5.0))
    await asyncio.sleep(0)
    with pytest.raises(CorrelatorClosed):
        await gateway.client.request("POST", gateway.upstream.url("/jobs"))
    url = gateway.upstream.seen[0].headers[URL_HEADER]
    async with gateway.session.post(url, data=b"done") as answer:
        assert answer.status == 204
    assert (await call).body == b"done"
    assert await drain
    assert len(gateway.upstream.seen) == 1


async def test_nothing_of_a_reply_stays_referenced_once_the_caller_let_go(gateway):
    def replies():
        gc.collect()
        return [each for each in gc.get_objects() if type(each) is CallbackReply]

    gateway.calls_back("/jobs", b"done")
    reply = await gateway.client.request("POST", gateway.upstream.url("/jobs"))
    assert replies() == [reply]
    del reply
    assert replies() == []


# -- an upstream that answers at once, or not at all -----------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_a_result_that_comes_at_once_is_the_reply(gateway, status):
    gateway.upstream.reply("/jobs", status=status, body=b"at once", headers={"X-Its": "own"})
    reply = await gateway.client.request("POST", gateway.upstream.url("/jobs"))
    assert (reply.status, reply.headers["X-Its"]) == (status, "own")
    assert reply.body == (b"" if status == 204 else b"at once")
    assert balanced(gateway.correlator).resolved == 1


@pytest.mark.parametrize("status", [304, 400, 404, 429, 500, 503])
async def test_an_upstream_that_refuses_is_a_rejection_with_its_answer(gateway, status):
    gateway.upstream.reply("/jobs", status=status, body=b"", headers={"X-Its": "own"})
    with pytest.raises(RequestRejected, match=f"answered {status}") as failure:
        await gateway.client.request("POST", gateway.upstream.url("/jobs"))
    reply = failure.value.reply
    assert (reply.status, reply.headers["x-its"]) == (status, "own")
    assert failure.value.request_id
    assert balanced(gateway.correlator).rejected == 1


async def test_what_a_refusal_says_is_in_its_reply_and_not_in_its_text(gateway):
    gateway.upstream.reply("/jobs", status=422, body=b"CANARY")
    with pytest.raises(RequestRejected) as failure:
        await gateway.client.request("POST", gateway.upstream.url("/jobs"))
    assert failure.value.reply.body == b"CANARY"
    assert "CANARY" not in str(failure.value) + repr(failure.value) + repr(failure.value.reply)


def _unused_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


async def test_an_upstream_that_is_not_there_is_a_rejection_with_the_cause(gateway):
    with pytest.raises(RequestRejected, match="could not be reached") as failure:
        await gateway.client.request("POST", f"http://127.0.0.1:{_unused_port()}/")
    assert isinstance(failure.value.__cause__, aiohttp.ClientConnectorError)
    assert failure.value.reply is None
    assert balanced(gateway.correlator).rejected == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/", "http:///nowhere"])
async def test_an_upstream_that_is_not_there_leaves_no_cycle_of_references(gateway, url):
    """Law 16: what is left for the cyclic collector counts as alive."""
    watched = []

    async def fail():
        try:
            await gateway.client.request("POST", url.format(port=_unused_port()))
        except RequestRejected as error:
            watched.extend([weakref.ref(error), weakref.ref(error.__cause__)])

    gc.collect()
    gc.disable()
    try:
        await fail()
        error, cause = watched
        assert error() is None
        # From 3.12 on, the error of a connection that is refused is in a cycle that asyncio and
        # aiohttp make: it is so without us.
        if sys.version_info < (3, 12) or url == "http:///nowhere":
            assert cause() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("path", ["/hangs-up", "/circle", "/garbled", "/half"])
async def test_an_upstream_that_breaks_off_is_a_rejection_with_the_cause(gateway, path):
    async def hang_up(request):
        request.transport.abort()
        return web.Response()

    async def half(request):
        response = web.StreamResponse(headers={"Content-Length": "10"})
        await response.prepare(request)
        await response.write(b"half")
        request.transport.close()
        return response

    gateway.upstream.answers["/hangs-up"] = hang_up
    gateway.upstream.answers["/half"] = half
    gateway.upstream.redirect("/circle", "/circle")
    gateway.upstream.reply("/garbled", headers={"Content-Encoding": "gzip"}, body=b"no gzip")
    with pytest.raises(RequestRejected, match="could not be reached") as failure:
        await gateway.client.request("POST", gateway.upstream.url(path))
    assert isinstance(failure.value.__cause__, aiohttp.ClientError)
    assert balanced(gateway.correlator).rejected == 1


async def test_a_session_that_loses_patience_first_is_a_rejection_too():
    async with gateway_of(session={"timeout": ClientTimeout(total=0.03)}) as gateway:

        async def hang(_request):
            await asyncio.Event().wait()

        gateway.upstream.answers["/jobs"] = hang
        with pytest.raises(RequestRejected, match="could not be reached") as failure:
            await gateway.client.request("POST", gateway.upstream.url("/jobs"), timeout=5.0)
        assert isinstance(failure.value.__cause__, TimeoutError)
        assert balanced(gateway.correlator).rejected == 1


@pytest.mark.parametrize("size", [100, 101, 10_000_000])
async def test_an_answer_that_is_too_large_is_a_rejection(size):
    async with gateway_of(client={"max_body": 100}) as gateway:
        compressed = zlib.compress(bytes(size))
        gateway.upstream.reply("/jobs", headers={"Content-Encoding": "deflate"}, body=compressed)
        call = gateway.client.request("POST", gateway.upstream.url("/jobs"))
        if size == 100:
            assert len((await call).body) == 100
        else:
            with pytest.raises(RequestRejected, match="too large: more than 100 bytes") as failure:
                await call
            assert failure.value.reply is None
        balanced(gateway.correlator)


async def test_a_url_that_is_none_is_a_rejection_and_leaves_nothing(gateway):
    with pytest.raises(RequestRejected, match="InvalidUrlClientError"):
        await gateway.client.request("POST", "http:///nowhere")
    balanced(gateway.correlator)


async def test_an_argument_that_aiohttp_refuses_leaves_nothing(gateway):
    with pytest.raises(ValueError, match="data and json"):
        await gateway.client.request("POST", gateway.upstream.url(), data=b"a", json={})
    assert balanced(gateway.correlator).cancelled == 1
