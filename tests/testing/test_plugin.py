"""The pytest plugin, in runs of pytest of its own."""

import re

import pytest

pytest_plugins = ["pytester"]

SCOPE = "asyncio_default_fixture_loop_scope = function"

LEAKY = """
    import pytest
    from correlator import Correlator

    async def place_order(correlator):
        correlator.register("order-42", label="bank")  # and forgets it

    async def test_forgets():
        async with Correlator(name="orders") as correlator:
            await place_order(correlator)

    async def test_does_not_forget():
        async with Correlator() as correlator:
            with correlator.register():
                pass

    @pytest.mark.correlator_leaks_allowed
    async def test_may_forget():
        async with Correlator() as correlator:
            correlator.register()
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest in a process of its own on that file, in asyncio's auto mode."""

    def run(source, *options, ini=""):
        pytester.makeini(f"[pytest]\nasyncio_mode = auto\n{SCOPE}\n{ini}\n")
        pytester.makepyfile(source)
        plugins = ("-p", "pytest_asyncio.plugin", "-p", "correlator.testing.plugin")
        pytester.plugins = []
        return pytester.runpytest_subprocess("-W", "error", *plugins, *options)

    # Whether this checkout is installed, with its entry points, does not matter.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("CI", raising=False)  # or pytest's summary says everything once more
    return run


def test_unasked_it_does_nothing(run):
    run(LEAKY).assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("options", "ini"), [(["--correlator-leaks"], ""), ([], "correlator_leaks = true")]
)
def test_a_test_that_leaves_something_pending_fails_and_is_told_where_it_came_from(
    run, options, ini
):
    """The story's bug, caught in a unit test."""
    result = run(LEAKY, *options, ini=ini)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "1 request left pending by this test:",
            "  'order-42' of correlator 'orders', * s old, labelled 'bank', registered at *",
        ]
    )
    assert re.search(
        r"registered at \S+/test_\w+\.py:5 in place_order$", result.stdout.str(), re.MULTILINE
    )


def test_each_test_is_blamed_for_its_own_only(run):
    result = run(
        """
        import pytest_asyncio
        from correlator import Correlator

        @pytest_asyncio.fixture(scope="module", loop_scope="module")
        async def shared():
            async with Correlator() as correlator:
                yield correlator

        pytestmark = __import__("pytest").mark.asyncio(loop_scope="module")

        async def test_leaves(shared):
            shared.register("a")

        async def test_is_innocent(shared):
            assert len(shared) == 1

        async def test_leaves_another(shared):
            shared.register("b")
        """,
        "--correlator-leaks",
    )
    result.assert_outcomes(passed=1, failed=2)
    output = result.stdout.str()
    assert output.count("1 request left pending by this test") == 2


def test_what_a_fixture_of_the_test_holds_open_is_seen_too(run):
    result = run(
        """
        import pytest
        from correlator import Correlator

        @pytest.fixture
        async def correlator():
            async with Correlator() as correlator:
                yield correlator

        async def test_leaves(correlator):
            for number in range(30):
                correlator.register(number)

        def test_has_no_loop():
            pass
        """,
        "--correlator-leaks",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["30 requests left pending by this test:", "  and 10 more"])


def test_who_throws_a_correlator_away_has_left_what_was_pending_in_it(run):
    result = run(
        """
        import asyncio, gc
        from correlator import Correlator

        async def forget(*requests):
            correlator = await Correlator().__aenter__()
            for request_id in requests:
                correlator.register(request_id)

        def test_leaves():
            asyncio.run(forget("order-42"))
            gc.collect()

        def test_is_innocent():
            asyncio.run(forget())
        """,
        "--correlator-leaks",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["  'order-42' of correlator 'default', *"])


