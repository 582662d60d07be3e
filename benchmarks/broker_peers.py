"""Those that ask: we, and on each broker what people use there now. One class each.

All have `request`, which sends `BODY` and returns what came back; `fail`, a request that cannot be
sent; and `held`, what is still kept of requests that have ended.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from correlator import Correlator, new_request_id
from correlator.transports import connect

from .broker_responder import ECHO, FASTSTREAM_ECHO, RPC_ECHO

# No JSON, for FastStream would read it, and that is not what is measured.
BODY = (
    b"order 7: apples, pears; note: as usual; customer: c-104-77-x; by: Friday; to: the back door"
)
NOT_THERE = "bench.not-there"
WRONG_TYPE = "bench.wrong-type"  # a key of Redis that can be neither appended to nor pushed to
TOO_LARGE = b"x" * (1 << 20 | 1)  # for NATS, as it is configured by default
_PATIENCE = 120.0  # seconds: where a peer is slow, it is to be measured and not to fail
_REMEMBERED = 110_000  # more than are remembered by default: from there on ids are dropped


class Ours:
    """A replica of ours, with the defaults of `Correlator` and `connect`."""

    fails_at = NOT_THERE
    fails_with = BODY

    async def open(self, url, stack):
        self._correlator = await stack.enter_async_context(Correlator(timeout=_PATIENCE))
        transport = connect(url, self._correlator)
        self._transport = await stack.enter_async_context(transport)

    async def age(self):
        """Bring the correlator to where it is after a while: it remembers all it ever will."""
        for _ in range(_REMEMBERED):
            request_id = new_request_id()
            pending = self._correlator.register(request_id)
            self._correlator.resolve(request_id, None)
            await pending

    async def request(self, destination=ECHO, timeout=None):
        return (await self._transport.request(destination, BODY, timeout=timeout)).body

    async def fail(self):
        await self._transport.request(self.fails_at, self.fails_with)

    def held(self):
        return {
            "pending": len(self._correlator),
            "outbox": len(self._transport._outbox),
            "groups": len(self._correlator._groups),
        }


class OursOnNats(Ours):
    fails_at = ECHO
    fails_with = TOO_LARGE


class OursOnValkey(Ours):
    fails_at = WRONG_TYPE


class OursOnRabbitmq(Ours):
    def held(self):
        return super().held() | {"unconfirmed": len(self._transport._session._unconfirmed)}


class OursToRpc(OursOnRabbitmq):
    """Call what was registered with aio_pika's RPC: pickles go there, and come back."""

    async def request(self, destination=RPC_ECHO, timeout=None):
        body = pickle.dumps({"body": BODY})
        reply = await self._transport.request(destination, body, timeout=timeout)
        return pickle.loads(reply.body)  # noqa: S301  # our own responder's


class NatsPy:
    async def open(self, url, stack):
        import nats

        self._client = await nats.connect(url)
        stack.push_async_callback(self._client.close)

    async def request(self, destination=ECHO, timeout=_PATIENCE):
        return (await self._client.request(destination, BODY, timeout=timeout)).data

    async def fail(self):
        await self._client.request(ECHO, TOO_LARGE, timeout=_PATIENCE)

    def held(self):
        return {"_resp_map": len(self._client._resp_map)}


class AioPikaRpc:
    async def open(self, url, stack):
        import aio_pika
        from aio_pika.patterns import RPC

        connection = await stack.enter_async_context(await aio_pika.connect(url))
        self._rpc = await RPC.create(await connection.channel())
        stack.push_async_callback(self._rpc.close)

    async def request(self, destination=RPC_ECHO, timeout=None):
        async with asyncio.timeout(timeout):
            return await self._rpc.call(destination, {"body": BODY}, expiration=timeout)

    async def fail(self):
        await self._rpc.call(NOT_THERE, {"body": BODY})

    def held(self):
        return {"futures": len(self._rpc.futures)}


class _FastStream:
    async def open(self, url, stack):
        self._broker = self._make(url)
        await stack.enter_async_context(self._broker)
        await self._broker.start()

    async def request(self, destination=ECHO, timeout=_PATIENCE):
        return (await self._broker.request(BODY, destination, timeout=timeout)).body


class FastStreamOnNats(_FastStream):
    def _make(self, url):
        from faststream.nats import NatsBroker

        return NatsBroker(url, logger=None)

    async def fail(self):
        await self._broker.request(TOO_LARGE, ECHO, timeout=_PATIENCE)

    def held(self):
        return {"_resp_map": len(self._broker._connection._resp_map)}


class FastStreamOnRedis(_FastStream):
    def _make(self, url):
        from faststream.redis import RedisBroker

        return RedisBroker(url.replace("valkey:", "redis:"), logger=None)

    async def request(self, destination=FASTSTREAM_ECHO, timeout=_PATIENCE):
        return await super().request(destination, timeout)

    async def fail(self):
        await self._broker.request(BODY, list=WRONG_TYPE, timeout=_PATIENCE)

    def held(self):
        pool = self._broker._connection.connection_pool
        return {
            "connections in use": len(pool._in_use_connections),
            "idle": len(pool._available_connections),
        }


class FastStreamOnRabbitmq(_FastStream):
    def _make(self, url):
        from faststream.rabbit import RabbitBroker

        logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # each message that came back
        return RabbitBroker(url, logger=None)

    async def fail(self):
        # It takes no notice of a message that comes back, and waits on: so not for long.
        await self._broker.request(BODY, NOT_THERE, timeout=0.01)

    def held(self):
        return {}  # it keeps none: what is left is seen in tasks, and at the broker


@dataclass(frozen=True, slots=True)
class Peer:
    """One that asks on a broker.

    Attributes:
        make: its class.
        responder: what answers it, a name of `RESPONDERS`.
        in_flight: how many requests at once it is measured with.
        at_once: how many of those that end otherwise it makes at once.
        timeout: seconds of those that time out.
    """

    make: Any
    responder: str
    in_flight: tuple[int, ...] = (1, 100, 1_000)
    at_once: int = 1_000
    timeout: float = 0.5


OURS = "ours"
OURS_TO_RPC = "ours, to aio_pika's RPC"
NATS_PY = "nats-py request()"
RPC = "aio_pika RPC.call"
FASTSTREAM = "FastStream request()"

PEERS = {
    "nats": {
        OURS: Peer(OursOnNats, "nats-py"),
        NATS_PY: Peer(NatsPy, "nats-py"),
        FASTSTREAM: Peer(FastStreamOnNats, "nats-py"),
    },
    "valkey": {
        OURS: Peer(OursOnValkey, "our serve", (1, 40, 100, 1_000, 2_000)),
        # It opens a connection for each request, of a hundred that its client has at most.
        FASTSTREAM: Peer(FastStreamOnRedis, "FastStream", (1, 40), at_once=40, timeout=0.1),
    },
    "rabbitmq": {
        OURS: Peer(OursOnRabbitmq, "our serve"),
        OURS_TO_RPC: Peer(OursToRpc, "aio_pika RPC"),
        RPC: Peer(AioPikaRpc, "aio_pika RPC"),
        # It makes one request after the other, each with a consumer of its own.
        FASTSTREAM: Peer(FastStreamOnRabbitmq, "our serve", timeout=0.01),
    },
}


async def opened(make, url, stack):
    """Return one that is connected, until the stack is left."""
    peer = make()
    # With a stack of its own, so that what fails halfway is closed.
    await peer.open(url, await stack.enter_async_context(AsyncExitStack()))
    return peer
