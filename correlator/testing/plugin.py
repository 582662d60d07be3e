"""The pytest plugin: a correlator in virtual time, and tests that may leave nothing pending.

pytest loads it by itself, wherever `aiocorrelator` is installed; until it is asked for something it
does nothing. The fixture needs pytest-asyncio: the extra `testing`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any
from weakref import WeakSet

import pytest

from ..core import Correlator
from ..pending import Pending
from .clock import virtual_time
from .leftovers import assert_nothing_pending, told

_OPTION = "correlator_leaks"
_ALLOWED = "correlator_leaks_allowed"
_OPTIONS = "correlator_options"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--correlator-leaks``, and the setting of that name."""
    text = "fail each test that leaves requests pending in a Correlator, and say whose they are"
    parser.getgroup("correlator").addoption(
        "--correlator-leaks", action="store_true", default=False, help=text
    )
    parser.addini(_OPTION, text, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Add the markers, and watch if that is wanted."""
    for line in (
        f"{_ALLOWED}: the test may leave requests pending, whatever --correlator-leaks says",
        f"{_OPTIONS}(**options): arguments for the Correlator of the fixture virtual_correlator",
    ):
        config.addinivalue_line("markers", line)
    if config.getoption("--correlator-leaks") or config.getini(_OPTION):
        config.pluginmanager.register(_LeakWatch(), "correlator-leak-watch")


class _LeakWatch:
    """Knows every correlator that is entered, and what each test leaves pending in them.

    What is pending when a correlator is closed counts as left: closing ends it, but it is the test
    that should have.
    """

    def __init__(self) -> None:
        self._known: WeakSet[Correlator[Any, Any]] = WeakSet()
        self._closed: list[Pending[Any, Any]] = []  # that were pending when theirs was closed
        self._patch = pytest.MonkeyPatch()
        watch, enter, close = self, Correlator.__aenter__, Correlator.aclose

        async def enters(self: Correlator[Any, Any]) -> Correlator[Any, Any]:
            watch._known.add(self)
            self._tracked = 1.0
            return await enter(self)

        def closes(self: Correlator[Any, Any]) -> Awaitable[None]:
            watch._closed += self._store.values()
            return close(self)

        self._patch.setattr(Correlator, "__aenter__", enters)
        self._patch.setattr(Correlator, "aclose", closes)

    def pytest_unconfigure(self) -> None:
        """Watch no more."""
        self._patch.undo()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Fail a test that has passed, but left something."""
        self._closed.clear()
        before = WeakSet(self._pending())  # a fixture's, of a larger scope
        result = yield
        left = [each for each in self._closed + self._pending() if each not in before]
        self._closed.clear()
        if left and item.get_closest_marker(_ALLOWED) is None:
            pytest.fail(told(left, "left pending by this test"), pytrace=False)
        return result

    def _pending(self) -> list[Pending[Any, Any]]:
        return [pending for each in list(self._known) for pending in each._store.values()]


async def _virtual_correlator(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Give a started correlator, on a loop whose time leaps. In the end nothing may be pending.

    Its arguments are those of ``@pytest.mark.correlator_options(timeout=5.0)``.
    """
    marker = request.node.get_closest_marker(_OPTIONS)
    options = {"track_origin": True, **({} if marker is None else marker.kwargs)}
    with virtual_time():
        async with Correlator[Any, Any](**options) as correlator:
            yield correlator
            if request.node.get_closest_marker(_ALLOWED) is None:
                assert_nothing_pending(correlator)


def _without_asyncio() -> None:
    """Say what is missing."""
    raise pytest.UsageError(
        "the fixture virtual_correlator needs pytest-asyncio: install aiocorrelator[testing]"
    )


_fixture: Callable[..., Any]
try:
    from pytest_asyncio import fixture as _fixture
except ImportError:
    virtual_correlator = pytest.fixture(name="virtual_correlator")(_without_asyncio)
else:
    virtual_correlator = _fixture(name="virtual_correlator")(_virtual_correlator)
