"""What all tests share: the loops they run on, and what must hold after each of them.

An async test runs on asyncio's loop and on uvloop; one marked `virtual_time` on a virtual clock.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal

import pytest

from correlator import Correlator, CorrelatorStats

from .clock import VirtualLoop

try:
    import uvloop
except ImportError:  # there is none for Windows
    uvloop = None

REAL_LOOPS = {"asyncio": asyncio.SelectorEventLoop}
if uvloop is not None:
    REAL_LOOPS["uvloop"] = uvloop.new_event_loop
VIRTUAL_LOOP = {"virtual": VirtualLoop}


def pytest_configure(config):
    config.addinivalue_line("markers", "virtual_time: runs on a clock that leaps (tests/clock.py)")
    # A shell lets what it starts in the background ignore Ctrl-C, and so does what that starts: the
    # programs that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # pytest-asyncio asks for the current loop, and Python before 3.14 makes one for who asks,
    # which nobody would close. It does not once somebody has said that there is none.
    asyncio.set_event_loop(None)


def pytest_collection_finish(session):
    gc.collect()
    gc.freeze()  # so that collecting after each test costs only what that test made


def pytest_asyncio_loop_factories(config, item):
    return VIRTUAL_LOOP if item.get_closest_marker("virtual_time") else REAL_LOOPS


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture(autouse=True)
def loop_reports():
    """What loops report: exceptions never retrieved, tasks destroyed pending. None may be left."""
    errors = _Errors()
    log = logging.getLogger("asyncio")
    log.addHandler(errors)
    yield errors.messages
    gc.collect()
    log.removeHandler(errors)
    assert not errors.messages


def balanced(correlator: Correlator, *, pending: int = 0) -> CorrelatorStats:
    """Assert that the counters add up (law 4), with so many pending; return them."""
    stats = correlator.stats()
    ended = stats.resolved + stats.rejected + stats.timed_out + stats.cancelled + stats.closed
    assert stats.registered == ended + stats.pending
    assert stats.pending == len(correlator) == len(correlator.pending()) == pending
    if not pending:
        assert stats.pending_bytes == 0
        assert stats.oldest_age == 0.0
    return stats


class Recorder:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple] = []

    def registered(self, pending):
        self.events.append(("registered", pending.request_id))

    def settled(self, pending):
        self.events.append((str(pending.outcome), pending.request_id))

    def unmatched(self, request_id, disposition):
        self.events.append((str(disposition), request_id))

    def refused(self, error):
        self.events.append(("refused", type(error).__name__))


@pytest.fixture
async def correlator():
    """A correlator, entered and left in tasks of the fixture's own; in the end it balances."""
    async with Correlator(name="tested") as correlator:
        yield correlator
    balanced(correlator)
