"""What an upstream may do wrong, and what the client and the upstream are told then."""

from __future__ import annotations

import asyncio
import gzip
import io
import socket

import pytest
from aiohttp import web

from .client import chunk, eventually, exchange, job_request

BROKEN = ("--timeout", "5", "--", "--error", "1.0")
TWICE = ("--timeout", "5", "--", "--twice", "1.0", "--delay", "0.01")
LATE = ("--timeout", "0.3", "--", "--late", "1.0", "--late-by", "0.8")


async def reported(client, status: int, count: int) -> None:
    """Wait until the simulator has logged so many callbacks that were answered with `status`."""

    async def has_logged() -> bool:
        lines = client.gateway.log
        return [line.get("status") for line in lines if line["event"] == "callback_sent"].count(
            status
        ) >= count

    await eventually(has_logged, f"{count} callbacks answered with {status}")


async def test_an_upstream_that_answers_500_is_a_502(client_of):
    client = client_of(*BROKEN)
    before = await client.counters()
    answer = await client.job({})
    assert answer.is_problem(502)
    assert "500" not in answer.body.decode()  # what is behind the gateway is not the client's
    assert (await client.counters())["rejected"] == before["rejected"] + 1


async def test_an_upstream_that_is_down_is_a_502(client_of):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    client = client_of("--timeout", "5", "--upstream", f"http://127.0.0.1:{port}/jobs")
    assert (await client.job({})).is_problem(502)
    stats = await client.stats()
    assert (stats["registered"], stats["rejected"], stats["pending"]) == (1, 1, 0)


async def test_a_second_callback_is_a_duplicate_and_has_no_effect(client_of):
    client = client_of(*TWICE)
    answers = await asyncio.gather(*(client.job({"n": n}) for n in range(5)))
    assert [answer.json for answer in answers] == [{"result": {"n": n}} for n in range(5)]
    await reported(client, 204, 10)
    stats = await client.stats()
    assert (stats["resolved"], stats["duplicate"]) == (5, 5)
    assert stats["late"] == stats["unknown"] == 0


async def test_a_late_callback_is_a_410_and_has_no_effect(client_of):
    client = client_of(*LATE)
    assert (await client.job({})).is_problem(504)
    location = (await client.job({}, Prefer="respond-async")).headers["Location"]
    await client.idle()
    await reported(client, 410, 2)
    stats = await client.stats()
    assert (stats["timed_out"], stats["late"], stats["resolved"]) == (2, 2, 0)
    assert (await client.get(location)).is_problem(504)


async def test_an_upstream_that_answers_at_once_saves_the_callback(scripted, upstream):
    async def at_once(request):
        return web.json_response({"fast": True})

    upstream.answer = at_once
    assert (await scripted.job({})).json == {"fast": True}
    assert await upstream.call_back(await upstream.job_taken()) == 204  # a duplicate


async def test_a_callback_that_comes_before_the_202_is_the_result(scripted, upstream):
    async def eager(request):
        assert await upstream.call_back(request.headers["Callback-URL"], b'"eager"') == 204
        return web.Response(status=202)

    upstream.answer = eager
    assert (await scripted.job({})).json == "eager"


async def test_a_callback_counts_even_if_the_upstream_then_fails(scripted, upstream):
    async def confused(request):
        assert await upstream.call_back(request.headers["Callback-URL"], b'"done"') == 204
        return web.Response(status=500)

    upstream.answer = confused
    assert (await scripted.job({})).json == "done"


@pytest.mark.parametrize("status", [300, 304, 400, 404, 409, 429, 500, 503, 599])
async def test_an_upstream_that_refuses_is_a_502(scripted, upstream, status):
    async def refuse(request):
        return web.Response(status=status, text="" if status == 304 else "a secret of the upstream")

    upstream.answer = refuse
    answer = await scripted.job({})
    assert answer.is_problem(502)
    assert "secret" not in answer.body.decode()


async def test_an_upstream_that_hangs_up_is_a_502(scripted, upstream):
    async def hang_up(request):
        request.transport.abort()
        return web.Response()

    upstream.answer = hang_up
    assert (await scripted.job({})).is_problem(502)


async def test_an_upstream_that_breaks_off_its_answer_is_a_502(scripted, upstream):
    async def break_off(request):
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        request.transport.abort()
        return response

    upstream.answer = break_off
    assert (await scripted.job({})).is_problem(502)


async def test_an_upstream_that_answers_too_much_is_a_502(scripted, upstream):
    async def bomb(request):
        return web.Response(
            body=gzip.compress(bytes(20_000_000)), headers={"Content-Encoding": "gzip"}
        )

    upstream.answer = bomb
    before = scripted.gateway.peak_memory()
    assert (await scripted.job({})).is_problem(502)
    assert scripted.gateway.peak_memory() - before < 10_000_000


async def test_an_upstream_that_never_answers_is_interrupted_at_the_deadline(scripted, upstream):
    async def never(request):
        await asyncio.Event().wait()

    upstream.answer = never
    answer = await scripted.job({}, X_Envoy_Expected_Rq_Timeout_Ms="200")
    assert answer.is_problem(504)


