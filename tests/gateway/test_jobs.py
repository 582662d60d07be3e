"""Jobs that are answered, or that get no answer: what a client sees, and what is counted."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shlex

import pytest

from correlator import CorrelatorStats

from .client import exchange, job_request, read_answer

NEVER = ("--timeout", "0.3", "--", "--never", "1.0")
SLOW = ("--timeout", "20", "--max-pending", "2", "--", "--never", "1.0")
MIXED = ("--timeout", "1", "--", "--seed", "7", "--never", "0.1", "--twice", "0.1")
MIXED += ("--error", "0.1", "--late", "0.1", "--late-by", "1.5")


async def test_a_job_is_answered_with_its_result(client):
    answer = await client.job({"order": 42})
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Preference-Applied" not in answer.headers
    assert answer.json == {"result": {"order": 42}}


async def test_a_job_that_was_answered_counts_as_resolved(client):
    before = await client.counters()
    await client.job({})
    after = await client.counters()
    assert after == before | {
        "registered": before["registered"] + 1,
        "resolved": before["resolved"] + 1,
    }


async def test_a_client_without_an_id_gets_one(client):
    ids = {(await client.job({})).headers["X-Request-ID"] for _ in range(3)}
    assert len(ids) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


async def test_a_client_with_an_id_gets_it_back(client):
    answer = await client.job({}, X_Request_ID="my-id.4_2")
    assert answer.headers.getall("X-Request-ID") == ["my-id.4_2"]


async def test_errors_carry_the_client_s_id_too(client):
    answer = await client.send("GET", "/nowhere", headers={"X-Request-ID": "lost"})
    assert answer.is_problem(404)
    assert answer.headers.getall("X-Request-ID") == ["lost"]
    assert answer.json["request_id"] == "lost"


async def test_the_upstream_gets_the_job_as_it_was_sent(scripted, upstream):
    body = b' {"n": 1.50,  "\\u00e4": "\xc3\xa4", "n": 2} '
    asking = asyncio.create_task(
        scripted.send(
            "POST",
            "/v1/jobs",
            data=body,
            headers={
                "Content-Type": "application/json",
                "X-Request-ID": "client-7",
                "X-Envoy-Expected-Rq-Timeout-Ms": "1500",
                "Authorization": "Bearer canary",
                "Cookie": "canary=1",
            },
        )
    )
    callback = await upstream.job_taken()
    request, received = upstream.seen[0]
    assert request.method == "POST"
    assert received == body
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["X-Request-ID"] == "client-7"
    assert 0 < int(request.headers["X-Envoy-Expected-Rq-Timeout-Ms"]) <= 1500
    assert "canary" not in str(request.headers)  # what is the client's own stays with it
    assert callback.startswith(scripted.gateway.url + "/callbacks/v1.")
    assert await upstream.call_back(callback) == 204
    assert (await asking).status == 200


async def test_the_client_gets_the_result_as_it_came(scripted, upstream):
    asking = asyncio.create_task(scripted.job({}))
    body = bytes(range(256))
    url = await upstream.job_taken()
    assert await upstream.call_back(url, body, headers={"Content-Type": "image/x-odd"}) == 204
    answer = await asking
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["Content-Type"] == "image/x-odd"


async def test_no_answer_in_time_is_a_504(client_of):
    client = client_of(*NEVER)
    before = await client.counters()
    started = asyncio.get_running_loop().time()
    answer = await client.job({}, X_Request_ID="patient")
    took = asyncio.get_running_loop().time() - started
    assert answer.is_problem(504)
    assert answer.json["request_id"] == "patient"
    assert 0.3 <= took < 5
    assert (await client.counters())["timed_out"] == before["timed_out"] + 1


async def test_a_caller_s_deadline_shortens_the_wait(client_of):
    client = client_of(*SLOW)
    started = asyncio.get_running_loop().time()
    answer = await client.job({}, X_Envoy_Expected_Rq_Timeout_Ms="200")
    took = asyncio.get_running_loop().time() - started
    assert answer.is_problem(504)
    assert 0.2 <= took < 10


@pytest.mark.parametrize(
    "milliseconds", ["", "0", "-1", "1.5", "1e3", "soon", "9" * 30, "+1", "0x1", "1 1"]
)
async def test_a_deadline_that_is_none_is_ignored(client, milliseconds):
    assert (await client.job({}, X_Envoy_Expected_Rq_Timeout_Ms=milliseconds)).status == 200


@pytest.mark.parametrize("prefer", [None, "respond-async", "wait=5"])
async def test_a_full_gateway_says_so_and_when_to_come_back(client_of, prefer):
    client = client_of(*SLOW)
    async with client.waiting(2):
        before = await client.counters()
        answer = await client.job({}, **({} if prefer is None else {"Prefer": prefer}))
        assert answer.is_problem(503)
        # Up to the timeout, and what the correlator's resolution and whole seconds add to it.
        assert 1 <= int(answer.headers["Retry-After"]) <= 21
        assert "Location" not in answer.headers
        assert await client.counters() == before | {"refused": before["refused"] + 1}
    await client.idle()


async def test_a_gateway_that_was_full_takes_jobs_again(client_of):
    client = client_of("--timeout", "5", "--max-pending", "1", "--", "--delay", "0.2")
    first, second = await asyncio.gather(client.job({"n": 1}), client.job({"n": 2}))
    assert sorted([first.status, second.status]) == [200, 503]
    assert (await client.job({"n": 3})).json == {"result": {"n": 3}}


async def test_it_is_alive_and_ready(client):
    assert (await client.get("/healthz")).json == {"status": "ok"}
    assert (await client.get("/readyz")).json == {"status": "ready"}


async def test_the_stats_are_those_of_the_correlator(client):
    stats = await client.stats()
    assert list(stats) == [field.name for field in dataclasses.fields(CorrelatorStats)]
    assert all(type(value) in (int, float) and value >= 0 for value in stats.values())


@pytest.mark.parametrize("size", [1 << 16, (1 << 20) - 1, 1 << 20])
async def test_jobs_and_results_of_any_size_up_to_the_bound_are_taken(scripted, upstream, size):
    body = b'{"text": "' + b"x" * (size - len('{"text": ""}')) + b'"}'
    headers = {"Content-Type": "application/json"}
    asking = asyncio.create_task(scripted.send("POST", "/v1/jobs", data=body, headers=headers))
    url = await upstream.job_taken()
    assert len(upstream.seen[0][1]) == size
    assert await upstream.call_back(url, body) == 204
    assert (await asking).body == body


async def test_a_connection_carries_jobs_one_after_the_other_in_order(client):
    gateway = client.gateway
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
    writer.write(b"".join(job_request(b'{"n": %d}' % number) for number in range(10)))
    async with asyncio.timeout(5):
        for number in range(10):
            assert (await read_answer(reader)).json == {"result": {"n": number}}
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_asks_before_it_sends_the_body_is_told_to_go_on(client):
    head, body = job_request(b'{"n": 1}', b"Expect: 100-continue").split(b"\r\n\r\n")
    answer = await exchange(client.gateway, head + b"\r\n\r\n", body)
    assert answer.json == {"result": {"n": 1}}


async def test_each_of_many_clients_gets_its_own_result_whatever_goes_wrong(client_of):
    client = client_of(*MIXED)
    before = await client.counters()

    async def ask(number: int) -> int:
        answer = await client.job({"n": number}, X_Request_ID=f"client-{number}")
        assert answer.headers["X-Request-ID"] == f"client-{number}"
        if answer.status == 200:
            assert answer.json == {"result": {"n": number}}
        else:
            assert answer.is_problem(answer.status)
            assert answer.json["request_id"] == f"client-{number}"
        return answer.status

    statuses = await asyncio.gather(*map(ask, range(200)))
    assert set(statuses) == {200, 502, 504}
    after = await client.counters()
    gone = {name: after[name] - before[name] for name in after}
    assert gone["registered"] == 200
    assert gone["resolved"] == statuses.count(200)
    assert gone["rejected"] == statuses.count(502)
    assert gone["timed_out"] == statuses.count(504)
    assert gone["duplicate"] > 0
    assert gone["unknown"] == gone["cancelled"] == gone["closed"] == 0


async def test_clients_that_all_send_the_same_id_get_each_their_own_result(client):
    answers = await asyncio.gather(
        *(client.job({"n": number}, X_Request_ID="0") for number in range(100))
    )
    assert [answer.json for answer in answers] == [{"result": {"n": n}} for n in range(100)]
    assert {answer.headers["X-Request-ID"] for answer in answers} == {"0"}


async def test_what_it_prints_to_try_works(client):
    lines = [line.strip() for line in client.gateway.output]
    tries = [shlex.split(line) for line in lines if line.startswith("curl ")]
    assert len(tries) == 6
    for words in tries:
        headers = dict(
            words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H"
        )
        data = words[words.index("-d") + 1] if "-d" in words else None
        (url,) = (word for word in words if word.startswith("http://"))
        answer = await client.send(
            "GET" if data is None else "POST",
            url.removeprefix(client.gateway.url),
            data=data,
            headers=headers,
        )
        assert answer.status in (200, 202), words
