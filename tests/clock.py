"""Virtual time: an event loop whose clock leaps to the next timer instead of waiting for it.

An hour passes in no time, and a deadline can be hit to the microsecond. Nothing here really sleeps.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

from correlator.testing import VirtualClock

__all__ = ["VirtualLoop", "elapse", "run_virtual", "turns"]

T = TypeVar("T")

START = 1_000.0  # no clock starts at 0 by right; code that assumes so should fail


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop on a virtual clock from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock(self, start=START)
        self.clock.install()

    @property
    def leaps(self) -> int:
        """How often the clock leapt, which is how often the loop would have woken up."""
        return self.clock.leaps

    def stall(self, seconds: float) -> None:
        """Let time pass as if the code at hand had held the loop for so long."""
        self.clock.advance(seconds)


def run_virtual(coro: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run `coro` in a virtual loop of its own, and return its result.

    Raises:
        AssertionError: the loop had something to report: an exception that was never retrieved, a
            task that was destroyed pending, a callback that raised.
    """
    reports: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=VirtualLoop, debug=debug) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: reports.append(context))
        result = runner.run(coro)
    gc.collect()
    assert not reports, f"the loop reported {reports}"
    return result


async def elapse(seconds: float) -> None:
    """Let that much virtual time pass; in real time none does."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "this would really sleep: mark the test `virtual_time`"
    await asyncio.sleep(seconds)


async def turns(count: int = 1) -> None:
    """Let the loop go round so many times."""
    for _ in range(count):
        await asyncio.sleep(0)
