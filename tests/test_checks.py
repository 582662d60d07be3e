"""Every argument that is no good is refused with its name and value, and leaves nothing behind."""

import asyncio

import pytest

from correlator import Correlator, ExpiringStore, request_scope
from correlator.checks import check_bound, check_error, check_seconds
from correlator.errors import shown

from .conftest import balanced

NO_SECONDS = [
    (0, ValueError),
    (0.0, ValueError),
    (-1, ValueError),
    (-0.5, ValueError),
    (float("nan"), ValueError),
    (float("inf"), ValueError),
    (float("-inf"), ValueError),
    (1e9 + 1, ValueError),
    (1e308, ValueError),
    (10**400, ValueError),
    (True, TypeError),
    (False, TypeError),
    ("5", TypeError),
    (b"5", TypeError),
    ([], TypeError),
    (1j, TypeError),
    (object, TypeError),
]
NO_BOUND = [
    (0, ValueError),
    (-1, ValueError),
    (-(10**30), ValueError),
    (True, TypeError),
    (False, TypeError),
    (1.0, TypeError),
    (float("nan"), TypeError),
    (float("inf"), TypeError),
    ("5", TypeError),
    ([], TypeError),
]
# `None` means "the default" where an argument is optional; where it is not, it is no number.
NO_SECONDS_AT_ALL = [*NO_SECONDS, (None, TypeError)]
NO_BOUND_AT_ALL = [*NO_BOUND, (None, TypeError)]
NO_SIZE = [(-1, ValueError), *[(value, kind) for value, kind in NO_BOUND_AT_ALL if value != 0]]
NO_SIZE += [(False, TypeError)]  # which equals 0, and was dropped with it
NO_ERROR = ["failed", None, 5, ValueError, asyncio.CancelledError(), KeyboardInterrupt()]
NO_ERROR += [StopIteration(), StopAsyncIteration(), {"error": 1}]


def names(error, argument, value):
    """Whether a message says which argument is wrong, and with which value."""
    message = str(error.value)
    return message.startswith(argument) and shown(value) in message


@pytest.mark.parametrize(("value", "kind"), NO_SECONDS_AT_ALL, ids=repr)
def test_check_seconds_refuses_what_is_no_time(value, kind):
    with pytest.raises(kind) as error:
        check_seconds("wait", value)
    assert names(error, "wait", value)


@pytest.mark.parametrize("value", [1, 0.001, 5e-324, 1e9, 10**9])
def test_check_seconds_returns_a_float(value):
    seconds = check_seconds("wait", value)
    assert type(seconds) is float
    assert seconds == value


@pytest.mark.parametrize(("value", "kind"), NO_BOUND_AT_ALL, ids=repr)
def test_check_bound_refuses_what_is_no_count(value, kind):
    with pytest.raises(kind) as error:
        check_bound("most", value)
    assert names(error, "most", value)


def test_check_bound_takes_whole_numbers_from_the_least_up():
    assert check_bound("most", 1) == 1
    assert check_bound("most", 10**30) == 10**30
    assert check_bound("most", 0, least=0) == 0
    with pytest.raises(ValueError, match="most must be at least 3, not 2"):
        check_bound("most", 2, least=3)


@pytest.mark.parametrize("value", NO_ERROR, ids=repr)
def test_check_error_refuses_what_may_not_be_raised_to_a_caller(value):
    with pytest.raises(TypeError, match="^error must be an instance of Exception") as error:
        check_error("error", value)
    assert str(error.value).endswith(f"not {type(value).__name__}")  # and not its text: a payload


def test_check_error_cuts_a_long_value():
    with pytest.raises(TypeError) as error:
        check_error("error", "x" * 100_000)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", ["timeout", "remember", "resolution"])
@pytest.mark.parametrize(("value", "kind"), NO_SECONDS_AT_ALL, ids=repr)
def test_a_correlator_refuses_bad_seconds(name, value, kind):
    with pytest.raises(kind) as error:
        Correlator(**{name: value})
    assert names(error, name, value)


@pytest.mark.parametrize("name", ["max_pending", "max_waiting", "max_remembered"])
@pytest.mark.parametrize(("value", "kind"), NO_BOUND_AT_ALL, ids=repr)
def test_a_correlator_refuses_bad_bounds(name, value, kind):
    with pytest.raises(kind) as error:
        Correlator(**{name: value})
    assert names(error, name, value)


