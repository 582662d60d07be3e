"""What answers the requests: an echo for each protocol, in a process of its own.

Each answers at `ECHO`, and takes what is sent to `SILENT` without an answer where its broker would
otherwise say that nobody listens.
"""

from __future__ import annotations

import sys
import time
from contextlib import asynccontextmanager

from correlator import Correlator
from correlator.transports import connect

from .worker import obey, work

ECHO, SILENT, RPC_ECHO = "bench.echo", "bench.silent", "bench.rpc"
FASTSTREAM_ECHO = "bench.faststream"
_AT_ONCE = 2_000


@asynccontextmanager
async def plain_nats(url):
    """nats-py as its documentation has it. It serves everybody on NATS."""
    import nats

    client = await nats.connect(url)

    async def echo(message):
        await message.respond(message.data)

    async def ignore(message):
        pass

    await client.subscribe(ECHO, cb=echo)
    await client.subscribe(SILENT, cb=ignore)
    await client.flush()
    yield
    await client.close()


@asynccontextmanager
async def ours(url):
    """Serve with our own `serve`."""

    async def echo(message):
        return message.body

    async with (
        Correlator() as correlator,
        connect(url, correlator) as transport,
        transport.serve(ECHO, echo, concurrency=_AT_ONCE),
    ):
        yield


@asynccontextmanager
async def aio_pika_rpc(url):
    """Register with aio_pika's RPC, which also makes a queue that nobody takes from."""
    import aio_pika
    from aio_pika.patterns import RPC

    async def echo(*, body):
        return body

    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(SILENT, durable=True)
        rpc = await RPC.create(channel)
        await rpc.register(RPC_ECHO, echo)
        yield
        await rpc.close()


@asynccontextmanager
async def faststream_redis(url):
    """Subscribe with FastStream, to a channel, which is its default."""
    from faststream.redis import RedisBroker

    broker = RedisBroker(url.replace("valkey:", "redis:"), logger=None)

    @broker.subscriber(FASTSTREAM_ECHO)
    async def echo(body: bytes) -> bytes:
        return body

    async with broker:
        await broker.start()
        yield


RESPONDERS = {
    "nats-py": plain_nats,
    "our serve": ours,
    "aio_pika RPC": aio_pika_rpc,
    "FastStream": faststream_redis,
}


async def cpu_seconds():
    return time.process_time()


async def _main(name, url):
    async with RESPONDERS[name](url):
        await obey({"cpu_seconds": cpu_seconds})


if __name__ == "__main__":
    work(_main(*sys.argv[1:]))