def test_a_failure_of_the_tests_own_is_not_covered_up(run):
    result = run(
        """
        from correlator import Correlator

        async def test_fails():
            async with Correlator() as correlator:
                correlator.register()
                assert 1 == 2
        """,
        "--correlator-leaks",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert 1 == 2*"])
    assert "left pending" not in result.stdout.str()


def test_the_fixture_gives_a_started_correlator_in_virtual_time(run):
    result = run(
        """
        import asyncio, time
        import pytest
        from correlator import RequestTimeout

        async def test_times_out(virtual_correlator):
            real = time.monotonic()
            with pytest.raises(RequestTimeout):
                await virtual_correlator.correlate(timeout=3600)
            assert time.monotonic() - real < 60
            assert virtual_correlator.stats().timed_out == 1

        @pytest.mark.correlator_options(timeout=5.0, max_pending=1, name="mine")
        async def test_has_options(virtual_correlator):
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(RequestTimeout):
                await virtual_correlator.correlate()
            assert 5.0 <= loop.time() - began < 5.1
            assert virtual_correlator.name == "mine"

        async def test_real_time_is_back():
            began = time.monotonic()
            await asyncio.sleep(0.05)  # really
            assert time.monotonic() - began > 0.04

        async def test_leaves(virtual_correlator):
            virtual_correlator.register("order-42")

        @pytest.mark.correlator_leaks_allowed
        async def test_may_leave(virtual_correlator):
            virtual_correlator.register("order-43")
        """
    )
    result.assert_outcomes(passed=5, errors=1)
    result.stdout.fnmatch_lines(["*1 request is pending:", "*'order-42' of correlator*"])


LOOPS = """
    import asyncio, time
    import pytest, pytest_asyncio
    from correlator import Correlator, RequestTimeout
    from correlator.testing import virtual_time

    async def leaps(correlator):
        began = time.monotonic()
        with pytest.raises(RequestTimeout):
            await correlator.correlate(timeout=10)
        assert time.monotonic() - began < 9

    {marker}
    class TestThem:
        @pytest.mark.parametrize("number", range(2))
        async def test_it_leaps(self, virtual_correlator, number):
            await leaps(virtual_correlator)

        async def test_real_time_is_back(self):
            assert abs(asyncio.get_running_loop().time() - time.monotonic()) < 1

        async def test_it_nests(self, virtual_correlator):
            with virtual_time():
                await leaps(virtual_correlator)
            await leaps(virtual_correlator)
"""


@pytest.mark.parametrize("scope", ["function", "class", "module", "package", "session"])
def test_the_fixture_is_on_the_tests_loop_whatever_its_scope(run, scope):
    marker = f"@pytest.mark.asyncio(loop_scope='{scope}')"
    run(LOOPS.format(marker=marker)).assert_outcomes(passed=4)
    marker = "@pytest.mark.asyncio"
    configured = f"asyncio_default_test_loop_scope = {scope}"
    run(LOOPS.format(marker=marker), ini=configured).assert_outcomes(passed=4)


def test_the_fixture_does_not_go_by_the_scope_that_other_fixtures_have(run):
    wider = "asyncio_default_fixture_loop_scope=session"
    run(LOOPS.format(marker=""), "-o", wider).assert_outcomes(passed=4)


def test_virtual_time_in_a_fixture_of_a_module_is_shared(run):
    result = run(
        """
        import pytest, pytest_asyncio
        from correlator.testing import virtual_time

        pytestmark = pytest.mark.asyncio(loop_scope="module")

        @pytest_asyncio.fixture(scope="module", loop_scope="module")
        async def clock():
            with virtual_time() as clock:
                yield clock

        async def test_leaps(clock, virtual_correlator):
            with pytest.raises(TimeoutError):
                await virtual_correlator.correlate(timeout=3600)

        async def test_time_has_not_gone_back(clock):
            assert clock.leaps
        """
    )
    result.assert_outcomes(passed=2)


FAILING = """
    import pytest

    async def test_fails(virtual_correlator):
        virtual_correlator.register("a")
        assert 1 == 2

    async def test_is_skipped(virtual_correlator):
        virtual_correlator.register("b")
        pytest.skip("in the middle")

    @pytest.mark.xfail
    async def test_fails_as_expected(virtual_correlator):
        virtual_correlator.register("c")
        assert 1 == 2

    @pytest.fixture
    async def broken(virtual_correlator):
        virtual_correlator.register("d")
        raise LookupError

    async def test_has_no_start(broken):
        pass
"""


@pytest.mark.parametrize("options", [[], ["--correlator-leaks"]])
def test_a_test_that_did_not_pass_is_not_told_of_what_it_left(run, options):
    result = run(FAILING, *options)
    result.assert_outcomes(failed=1, skipped=1, xfailed=1, errors=1)
    assert re.search("is pending|left pending", result.stdout.str()) is None


@pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="the fixture came with pytest 9")
@pytest.mark.parametrize("options", [[], ["--correlator-leaks"]])
def test_a_subtest_that_failed_counts_as_well(run, options):
    result = run(
        """
        async def test_in_parts(virtual_correlator, subtests):
            virtual_correlator.register("a")
            with subtests.test("part"):
                assert 1 == 2
        """,
        *options,
    )
    result.stdout.fnmatch_lines(["*contains 1 failed subtest*"])
    assert re.search("is pending|left pending", result.stdout.str()) is None


