"""The public surface: what `correlator` exports, and that nothing leaks out by accident."""

import dataclasses
import importlib
import inspect
import subprocess
import sys
import types

import pytest

import correlator
from correlator import Correlator, Group, Pending, transports
from correlator.transports import routing

PUBLIC = {
    "CapacityExceeded",
    "CorrelationError",
    "Correlator",
    "CorrelatorClosed",
    "CorrelatorStats",
    "Disposition",
    "DuplicateRequest",
    "ExpiringStore",
    "Group",
    "LabelStats",
    "NoResponder",
    "Observer",
    "Outcome",
    "Pending",
    "PendingInfo",
    "PendingRef",
    "RequestRejected",
    "RequestTimeout",
    "StoreFull",
    "current_deadline",
    "current_pending",
    "current_request_id",
    "is_valid_request_id",
    "new_request_id",
    "remaining_time",
    "request_scope",
}


def public(thing):
    return {name for name in dir(thing) if not name.startswith("_")}


def test_the_top_level_exports_this_and_nothing_else():
    assert set(correlator.__all__) == PUBLIC
    assert len(correlator.__all__) == len(PUBLIC)
    modules = {
        name
        for name in public(correlator)
        if isinstance(getattr(correlator, name), types.ModuleType)
    }
    assert public(correlator) - modules == PUBLIC


def test_a_star_import_gives_exactly_the_public_names():
    namespace = {}
    exec("from correlator import *", namespace)  # noqa: S102  # what a user may write
    assert set(namespace) - {"__builtins__"} == PUBLIC


def test_the_public_methods_are_these():
    assert public(Correlator) == {
        "aclose",
        "add_observer",
        "correlate",
        "drain",
        "group",
        "pending",
        "register",
        "reject",
        "reject_threadsafe",
        "remove_observer",
        "resolve",
        "resolve_threadsafe",
        "stats",
        "stats_by_label",
    }
    assert public(Pending) == {
        "age",
        "cancel",
        "context",
        "correlation_id",
        "correlator",
        "deadline",
        "group",
        "label",
        "origin",
        "outcome",
        "remaining",
        "request_id",
        "size",
        "timeout",
    }
    assert public(Group) == {
        "close",
        "closed",
        "correlate",
        "full",
        "max_pending",
        "name",
        "register",
    }


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("asgi", ["CorrelationMiddleware"]),
        ("httpx", ["propagation_hook"]),
        ("tokens", ["CallbackTokens", "VerifiedToken"]),
        ("observers.structlog", ["StructlogObserver"]),
        ("observers.prometheus", ["DURATION_BUCKETS", "PrometheusObserver"]),
        ("observers.opentelemetry", ["DURATION_BUCKETS", "OpenTelemetryObserver"]),
        (
            "testing",
            [
                "Responder",
                "Step",
                "VirtualClock",
                "assert_nothing_pending",
                "delay",
                "drop",
                "duplicate",
                "error",
                "late",
                "reply",
                "virtual_time",
            ],
        ),
    ],
)
def test_what_users_import_from_each_module_is_this(module, names):
    assert sorted(importlib.import_module(f"correlator.{module}").__all__) == names


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("httpx", "httpx", "httpx"),
        ("observers.structlog", "structlog", "structlog"),
        ("observers.prometheus", "prometheus_client", "prometheus"),
        ("observers.opentelemetry", "opentelemetry", "otel"),
    ],
)
def test_without_what_a_module_needs_the_error_names_the_extra(module, missing, extra):
    code = f"import sys; sys.modules['{missing}'] = None\nimport correlator.{module}"
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    told = (
        f"ImportError: correlator.{module} needs the extra '{extra}', as in aiocorrelator[{extra}]"
    )
    assert told in done.stderr


def test_the_enums_are_these():
    assert {outcome.name: outcome.value for outcome in correlator.Outcome} == {
        "RESOLVED": "resolved",
        "REJECTED": "rejected",
        "TIMED_OUT": "timed_out",
        "CANCELLED": "cancelled",
        "CLOSED": "closed",
    }
    assert {disposition.name for disposition in correlator.Disposition} == {
        "MATCHED",
        "LATE",
        "DUPLICATE",
        "UNKNOWN",
    }


def test_the_arguments_and_their_defaults_are_these():
    def defaults(function):
        parameters = inspect.signature(function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    assert defaults(Correlator) == {
        "timeout": 30.0,
        "max_pending": 10_000,
        "max_pending_bytes": None,
        "when_full": "reject",
        "max_waiting": 1_000,
        "remember": 60.0,
        "max_remembered": 100_000,
        "new_id": correlator.new_request_id,
        "observers": (),
        "name": "default",
        "resolution": 0.05,
        "track_origin": False,
        "warn_after": None,
    }
    register = {"timeout": None, "context": None, "size": 0, "reuse": False, "label": None}
    assert defaults(Correlator.register) == defaults(Group.register) == register
    correlate = {"send": None, **register}
    assert defaults(Correlator.correlate) == defaults(Group.correlate) == correlate
    assert defaults(Correlator.group) == {"max_pending": None}


def test_everything_public_says_what_it_does():
    for name in PUBLIC:
        thing = getattr(correlator, name)
        assert inspect.getdoc(thing), name
        if inspect.isclass(thing) and thing.__module__.startswith("correlator"):
            for method in public(thing):
                member = inspect.getattr_static(thing, method)
                if inspect.isfunction(member) or isinstance(member, property):
                    assert inspect.getdoc(member), f"{name}.{method}"


def test_the_core_imports_no_web_framework_and_no_logger_but_the_standard_one():
    """In a process of its own, since this one has imported them all."""
    code = """if True:
        import sys
        import correlator
        extras = {"aiohttp", "structlog", "standardwebhooks", "uvloop"}
        print(sorted(extras & set(sys.modules)))
    """
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"


def test_the_transports_export_these():
    assert set(transports.__all__) == {
        "SCHEMES",
        "BrokerOptions",
        "Handler",
        "MemoryReplyStore",
        "Message",
        "ReplyStore",
        "Transport",
        "TransportStats",
        "connect",
        "reply_store",
    }
    assert set(routing.__all__) == {"CallbackRouter", "callback_reply"}
    assert public(transports.Transport) == {
        "error_code_header",
        "error_header",
        "forward",
        "request",
        "serve",
        "stats",
    }
    assert {field.name for field in dataclasses.fields(transports.Message)} == {
        "body",
        "content_type",
        "headers",
    }