async def test_a_redirect_within_the_upstream_carries_the_job_and_its_callback(scripted, upstream):
    async def redirect(request):
        if request.path == "/jobs":
            return web.Response(status=307, headers={"Location": "/moved"})
        assert await upstream.call_back(request.headers["Callback-URL"], b'"moved"') == 204
        return web.Response(status=202)

    upstream.answer = redirect
    assert (await scripted.job({})).json == "moved"


async def test_a_redirect_to_elsewhere_does_not_carry_the_callback(scripted, upstream):
    async def redirect(request):
        if request.path == "/jobs":
            elsewhere = upstream.url.replace("127.0.0.1", "localhost") + "/elsewhere"
            return web.Response(status=307, headers={"Location": elsewhere})
        return web.Response(status=400)

    upstream.answer = redirect
    assert (await scripted.job({})).is_problem(502)
    (first, _), (second, _) = upstream.seen
    assert "Callback-URL" in first.headers
    assert "Callback-URL" not in second.headers
    assert "X-Request-ID" not in second.headers


async def test_cookies_of_the_upstream_are_not_carried_from_one_client_to_the_next(own, upstream):
    async def set_cookie(request):
        return web.Response(text="{}", headers={"Set-Cookie": "session=canary"})

    upstream.answer = set_cookie
    by_name = upstream.url.replace("127.0.0.1", "localhost")  # cookies of bare addresses are none
    client = own("--upstream", by_name)
    assert (await client.job({"client": 1})).status == 200
    assert (await client.job({"client": 2})).status == 200
    assert [request.headers.get("Cookie") for request, _ in upstream.seen] == [None, None]


async def test_a_callback_that_is_too_large_is_a_413_and_the_job_waits_on(scripted, upstream):
    asking = asyncio.create_task(scripted.job({}))
    url = await upstream.job_taken()
    before = scripted.gateway.peak_memory()
    bomb = gzip.compress(bytes(100_000_000))
    assert await upstream.call_back(url, io.BytesIO(bytes(1_048_577))) == 413
    assert await upstream.call_back(url, bomb, headers={"Content-Encoding": "gzip"}) == 413
    assert scripted.gateway.peak_memory() - before < 10_000_000
    assert (await scripted.stats())["pending"] == 1
    assert await upstream.call_back(url, b'"small"') == 204
    assert (await asking).json == "small"


async def test_a_callback_that_is_broken_is_a_400_and_the_job_waits_on(scripted, upstream):
    asking = asyncio.create_task(scripted.job({}))
    path = (await upstream.job_taken()).removeprefix(scripted.gateway.url).encode()
    broken = job_request(b"no gzip", b"Content-Encoding: gzip", path=path)
    assert (await exchange(scripted.gateway, broken)).is_problem(400)
    chunks = job_request(b"", b"Transfer-Encoding: chunked", path=path, sized=False)
    assert (await exchange(scripted.gateway, chunks + b"zz\r\n")).is_problem(400)
    cut = job_request(b"", b"Content-Length: 10", path=path, sized=False)
    _, writer = await asyncio.open_connection(scripted.gateway.host, scripted.gateway.port)
    writer.write(cut + b"half")
    writer.close()
    await writer.wait_closed()
    assert (await scripted.stats())["pending"] == 1
    whole = job_request(b"", b"Transfer-Encoding: chunked", path=path, sized=False)
    assert (await exchange(scripted.gateway, whole + chunk(b'"ok"') + chunk(b""))).status == 204
    assert (await asking).json == "ok"


@pytest.mark.parametrize(
    "content_type", [b"\xff", b"text/html; charset=\xc3\xa9", b"x" * 4_000, b""]
)
async def test_a_callback_of_any_content_type_gives_its_body(scripted, upstream, content_type):
    asking = asyncio.create_task(scripted.job({}))
    path = (await upstream.job_taken()).removeprefix(scripted.gateway.url).encode()
    callback = job_request(b"body", path=path, content_type=content_type)
    assert (await exchange(scripted.gateway, callback)).status == 204
    answer = await asking
    assert answer.status in (200, 502)
    assert answer.status == 502 or answer.body == b"body"


async def test_no_token_but_the_right_one_settles_a_job(scripted, upstream):
    asking = asyncio.create_task(scripted.job({}))
    url = await upstream.job_taken()
    before = await scripted.counters()
    path, token = url.rsplit("/", 1)
    forged = [
        token[:at] + ("A" if each != "A" else "B") + token[at + 1 :]
        for at, each in enumerate(token)
    ]
    forged += [token + "A", token[:-1], token.upper(), token + "=", token.replace("v1", "v2")]
    forged += [token.rsplit(".", 1)[0], "v1....", f"{token}%00", f"%20{token}", f"{token}/"]
    version, owner, request_id, expiry, mac = token.split(".")
    forged += [
        f"{version}.{owner}.{request_id}.{int(expiry) + 1}.{mac}",
        f"{version}.{owner}.{mac}.{expiry}.{mac}",
        f"{version}.other.{request_id}.{expiry}.{mac}",
    ]
    for each in forged:
        assert await upstream.call_back(f"{path}/{each}", b'"forged"') == 404, each
    assert await scripted.counters() == before
    assert await upstream.call_back(url, b'"genuine"') == 204
    assert (await asking).json == "genuine"