@pytest.mark.parametrize(("value", "kind"), NO_BOUND, ids=repr)
def test_a_correlator_refuses_bad_byte_bounds(value, kind):
    with pytest.raises(kind) as error:
        Correlator(max_pending_bytes=value)
    assert names(error, "max_pending_bytes", value)


@pytest.mark.parametrize("name", ["max_size", "max_bytes"])
@pytest.mark.parametrize(("value", "kind"), NO_BOUND, ids=repr)
def test_a_store_refuses_bad_bounds(name, value, kind):
    with pytest.raises(kind) as error:
        ExpiringStore(resolution=1.0, **{name: value})
    assert names(error, name, value)


@pytest.mark.parametrize("resolution", [5e-324, 1e-308, 1e-9, 0.9e-6])
def test_a_resolution_too_fine_to_count_in_is_refused_by_name(resolution):
    """A clock has no such grain: it must not fail later, in arithmetic, on a request's path."""
    with pytest.raises(ValueError) as error:
        Correlator(resolution=resolution)
    assert names(error, "resolution", resolution)


@pytest.mark.parametrize("value", ["", "block", "WAIT", None, True, 1, b"wait", [], ("wait",)])
def test_a_correlator_refuses_an_unknown_when_full(value):
    with pytest.raises(ValueError) as error:
        Correlator(when_full=value)
    assert names(error, "when_full", value)


@pytest.mark.parametrize("value", [None, "id", 5, object()])
def test_a_correlator_refuses_a_new_id_that_is_not_callable(value):
    with pytest.raises(TypeError) as error:
        Correlator(new_id=value)
    assert names(error, "new_id", value)


@pytest.mark.parametrize("value", [None, 5, b"name", ["name"]])
def test_a_correlator_refuses_a_name_that_is_no_string(value):
    with pytest.raises(TypeError) as error:
        Correlator(name=value)
    assert names(error, "name", value)


class _HalfAnObserver:
    def registered(self, pending): ...
    def settled(self, pending): ...
    def refused(self, error): ...


class _NoMethods(_HalfAnObserver):
    unmatched = "not callable"


@pytest.mark.parametrize("observer", [object(), None, print, _HalfAnObserver(), _NoMethods()])
def test_a_correlator_refuses_what_does_not_observe(observer):
    with pytest.raises(TypeError) as error:
        Correlator(observers=[observer])
    assert names(error, "observers", observer)


def test_a_class_is_no_observer():
    class Whole:
        registered = settled = unmatched = refused = lambda *_: None

    Correlator(observers=[Whole()])
    with pytest.raises(TypeError, match=r"observers must be made first: Whole\(…\), not the cla"):
        Correlator(observers=[Whole])


@pytest.mark.parametrize("observers", [5, None, _HalfAnObserver()])
def test_a_correlator_names_observers_when_they_are_no_iterable(observers):
    with pytest.raises(TypeError) as error:
        Correlator(observers=observers)
    assert names(error, "observers", observers)


def test_a_correlator_takes_keywords_only():
    with pytest.raises(TypeError):
        Correlator(5.0)


def callers(correlator):
    group = correlator.group("g")
    return [correlator.register, correlator.correlate, group.register, group.correlate]


async def refused(call, kind, **arguments):
    """Call one of `callers` with `arguments`; return the error, which is of `kind`."""
    with pytest.raises(kind) as error:
        result = call(**arguments)
        if asyncio.iscoroutine(result):
            await result
    return error


@pytest.mark.parametrize(("value", "kind"), NO_SECONDS, ids=repr)
async def test_a_request_refuses_a_bad_timeout(correlator, value, kind):
    for call in callers(correlator):
        assert names(await refused(call, kind, timeout=value), "timeout", value)
    assert balanced(correlator).registered == 0


@pytest.mark.parametrize(("value", "kind"), NO_SIZE, ids=repr)
async def test_a_request_refuses_a_bad_size(correlator, value, kind):
    for call in callers(correlator):
        assert names(await refused(call, kind, size=value), "size", value)
    assert balanced(correlator).registered == 0


async def test_a_size_below_zero_is_told_that_zero_would_do(correlator):
    for call in callers(correlator):
        error = await refused(call, ValueError, size=-1)
        assert str(error.value) == "size must be at least 0, not -1"


