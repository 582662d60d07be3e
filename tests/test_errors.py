"""The errors: a tree with a common base, each of which knows its HTTP status."""

import copy
import pickle

import pytest

from correlator import (
    CapacityExceeded,
    CorrelationError,
    CorrelatorClosed,
    DuplicateRequest,
    NoResponder,
    RequestRejected,
    RequestTimeout,
)
from correlator.errors import fresh, shown

STATUS = {
    CorrelationError: 500,
    RequestTimeout: 504,
    RequestRejected: 502,
    NoResponder: 503,
    DuplicateRequest: 409,
    CapacityExceeded: 503,
    CorrelatorClosed: 503,
}
each_kind = pytest.mark.parametrize("kind", STATUS)


@each_kind
def test_an_error_knows_its_status_and_what_it_is_about(kind):
    error = kind("what happened", request_id="a", age=1.5, timeout=2.0)
    assert isinstance(error, CorrelationError)
    assert error.status == kind.status == STATUS[kind]
    assert (error.request_id, error.age, error.timeout) == ("a", 1.5, 2.0)
    assert str(error) == "what happened"


@each_kind
def test_an_error_can_be_made_with_nothing(kind):
    error = kind()
    assert (error.request_id, error.age, error.timeout) == (None, None, None)
    assert str(error) == ""


def test_only_the_timeout_is_a_timeout_error():
    assert issubclass(RequestTimeout, TimeoutError)
    assert [kind for kind in STATUS if issubclass(kind, OSError)] == [RequestTimeout]


def test_capacity_exceeded_says_when_to_retry_and_may_be_a_groups():
    error = CapacityExceeded("full", retry_after=1.25, status=429)
    assert (error.retry_after, error.status) == (1.25, 429)
    assert CapacityExceeded("full").retry_after is None
    assert CapacityExceeded.status == 503


@each_kind
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error)), fresh],  # noqa: S301  # just made
    ids=["copy", "deepcopy", "pickle", "fresh"],
)
def test_an_error_survives_copying_and_pickling(kind, copied):
    error = kind("what happened", request_id=("a", 1), age=1.5, timeout=2.0)
    if kind is CapacityExceeded:
        error.retry_after, error.status = 3.5, 429
    twin = copied(error)
    assert twin is not error
    assert type(twin) is kind
    assert str(twin) == str(error)
    assert twin.args == error.args
    assert vars(twin) == vars(error)
    assert twin.status == error.status


class WithArguments(Exception):
    def __init__(self, code, *, detail):
        super().__init__(f"{code}: {detail}")
        self.code = code


class MadeFromKeywords(Exception):
    def __new__(cls, *, code):
        return super().__new__(cls)

    def __init__(self, *, code):
        super().__init__(f"code {code}")
        self.code = code


class Numbered(Exception):
    def __init__(self, code):
        super().__init__(f"code {code}")


def test_a_fresh_copy_has_no_traceback_and_keeps_cause_and_fields():
    cause = LookupError()
    try:
        raise WithArguments(7, detail="x") from cause
    except WithArguments as error:
        twin = fresh(error)
    assert twin.__traceback__ is None
    assert twin.__cause__ is cause
    assert twin.__suppress_context__
    assert (str(twin), twin.code) == ("7: x", 7)


@pytest.mark.parametrize(
    "error",
    [
        OSError(2, "No such file", "name"),
        KeyError("k"),
        ExceptionGroup("several", [ValueError(), KeyError()]),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        MadeFromKeywords(code=7),
        Numbered(7),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fresh_copy_reads_as_the_original(error):
    """Whatever is given to `reject` must reach the caller, however its class is made."""
    twin = fresh(error)
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)


def test_an_id_is_shown_on_one_line_and_cut():
    assert shown("order-42") == "'order-42'"
    assert shown("a\r\nb\x00\u2028") == r"'a\r\nb\x00\u2028'"
    assert len(shown("x" * 10_000)) == 140
    assert shown("x" * 10_000).endswith("...")
    assert shown("x" * 138) == repr("x" * 138)
