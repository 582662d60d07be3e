"""What no single module can promise: the two doors, and the laws on the clocks users have.

Where each law is held (this is the index; the tests stand with their subjects):

1 core · 2 core, observers · 3 sweep · 4 everywhere, by `balanced` · 5 waiting, sending · 6 reaper
7 core, memory · 8 core, sending · 9 core, memory · 10 sending, same_turn · 11 core, group
12 sending · 13 observers · 14 reaper · 15 pending · 16 references · 17, 18 reaper
19 observers/test_structlog · 20 ids
"""

import ast
import asyncio
import random
from pathlib import Path

import pytest

import correlator
from correlator import Correlator, CorrelatorClosed, Disposition, Outcome, RequestTimeout

from .clock import turns
from .conftest import balanced

SOURCES = sorted(Path(correlator.__file__).parent.rglob("*.py"))
PUTS = {"add"}
TAKES = {"pop", "purge", "clear", "_drop", "_make_room"}
READS = {"get", "values", "oldest", "due", "next_due", "fits", "bytes"}


def calls_on_a_store_of_pendings():
    """Yield (method, function it is called in) for each `<anything>._store.method` in the code."""
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if (
                        isinstance(node, ast.Attribute)
                        and isinstance(node.value, ast.Attribute)
                        and node.value.attr == "_store"
                    ):
                        yield node.attr, function.name


def test_there_is_one_door_in_and_one_door_out():
    doors = set(calls_on_a_store_of_pendings())
    assert {method for method, _ in doors} - READS == {"add", "pop"}
    assert {function for method, function in doors if method in PUTS} == {"_register"}
    assert {function for method, function in doors if method in TAKES} == {"_settle"}


def test_each_door_is_opened_in_one_line():
    doors = list(calls_on_a_store_of_pendings())
    assert sum(method in PUTS for method, _ in doors) == 1
    assert sum(method in TAKES for method, _ in doors) == 1


def test_the_counters_of_ends_are_raised_at_the_door_out_alone():
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert text.count("_outcomes[outcome] += 1") == (path.name == "ledger.py")
        assert "pickle" not in text


async def test_a_day_in_the_life_on_a_real_loop():
    """Two thousand requests that end in every way, at random: each exactly once (laws 1 to 4)."""
    random.seed(23)
    answered = []
    async with Correlator(max_pending=500, when_full="wait", max_waiting=2_000) as correlator:

        async def other_side(request_id):
            match random.randrange(8):
                case 0:
                    raise ConnectionError
                case 1:
                    correlator.reject(request_id, LookupError())
                case 2:
                    asyncio.current_task().cancel()
                case 3:
                    loop = asyncio.get_running_loop()
                    loop.call_soon(correlator.resolve, request_id, ("reply", request_id))
                case _:
                    correlator.resolve(request_id, ("reply", request_id))
            await turns(random.randrange(3))

        async def caller(number):
            reply = await correlator.correlate(number, send=other_side)
            assert reply == ("reply", number)
            answered.append(number)

        fates = await asyncio.gather(*map(caller, range(2_000)), return_exceptions=True)
        kinds = {type(fate) for fate in fates}
        assert kinds == {type(None), ConnectionError, LookupError, asyncio.CancelledError}
        assert len(set(answered)) == len(answered) == fates.count(None)
        stats = balanced(correlator)
        assert (stats.registered, stats.waiting) == (2_000, 0)


async def test_deadlines_hold_on_the_clocks_of_real_loops():
    """Never early (law 6). It really waits, some hundredths of a second: it is the loop's own

    clock that is tried, with its grain and its rounding (uvloop counts whole milliseconds).
    """
    loop = asyncio.get_running_loop()
    early = []

    class Times:
        def settled(self, pending):
            early.append(pending.deadline - loop.time())

        registered = unmatched = refused = lambda self, *args: None

    async with Correlator(resolution=0.002, observers=[Times()]) as correlator:
        waiting = [
            asyncio.create_task(correlator.correlate(timeout=0.001 + number / 3_000))
            for number in range(100)
        ]
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(error) for error in errors} == {RequestTimeout}
        assert balanced(correlator).timed_out == 100
    assert len(early) == 100
    assert max(early) <= 0.0


async def test_a_send_that_hangs_is_interrupted_on_real_loops():
    """Law 12, on the real clock for a hundredth of a second, for the same reason."""
    async with Correlator(resolution=0.002) as correlator:

        async def hang(request_id):
            await asyncio.get_running_loop().create_future()

        async def hang_answered(request_id):
            correlator.resolve(request_id, "reply")
            await hang(request_id)

        with pytest.raises(RequestTimeout):
            await correlator.correlate(send=hang, timeout=0.01)
        assert await correlator.correlate(send=hang_answered, timeout=0.01) == "reply"
        assert asyncio.current_task().cancelling() == 0


@pytest.mark.parametrize("end", ["resolve", "reject", "cancel", "send fails", "group", "close"])
async def test_an_entry_is_gone_before_anybody_else_runs(end):
    """Law 3, on each loop: not after a turn, but in the very step that ends it."""
    async with Correlator() as correlator:
        group = correlator.group("g")

        async def fail(request_id):
            raise ConnectionError

        send = fail if end == "send fails" else None
        pending = group.register("by hand")
        waiting = asyncio.create_task(group.correlate("awaited", send=send))
        await turns(1)
        if end == "resolve":
            assert correlator.resolve("awaited", 1) is Disposition.MATCHED
        elif end == "reject":
            assert correlator.reject("awaited", LookupError()) is Disposition.MATCHED
        elif end == "cancel":
            waiting.cancel()
            await turns(1)
        elif end == "group":
            group.close()
        elif end == "close":
            closing = correlator.aclose()
            closing.send(None)
            closing.close()
        assert "awaited" not in correlator
        assert len(group) == (end not in ("group", "close"))
        (fate,) = await asyncio.gather(waiting, return_exceptions=True)
        assert {
            "resolve": fate == 1,
            "reject": type(fate) is LookupError,
            "cancel": type(fate) is asyncio.CancelledError,
            "send fails": type(fate) is ConnectionError,
            "group": type(fate) is CorrelatorClosed,
            "close": type(fate) is CorrelatorClosed,
        }[end]
        if end not in ("group", "close"):
            pending.cancel()
        assert pending.outcome in (Outcome.CANCELLED, Outcome.CLOSED)
        balanced(correlator)