def test_who_leaks_is_told_once_where_both_look(run):
    result = run(
        """
        import asyncio
        from correlator import Correlator

        async def test_by_the_fixture(virtual_correlator):
            virtual_correlator.register("a")

        async def test_closed_in_vain_from_another_thread():
            async with Correlator() as correlator:
                correlator.register("b")
                try:
                    await asyncio.to_thread(asyncio.run, correlator.aclose())
                except RuntimeError:
                    pass
        """,
        "--correlator-leaks",
    )
    result.assert_outcomes(failed=2)
    assert result.stdout.str().count("\n1 request left pending by this test:") == 2


def test_leaks_are_seen_in_unittests_and_in_tests_that_run_their_own_loop(run):
    result = run(
        """
        import asyncio
        from unittest import IsolatedAsyncioTestCase
        from correlator import Correlator

        class Test(IsolatedAsyncioTestCase):
            async def asyncSetUp(self):
                self.correlator = await Correlator().__aenter__()
                self.addAsyncCleanup(self.correlator.aclose)

            async def test_leaks(self):
                self.correlator.register("by a unittest")

            async def test_does_not(self):
                with self.correlator.register():
                    pass

            async def test_fails(self):
                self.correlator.register()
                self.fail("for another reason")

            async def test_is_skipped(self):
                self.correlator.register()
                self.skipTest("in the middle")

        def test_runs_a_loop():
            async def main():
                async with Correlator() as correlator:
                    correlator.register("by a loop of its own")

            asyncio.run(main())

        def test_runs_none():
            pass
        """,
        "--correlator-leaks",
    )
    result.assert_outcomes(passed=2, failed=3, skipped=1)
    assert result.stdout.str().count("\n1 request left pending by this test:") == 2
    result.stdout.fnmatch_lines(["  'by a unittest' of *", "  'by a loop of its own' of *"])


def test_an_option_without_a_name_is_refused(run):
    result = run(
        """
        import pytest

        @pytest.mark.correlator_options(5.0)
        async def test_has_no_start(virtual_correlator):
            pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*TypeError: *takes 1 positional argument but 2 *"])


def test_a_test_may_close_the_fixtures_correlator_itself(run):
    result = run(
        """
        async def test_closes(virtual_correlator):
            await virtual_correlator.aclose()
        """,
        "--correlator-leaks",
    )
    result.assert_outcomes(passed=1)


def test_the_fixture_works_in_strict_mode(run, pytester):
    result = run(
        """
        import pytest

        @pytest.mark.asyncio
        async def test_is_there(virtual_correlator):
            virtual_correlator.register("a")
            virtual_correlator.resolve("a", 1)
        """,
        "--asyncio-mode=strict",
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "blocking",
    [("-p", "block"), ("-p", "no:asyncio"), ("-p", "no:pytest_asyncio.plugin")],
    ids=["not installed", "switched off", "switched off by its module"],
)
def test_without_pytest_asyncio_the_fixture_says_what_is_missing(pytester, monkeypatch, blocking):
    pytester.makepyfile(
        """
        def test_needs_it(virtual_correlator):
            pass

        def test_does_not():
            pass
        """
    )
    pytester.makepyfile(block="import sys; sys.modules['pytest_asyncio'] = None")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.syspathinsert()
    result = pytester.runpytest_subprocess(*blocking, "-p", "correlator.testing.plugin")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*needs pytest-asyncio: install aiocorrelator?testing?, and let pytest load it: without *"]
    )


def test_the_markers_and_options_are_in_the_help(run):
    output = run("", "--markers").stdout.str() + run("", "--help").stdout.str()
    for word in ("correlator_leaks_allowed", "correlator_options", "--correlator-leaks"):
        assert word in output
