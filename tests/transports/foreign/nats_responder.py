"""A NATS responder that has never heard of us: plain nats-py, as its own documentation has it.

python nats_responder.py URL SUBJECT
"""

from __future__ import annotations

import asyncio
import sys

import nats


async def main(url, subject):
    client = await nats.connect(url)

    async def respond(message):
        await message.respond(message.data.upper())

    await client.subscribe(subject, cb=respond)
    await client.flush()
    print("ready", flush=True)  # noqa: T201  # whoever started it waits for this
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