@pytest.mark.parametrize("value", [[], {}, set(), ([],)], ids=repr)
async def test_an_unhashable_id_is_refused_everywhere(correlator, value):
    for call in callers(correlator):
        assert names(await refused(call, TypeError, request_id=value), "request_id", value)
    with pytest.raises(TypeError) as error:
        correlator.resolve(value, 1)
    assert names(error, "request_id", value)
    with pytest.raises(TypeError) as error:
        correlator.reject(value, ValueError())
    assert names(error, "request_id", value)
    with pytest.raises(TypeError, match="request_id"):
        await asyncio.wrap_future(correlator.resolve_threadsafe(value, 1))
    stats = balanced(correlator)
    assert (stats.registered, stats.unknown, stats.remembered) == (0, 0, 0)


@pytest.mark.parametrize("value", ["publish", 5, object()], ids=["str", "int", "object"])
async def test_a_send_that_is_not_callable_is_refused_before_registering(correlator, value):
    for call in (correlator.correlate, correlator.group("g").correlate):
        assert names(await refused(call, TypeError, send=value), "send", value)
    assert balanced(correlator).registered == 0


@pytest.mark.parametrize("value", NO_ERROR, ids=repr)
async def test_what_is_no_error_rejects_nothing(correlator, value):
    with correlator.register("a"):
        for reject in (correlator.reject, correlator.reject_threadsafe):
            with pytest.raises(TypeError, match="^error must be an instance of Exception"):
                reject("a", value)
        assert "a" in correlator


@pytest.mark.parametrize("value", [v for v in NO_ERROR if v is not None], ids=repr)
async def test_a_group_is_not_closed_with_what_is_no_error(correlator, value):
    group = correlator.group("g")
    with group.register("a"):
        with pytest.raises(TypeError, match="^error must be an instance of Exception"):
            group.close(value)
        assert not group.closed
        assert "a" in correlator


@pytest.mark.parametrize(("value", "kind"), NO_SECONDS_AT_ALL, ids=repr)
async def test_drain_refuses_a_bad_timeout_and_goes_on_taking_requests(correlator, value, kind):
    with pytest.raises(kind) as error:
        await correlator.drain(value)
    assert names(error, "timeout", value)
    with correlator.register():
        pass


@pytest.mark.parametrize(("value", "kind"), NO_BOUND, ids=repr)
async def test_pending_refuses_a_bad_limit(correlator, value, kind):
    with pytest.raises(kind) as error:
        correlator.pending(value)
    assert names(error, "limit", value)


async def test_pending_takes_a_limit_however_large(correlator):
    with correlator.register("a"):
        assert [info.request_id for info in correlator.pending(10**30)] == ["a"]


@pytest.mark.parametrize(("value", "kind"), NO_BOUND, ids=repr)
async def test_a_group_refuses_a_bad_limit(correlator, value, kind):
    with pytest.raises(kind) as error:
        correlator.group("g", max_pending=value)
    assert names(error, "max_pending", value)
    assert correlator.group("g").max_pending is None


@pytest.mark.parametrize("value", [None, 5, b"g", ["g"]])
async def test_a_group_refuses_a_name_that_is_no_string(correlator, value):
    with pytest.raises(TypeError) as error:
        correlator.group(value)
    assert names(error, "name", value)


@pytest.mark.parametrize(("value", "kind"), NO_SECONDS, ids=repr)
async def test_a_request_scope_refuses_a_bad_timeout(value, kind):
    with pytest.raises(kind) as error, request_scope(timeout=value):
        pytest.fail("the block was entered")
    assert names(error, "timeout", value)


async def test_an_id_whose_hash_raises_leaves_nothing_behind(correlator):
    class Hostile:
        def __hash__(self):
            raise ZeroDivisionError

    for call in callers(correlator):
        await refused(call, ZeroDivisionError, request_id=Hostile())
    assert balanced(correlator).registered == 0


async def test_a_new_id_that_raises_leaves_nothing_behind():
    def broken():
        raise LookupError("no ids left")

    async with Correlator(new_id=broken) as correlator:
        with pytest.raises(LookupError, match="no ids left"):
            correlator.register()
        with pytest.raises(LookupError, match="no ids left"):
            await correlator.correlate()
        assert balanced(correlator).registered == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda correlator, value: correlator.register(label=value),
        lambda correlator, value: correlator.group(value),
        lambda correlator, value: correlator.add_observer(value),
    ],
)
async def test_what_cannot_even_be_shown_is_named_all_the_same(correlator, call):
    """Python makes no text of an int of so many digits."""
    with pytest.raises(TypeError, match="<int>"):
        call(correlator, 10**5_000)
