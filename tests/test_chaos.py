"""200,000 operations at random, in real time, on both loops: nothing left, nothing crossed."""

from __future__ import annotations

import asyncio

from .chaos import Chaos

OPERATIONS = 100_000  # on each loop
SEED = 20_240_229


async def test_chaos_leaves_nothing_and_crosses_nothing():
    """After any mix of replies, failures and cancellations nothing is left, the books balance."""
    report = await Chaos(OPERATIONS, SEED).run()
    assert not report.violations, dict(report.violations)
    assert report.operations == OPERATIONS == sum(report.endings.values())
    for outcome in ("resolved", "rejected", "timed_out", "cancelled", "closed"):
        assert getattr(report.stats, outcome) > 0, f"the run never {outcome} a request"
    for event in ("late", "duplicate", "unknown", "refused"):
        assert getattr(report.stats, event) > 0, f"nothing was ever {event}"
    assert report.endings["cancelled"] > OPERATIONS // 100
    assert asyncio.all_tasks() == {asyncio.current_task()}
