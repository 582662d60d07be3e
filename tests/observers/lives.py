"""A correlator that goes through everything that is counted."""

import asyncio
import contextlib
import random

from correlator import CorrelationError

from ..clock import elapse


async def every_kind(correlator):
    """Put it through each outcome, each disposition and two refusals; two stay pending.

    In virtual time: the requests take 0.0 s, but for the one that times out, after 1 s.
    """
    correlator.register("resolved")
    correlator.resolve("resolved", 1)
    correlator.resolve("resolved", 2)  # a duplicate
    correlator.register("rejected")
    correlator.reject("rejected", ValueError("canary"))
    correlator.register("cancelled").cancel()
    correlator.resolve("cancelled", 1)  # late
    correlator.resolve("stranger", 1)  # unknown
    group = correlator.group("g")
    group.register("closed")
    group.close()
    correlator.register("timed out", timeout=1.0)
    correlator.register("pending", timeout=50.0, size=7)
    await elapse(1.5)
    correlator.register("also pending", timeout=50.0)
    with contextlib.suppress(CorrelationError):
        correlator.register("pending")
    with contextlib.suppress(CorrelationError):
        correlator.register("size", size=10**9)


async def at_random(correlator, steps, seed):
    """Put it through so many random steps, in virtual time."""
    dice = random.Random(seed)
    for step in range(steps):
        request_id = f"id-{dice.randrange(steps // 3)}"
        what = dice.choice(("register", "register", "resolve", "reject", "cancel", "turn"))
        with contextlib.suppress(CorrelationError):
            if what == "register":
                correlator.register(request_id, timeout=dice.choice((0.001, 10.0)))
            elif what == "resolve":
                correlator.resolve(request_id, step)
            elif what == "reject":
                correlator.reject(request_id, KeyError(step))
            elif what == "cancel":
                correlator.register(f"c{step}").cancel()
            else:
                await asyncio.sleep(0)
    await elapse(0.1)  # until what had a short timeout has ended
