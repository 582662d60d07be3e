"""Three real gateways on a real broker, as processes, and an upstream that calls back anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from aiohttp import ClientSession, TCPConnector, web

from ..gateway.client import Client, eventually
from ..gateway.process import Gateway, run_to_end

KEY = "a key of the tests that is long enough"
BROKERS = ["nats", "valkey", "rabbitmq"]
SHARED = ["nats", "valkey"]  # those that keep replies for all replicas


@pytest.fixture(params=BROKERS)
def broker(request):
    if request.param == "nats":
        return request.getfixturevalue("start_nats_server")(jetstream=True)
    return request.getfixturevalue(f"{request.param}_server")


class Upstream:
    """Takes jobs; a test calls back for it."""

    def __init__(self):
        self.callbacks = {}  # by the job's number

    async def take(self, request):
        job = await request.json()
        self.callbacks[job["n"]] = request.headers["Callback-URL"]
        return web.Response(status=202)


@pytest.fixture
async def upstream():
    upstream = Upstream()
    app = web.Application()
    app.router.add_post("/jobs", upstream.take)
    runner = web.AppRunner(app)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await web.SockSite(runner, listener).start()
        upstream.url = f"http://127.0.0.1:{listener.getsockname()[1]}/jobs"
        yield upstream
        await runner.cleanup()


class Cluster:
    """Three replicas, and one who talks to any of them."""

    def __init__(self, replicas, session, upstream):
        self.replicas = replicas
        self.clients = [Client(replica, session) for replica in replicas]
        self._session = session
        self._upstream = upstream

    async def taken(self, number):
        async def is_there():
            return number in self._upstream.callbacks

        await eventually(is_there, f"job {number} taken")

    async def call_back(self, number, at):
        """Answer a job at the replica of that index, whichever asked."""
        token = self._upstream.callbacks[number].rsplit("/", 1)[1]
        url = f"{self.replicas[at].url}/callbacks/{token}"
        async with self._session.post(url, json={"answer": number}) as response:
            return response.status


@pytest.fixture
async def cluster(broker, upstream):
    options = ("--broker", broker.url, "--upstream", upstream.url, "--timeout", "10")
    with contextlib.ExitStack() as running:
        replicas = []
        for _ in range(3):
            replicas.append(Gateway(*options, GATEWAY_KEYS=KEY))
            running.callback(replicas[-1].kill)
        async with ClientSession(connector=TCPConnector(limit=0)) as session:
            yield Cluster(replicas, session, upstream)
        for replica in replicas:
            if replica.running:
                await asyncio.to_thread(replica.stop)


async def test_a_callback_at_any_replica_answers_the_client_that_waits(cluster):
    async def ask(number):
        asking = asyncio.create_task(cluster.clients[number % 3].job({"n": number}))
        await cluster.taken(number)
        assert await cluster.call_back(number, (number + 1) % 3) == 204
        answer = await asking
        assert (answer.status, answer.json) == (200, {"answer": number})

    await asyncio.gather(*map(ask, range(60)))
    for client in cluster.clients:
        stats = await client.stats()
        assert stats["registered"] == stats["resolved"] == 20
        assert stats["transport"]["forwarded"] == 20
        assert stats["pending"] == stats["unknown"] == 0


@pytest.mark.parametrize("broker", SHARED, indirect=True)
async def test_a_job_may_be_polled_at_any_replica(cluster):
    one, two, _three = cluster.clients
    location = (await one.job({"n": 1}, Prefer="respond-async")).headers["Location"]
    await cluster.taken(1)
    assert (await two.get(location)).status == 202
    assert await cluster.call_back(1, 2) == 204

    async def have_heard():  # the reply is kept before it reaches who waits for it
        return {(await client.get(location)).status for client in cluster.clients} == {200}

    await eventually(have_heard, "the job ended")
    for client in cluster.clients:
        assert (await client.get(location)).json == {"answer": 1}
    forged = location.replace("v1.", "v1.x", 1)
    assert (await two.get(forged)).is_problem(404)


@pytest.mark.parametrize("broker", ["nats"], indirect=True)  # others wait for an address to expire
async def test_a_job_outlives_the_replica_that_took_it(cluster):
    one, two, three = cluster.clients
    location = (await one.job({"n": 1}, Prefer="respond-async")).headers["Location"]
    await cluster.taken(1)
    await asyncio.to_thread(cluster.replicas[0].kill)

    async def is_taken():  # a broker may need a moment to see that somebody has died
        return await cluster.call_back(1, 1) == 204

    await eventually(is_taken, "the callback taken")

    async def is_kept():
        return (await three.get(location)).status == 200

    await eventually(is_kept, "the reply kept")
    assert (await two.get(location)).json == {"answer": 1}


def test_a_broker_needs_keys_that_replicas_share():
    done = run_to_end("--broker", "nats://127.0.0.1:1", GATEWAY_KEYS="")
    assert done.returncode == 2
    assert "GATEWAY_KEYS" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1", "nonsense", "nats", "", "nats:", "nats://h:99999", "nats://[::1"]
    + ["redis://h/x", "amqp://h?heartbeat=3", "memory:"],
)
def test_a_url_that_is_no_brokers_is_refused_in_one_line(url):
    done = run_to_end("--broker", url, GATEWAY_KEYS=KEY)
    assert done.returncode == 2
    assert "--broker" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("scheme", ["nats", "valkey", "amqp"])
def test_a_broker_that_is_not_there_is_told_in_one_line_without_its_password(scheme):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    done = run_to_end(
        "--port", "0", "--broker", f"{scheme}://user:canary@127.0.0.1:{port}", GATEWAY_KEYS=KEY
    )
    assert done.returncode == 1
    assert "broker" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "canary" not in done.stderr
