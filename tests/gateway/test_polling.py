"""Jobs that are polled: `Prefer: respond-async`, and what `GET /v1/jobs/{id}` answers then."""

from __future__ import annotations

import asyncio

from .client import Client, eventually

SHORT = ("--timeout", "2", "--job-ttl", "0.5", "--", "--delay", "0.2", "--distribution", "fixed")
NEVER = ("--timeout", "0.3", "--", "--never", "1.0")
BROKEN = ("--timeout", "2", "--", "--error", "1.0")
FEW = ("--timeout", "2", "--max-pending", "2", "--", "--delay", "0.01")


async def start(client: Client, job: object) -> str:
    """Start a job that is to be polled, and return where."""
    answer = await client.job(job, Prefer="respond-async")
    assert answer.status == 202, answer
    return answer.headers["Location"]


async def ended(client: Client, location: str):
    """Poll a job until it has ended, and return the answer."""
    answers = []

    async def has_ended() -> bool:
        answers.append(await client.get(location))
        return answers[-1].status != 202

    await eventually(has_ended, f"{location} ended")
    return answers[-1]


async def test_a_client_that_will_not_wait_is_told_where_to_ask(client):
    answer = await client.job({"n": 1}, Prefer="respond-async")
    assert answer.status == 202
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json['id']}"
    assert answer.json["status"] == "pending"
    assert int(answer.headers["Retry-After"]) >= 1


async def test_a_job_is_pending_then_there_then_gone(client_of):
    client = client_of(*SHORT)
    location = await start(client, {"n": 1})
    pending = await client.get(location)
    assert pending.status == 202
    assert pending.json["status"] == "pending"
    assert pending.headers["Location"] == location
    result = await ended(client, location)
    assert (result.status, result.json) == (200, {"result": {"n": 1}})
    assert (await client.get(location)).json == {"result": {"n": 1}}  # as often as one likes

    async def is_gone() -> bool:
        return (await client.get(location)).status == 404

    await eventually(is_gone, "the result gone after its time")
    assert (await client.get(location)).is_problem(404)


async def test_a_job_may_be_polled_with_head(client):
    location = await start(client, {})
    await ended(client, location)
    answer = await client.send("HEAD", location)
    assert (answer.status, answer.body) == (200, b"")


async def test_a_job_that_got_no_answer_is_a_504_to_whoever_polls(client_of):
    client = client_of(*NEVER)
    answer = await ended(client, await start(client, {}))
    assert answer.is_problem(504)


async def test_a_job_that_was_refused_by_the_upstream_is_a_502_to_whoever_polls(client_of):
    client = client_of(*BROKEN)
    location = await start(client, {})
    assert (await ended(client, location)).is_problem(502)
    assert (await client.get(location)).is_problem(502)  # the second time too


async def test_an_unknown_job_is_a_404(client):
    for name in ("x", "0" * 22, "..%2f..", "%00", "%ff", "a" * 4000):
        assert (await client.get(f"/v1/jobs/{name}")).is_problem(404)


async def test_the_id_of_a_job_is_not_the_client_s_nor_the_one_that_pairs(scripted, upstream):
    answer = await scripted.job({}, Prefer="respond-async", X_Request_ID="mine")
    url = await upstream.job_taken()
    assert answer.headers["X-Request-ID"] == "mine"
    assert answer.json["id"] not in url
    assert (await scripted.get("/v1/jobs/mine")).is_problem(404)
    assert await upstream.call_back(url) == 204


async def test_ids_of_jobs_are_all_different_and_long(client):
    locations = await asyncio.gather(*(start(client, {}) for _ in range(50)))
    assert len(set(locations)) == 50
    assert all(len(location.removeprefix("/v1/jobs/")) >= 22 for location in locations)


async def test_each_of_many_polled_jobs_has_its_own_result(client):
    locations = await asyncio.gather(*(start(client, {"n": n}) for n in range(50)))
    answers = await asyncio.gather(*(ended(client, location) for location in locations))
    assert [answer.json for answer in answers] == [{"result": {"n": n}} for n in range(50)]


async def test_a_job_outlives_the_deadline_of_a_client_that_was_answered(client_of):
    client = client_of(*SHORT)
    answer = await client.job({"n": 1}, Prefer="respond-async", X_Envoy_Expected_Rq_Timeout_Ms="50")
    assert answer.status == 202
    assert (await ended(client, answer.headers["Location"])).json == {"result": {"n": 1}}


async def test_no_more_results_are_kept_than_jobs_may_be_under_way(client_of):
    client = client_of(*FEW)
    locations = []
    for number in range(4):
        locations.append(await start(client, {"n": number}))
        assert (await ended(client, locations[-1])).status == 200
    statuses = [(await client.get(location)).status for location in locations]
    assert statuses == [404, 404, 200, 200]


async def test_polling_settles_nothing(client):
    location = await start(client, {})
    await ended(client, location)
    before = await client.counters()
    for _ in range(5):
        await client.get(location)
        await client.get("/v1/jobs/nobody")
    assert await client.counters() == before
