"""A NATS service that has never heard of us: nats-py's service API, and its error headers.

python nats_service.py URL SUBJECT
"""

from __future__ import annotations

import asyncio
import sys

import nats
import nats.micro


async def main(url, subject):
    client = await nats.connect(url)

    async def handle(request):
        if request.data == b"bad":
            await request.respond_error("422", "that is bad", data=b"because")
        else:
            await request.respond(request.data.upper(), headers={"Seen": "yes"})

    service = await nats.micro.add_service(client, name="foreign", version="1.0.0")
    await service.add_endpoint(name="shout", subject=subject, handler=handle)
    await client.flush()
    print("ready", flush=True)  # noqa: T201  # whoever started it waits for this
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
