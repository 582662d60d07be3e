"""What an open page of the inspector costs its server, with 100,000 pending.

python -m benchmarks.inspector
"""

from __future__ import annotations

import asyncio
import sys
import time

from aiohttp import web

from correlator import Correlator
from correlator.aiohttp import inspector

_PENDING = 100_000
_SECONDS = 10.0
_LOOK = """
import sys, urllib.request
with urllib.request.urlopen(sys.argv[1]) as stream:
    for line in stream:
        if line.startswith(b"data:"):
            print(flush=True)
"""


async def _cost(correlator, looks):
    """Return the share of a core that this process takes, with a stream open or without."""
    app = web.Application()
    app.add_subapp("/inspector", inspector(correlator))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/inspector/events"
    if looks:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _LOOK, url, stdout=asyncio.subprocess.PIPE
        )
        await process.stdout.readline()
    cpu, clock = time.process_time(), time.perf_counter()
    await asyncio.sleep(_SECONDS)
    share = (time.process_time() - cpu) / (time.perf_counter() - clock)
    if looks:
        process.kill()
        await process.communicate()
    await runner.cleanup()
    return share


async def main():
    async with Correlator(timeout=3600.0, max_pending=_PENDING, track_origin=0.01) as correlator:
        for number in range(_PENDING):
            correlator.register(number, label=f"label {number % 20}")
        for looks, what in ((False, "nobody looks"), (True, "a page is open")):
            print(f"{what:>16}: {await _cost(correlator, looks):.2%} of a core")


if __name__ == "__main__":
    asyncio.run(main())
