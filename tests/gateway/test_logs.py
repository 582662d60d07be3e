"""The log: one JSON object a line, with the client's id from end to end, and no secrets."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

from .client import eventually, exchange, job_request
from .process import ROOT

NEVER = ("--timeout", "0.3", "--", "--never", "1.0")


async def lines_of(client, request_id: str, count: int) -> list[dict]:
    """Wait until so many lines carry an id, and return them."""
    found = []

    async def are_there() -> bool:
        found[:] = [line for line in client.gateway.log if line.get("request_id") == request_id]
        return len(found) >= count

    await eventually(are_there, f"{count} lines with {request_id}")
    return found


async def test_the_client_s_id_is_in_the_log_from_the_job_to_the_callback(client):
    answer = await client.job({}, X_Request_ID="end-to-end")
    assert answer.headers["X-Request-ID"] == "end-to-end"
    told = await lines_of(client, "end-to-end", 4)
    assert [(line["event"], line.get("route")) for line in told[:2]] == [
        ("job_taken", None),
        ("request", "/callbacks/{token}"),
    ]
    assert {(line["event"], line.get("route")) for line in told} == {
        ("job_taken", None),
        ("request", "/callbacks/{token}"),
        ("request", "/v1/jobs"),
        ("callback_sent", None),
    }
    assert {line["status"] for line in told if "status" in line} == {200, 204}


async def test_a_polled_job_keeps_the_id_of_the_client_that_posted_it(client):
    await client.job({}, Prefer="respond-async", X_Request_ID="polled-job")
    events = {line["event"] for line in await lines_of(client, "polled-job", 4)}
    assert events == {"request", "job_taken", "callback_sent"}


async def test_every_request_is_one_line_with_route_status_and_time(client):
    for method, path, status in [
        ("GET", "/healthz", 200),
        ("GET", "/v1/jobs/some-secret-id", 404),
        ("DELETE", "/v1/jobs", 405),
        ("GET", "/etc/passwd?x=1", 404),
    ]:
        request_id = f"line-{status}-{len(path)}"
        await client.send(method, path, headers={"X-Request-ID": request_id})
        (line,) = await lines_of(client, request_id, 1)
        assert line["event"] == "request"
        assert line["level"] == "info"
        assert line["method"] == method
        assert line["status"] == status
        assert line["route"] in ("/healthz", "/v1/jobs/{id}", "none")
        assert line["ms"] >= 0
        assert line["timestamp"].endswith("Z")
        assert "passwd" not in str(line)
        assert "secret" not in str(line)


async def test_a_timeout_is_a_warning(client_of):
    client = client_of(*NEVER)
    lines = len(client.gateway.errors)
    assert (await client.job({}, X_Request_ID="timed-out")).is_problem(504)
    await lines_of(client, "timed-out", 2)
    warnings = [line for line in client.gateway.log[lines:] if line["level"] == "warning"]
    (warning,) = warnings
    assert warning["event"] == "correlator.request_timed_out"
    assert 0.3 <= warning["age_s"] < 5
    assert warning["timeout_s"] == 0.3


async def test_no_payload_token_or_header_gets_into_the_log(own, upstream):
    client = own("--upstream", upstream.url, "--timeout", "5", "--log-level", "debug")
    asking = asyncio.create_task(
        client.job(
            {"canary": "in the job"},
            X_Canary="canary",
            Authorization="Bearer canary",
            Prefer="canary=canary",
            Cookie="canary=canary",
        )
    )
    url = await upstream.job_taken()
    token = url.rsplit("/", 1)[1]
    forged = url[:-4] + "AAAA"
    assert await upstream.call_back(forged, b"canary") == 404
    assert await upstream.call_back(url, b"canary", headers={"X-Canary": "canary"}) == 204
    assert await upstream.call_back(url, b"canary again") == 204
    assert (await asking).body == b"canary"
    await client.get("/v1/jobs/canary?canary=canary")
    location = (await client.job({}, Prefer="respond-async")).headers["Location"]
    assert await upstream.call_back(await upstream.job_taken(2)) == 204
    await exchange(client.gateway, b"GET /canary HTTP/canary\r\n\r\n")
    await exchange(client.gateway, job_request(b'{"canary": '))
    everything = "\n".join(client.gateway.output + client.gateway.errors)
    assert "correlator.reply_duplicate" in everything
    assert "canary" not in everything
    assert token.rsplit(".", 1)[1] not in everything
    assert location.rsplit("/", 1)[1] not in everything


async def test_what_is_logged_can_be_limited(own):
    client = own("--log-level", "error", "--timeout", "0.2", "--", "--never", "1.0")
    assert (await client.job({})).is_problem(504)
    assert client.gateway.errors == []


async def test_bad_http_fills_no_log(own):
    client = own()
    for _ in range(20):
        assert (await exchange(client.gateway, b"\0\0\0\r\n\r\n")).is_problem(400)
    await client.get("/healthz")
    assert len(client.gateway.errors) <= 21


async def test_a_method_that_nobody_knows_breaks_no_line(client):
    for method in (b"X-EVIL", b"M-SEARCH", b"PROPFIND"):
        request = job_request(b"", b"X-Request-ID: odd-method", method=method, path=b"/stats")
        answer = await exchange(client.gateway, request)
        assert answer.is_problem(405) if method != b"X-EVIL" else answer.is_problem(400)
    client.gateway.check_log()


async def test_a_client_that_left_is_not_logged_as_a_failure_of_the_gateway(own):
    client = own("--timeout", "30", "--", "--never", "1.0")
    async with client.waiting(1, X_Request_ID="gone"):
        pass
    await client.idle()
    (line,) = [each for each in await lines_of(client, "gone", 2) if each["event"] == "request"]
    assert line["route"] == "/v1/jobs"
    assert line["status"] != 500  # which nobody was sent


def test_an_exception_is_logged_with_what_it_was_and_where():
    crash = """
import structlog
from examples.gateway.logs import configure_logging
configure_logging("info")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger("gateway").exception("handler_crashed")
"""
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-W", "error", "-c", crash],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["event"] == "handler_crashed"
    assert "ZeroDivisionError" in line
    assert "1 / 0" in line or "line 6" in line
