"""The pytest plugin: a correlator in virtual time, and tests that may leave nothing pending.

pytest loads it by itself, wherever `aiocorrelator` is installed; until it is asked for something it
does nothing. The fixture needs pytest-asyncio: the extra `testing`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Generator
from types import ModuleType
from typing import Any
from weakref import WeakSet

import pytest

from ..core import Correlator
from ..pending import Pending
from ..store import ExpiringStore
from .clock import virtual_time
from .leftovers import assert_nothing_pending, pending_in, told

_OPTION = "correlator_leaks"
_ALLOWED = "correlator_leaks_allowed"
_OPTIONS = "correlator_options"
_ON_LOOPS = "correlator-on-loops"
_OUTCOMES = pytest.StashKey[set[str]]()
_NO_ASYNCIO = (
    "the fixture virtual_correlator needs pytest-asyncio: install aiocorrelator[testing], and let "
    "pytest load it: without `-p no:asyncio`, and, where PYTEST_DISABLE_PLUGIN_AUTOLOAD is set, "
    "with `-p pytest_asyncio.plugin`"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--correlator-leaks``, and the setting of that name."""
    text = "fail each test that leaves requests pending in a Correlator, and say whose they are"
    parser.getgroup("correlator").addoption(
        "--correlator-leaks", action="store_true", default=False, help=text
    )
    parser.addini(_OPTION, text, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Add the markers, and what the fixture is made of, and watch if that is wanted."""
    for line in (
        f"{_ALLOWED}: the test may leave requests pending, whatever --correlator-leaks says",
        f"{_OPTIONS}(**options): arguments for the Correlator of the fixture virtual_correlator",
    ):
        config.addinivalue_line("markers", line)
    asyncio_plugin = sys.modules.get("pytest_asyncio.plugin")
    if asyncio_plugin is not None and config.pluginmanager.is_registered(asyncio_plugin):
        config.pluginmanager.register(_on_loops(), _ON_LOOPS)
    if config.getoption("--correlator-leaks") or config.getini(_OPTION):
        config.pluginmanager.register(_LeakWatch(), "correlator-leak-watch")


class _LeakWatch:
    """Knows every correlator that is entered, and what each test leaves pending in them.

    What is pending when a correlator is closed counts as left: closing ends it, but it is the test
    that should have.
    """

    def __init__(self) -> None:
        self._known: WeakSet[Correlator[Any, Any]] = WeakSet()
        # Those that are entered in this test. A store keeps a correlator only as long as something
        # is pending in it: who throws one away has left that, too.
        self._stores: list[ExpiringStore[Any, Pending[Any, Any]]] = []
        self._closed: list[Pending[Any, Any]] = []  # that were pending when theirs was closed
        self._patch = pytest.MonkeyPatch()
        watch, enter, close = self, Correlator.__aenter__, Correlator.aclose

        async def enters(self: Correlator[Any, Any]) -> Correlator[Any, Any]:
            watch._known.add(self)
            watch._stores.append(self._store)
            self._tracked = 1.0
            return await enter(self)

        async def closes(self: Correlator[Any, Any]) -> None:
            watch._closed += pending_in(self._store)
            await close(self)

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
        # Each once: a close from another thread is refused, and leaves things as they are.
        after = dict.fromkeys(self._closed + self._pending())
        left = [each for each in after if each not in before]
        self._closed.clear()
        self._stores.clear()
        if "failed" in item.stash.get(_OUTCOMES, ()):
            return result  # a subtest has, which raises nothing here
        if left and item.get_closest_marker(_ALLOWED) is None:
            pytest.fail(told(left, "left pending by this test"), pytrace=False)
        return result

    def _pending(self) -> list[Pending[Any, Any]]:
        stores = [*self._stores, *(each._store for each in list(self._known))]
        return [pending for each in stores for pending in pending_in(each)]


# -- the fixture -----------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)  # so that xfail, a wrapper too, has had its say
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep how the test went, for the fixture's check at its end."""
    report = yield
    outcomes = item.stash.setdefault(_OUTCOMES, set())  # subtests have reports of their own
    if call.when == "setup":
        outcomes.clear()  # of the run before, where it is run again
    elif call.when == "call":
        outcomes.add(report.outcome)
    return report


@pytest.fixture
def virtual_correlator(request: pytest.FixtureRequest) -> Any:
    """Give a started correlator, on the test's loop, whose time leaps.

    When a test has passed nothing may be pending in it. Its arguments are those of
    ``@pytest.mark.correlator_options(timeout=5.0)``.
    """
    if not request.config.pluginmanager.has_plugin(_ON_LOOPS):
        pytest.fail(_NO_ASYNCIO, pytrace=False)
    marker = request.node.get_closest_marker("asyncio")
    said = {} if marker is None else marker.kwargs
    scope = said.get("loop_scope") or said.get("scope")  # what it was called before, and is still
    return request.getfixturevalue(
        _on_loop(scope or request.config.getini("asyncio_default_test_loop_scope"))
    )


def _on_loops() -> ModuleType:
    """Return a fixture for each scope that a loop may have, which starts a correlator on that loop.

    pytest-asyncio wants to know an async fixture's loop where the fixture is defined, and goes by
    the configuration otherwise; the test's loop is in the test's marker. They are in a module
    because that is where pytest looks for fixtures.
    """
    fixtures = ModuleType(_ON_LOOPS)
    for scope in ("function", "class", "module", "package", "session"):
        setattr(fixtures, _on_loop(scope), _starting(scope))
    return fixtures


def _starting(scope: Any) -> Any:
    from pytest_asyncio import fixture  # noqa: PLC0415  # it may not be installed

    @fixture(name=_on_loop(scope), loop_scope=scope)
    async def started(request: pytest.FixtureRequest) -> AsyncIterator[Correlator[Any, Any]]:
        said = request.node.get_closest_marker(_OPTIONS) or pytest.mark.correlator_options().mark
        options = {"track_origin": True, **said.kwargs}
        with virtual_time():
            # It takes no positional ones, and says so.
            async with Correlator[Any, Any](*said.args, **options) as correlator:
                yield correlator
                # One that has failed, or was skipped, may have had no chance to clean up.
                passed = request.node.stash.get(_OUTCOMES, None) == {"passed"}
                if passed and request.node.get_closest_marker(_ALLOWED) is None:
                    assert_nothing_pending(correlator)

    return started


def _on_loop(scope: str) -> str:
    return f"_virtual_correlator_on_{scope}_loop"
