"""How many messages a request costs the broker, as it counts them: 2, however many replicas."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import urllib.request

import pytest
from redis import Redis

from correlator import Correlator
from correlator.transports import Message, connect

from .server import Server

REQUESTS = 60

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])


def nats_messages(server: Server) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.monitor}/varz", timeout=10) as answer:
        return json.load(answer)["in_msgs"]


def valkey_messages(server: Server) -> int:
    with Redis(port=server.port) as client:
        return client.info("commandstats").get("cmdstat_xadd", {"calls": 0})["calls"]


def rabbitmq_messages(server: Server) -> int:
    counters = server.evaluate("rabbit_global_counters:overview()")
    received = re.findall(r"messages_received_total\s*=>\s*(\d+)", counters)
    return max(map(int, received), default=0)


@pytest.fixture(params=["nats", "valkey", "rabbitmq"])
def counted(request):
    """A broker of the test's own, and what it has taken so far."""
    start = request.getfixturevalue(f"start_{request.param}_server")
    if request.param != "nats":
        return start(), globals()[f"{request.param}_messages"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start(config=f"http: 127.0.0.1:{port}")
    server.monitor = port
    return server, nats_messages


async def echo(message):
    return message.body


@pytest.mark.parametrize("replicas", [1, 3, 6])
async def test_a_request_is_two_messages_and_a_forwarded_reply_one_at_any_number_of_replicas(
    counted, replicas
):
    server, count = counted
    async with contextlib.AsyncExitStack() as stack:
        transports, correlators = [], []
        for _ in range(replicas):
            correlators.append(await stack.enter_async_context(Correlator(timeout=20.0)))
            transports.append(await stack.enter_async_context(connect(server.url, correlators[-1])))
            await stack.enter_async_context(transports[-1].serve("counted", echo))
        before = await asyncio.to_thread(count, server)
        await asyncio.gather(
            *(transports[n % replicas].request("counted", b"x") for n in range(REQUESTS))
        )
        asked = await asyncio.to_thread(count, server)
        assert asked - before == 2 * REQUESTS
        for number in range(REQUESTS):
            owner = number % replicas
            with correlators[owner].register() as pending:
                forwarding = transports[(owner + 1) % replicas]
                reply = Message(b"x")
                assert await forwarding.forward(transports[owner].owner, pending.request_id, reply)
                await pending
        assert await asyncio.to_thread(count, server) - asked == REQUESTS
