"""`connect` and `reply_store`: which broker a URL means, and what is wrong with one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from correlator import Correlator
from correlator.transports import SCHEMES, Message, connect, reply_store

SECRET = "canary-77"  # noqa: S105  # one that is looked for, and opens nothing


@pytest.fixture
async def correlator():
    async with Correlator() as correlator:
        yield correlator


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_every_scheme_has_a_transport(correlator, scheme):
    transport = connect(f"{scheme}://127.0.0.1", correlator)
    assert transport.owner.startswith("replica-")
    assert transport.stats().connected is False


async def test_each_start_of_a_replica_has_a_name_of_its_own(correlator):
    owners = {connect("memory:", correlator, replica="a").owner for _ in range(100)}
    assert len(owners) == 100
    assert all(len(owner) <= 64 for owner in owners)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:4222",
        "http://127.0.0.1",
        f"htp://user:{SECRET}@127.0.0.1",
        f"nats://user:{SECRET}@[::1",
        f"amqp://user:{SECRET}@\u2100host",
    ],
)
async def test_a_url_that_is_no_brokers_is_refused_without_its_password(correlator, url):
    for use in (lambda: connect(url, correlator), lambda: reply_store(url)):
        with pytest.raises(ValueError, match="url") as caught:
            use()
        assert SECRET not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("scheme", [each for each in SCHEMES if each != "memory"])
@pytest.mark.parametrize(
    "rest", [f"//user:{SECRET}/x@host", "//host:99999", "//host:x", "//host/a?b=c"]
)
async def test_a_url_that_names_no_server_is_refused_at_once(correlator, scheme, rest):
    with pytest.raises(ValueError, match="url") as caught:
        connect(f"{scheme}:{rest}", correlator)
    assert SECRET not in str(caught.value)
    assert SECRET.split("-")[0] not in str(caught.value)


@pytest.mark.parametrize("url", [None, 5, b"nats://127.0.0.1"])
async def test_a_url_that_is_no_text_is_refused(correlator, url):
    for use in (lambda: connect(url, correlator), lambda: reply_store(url)):
        with pytest.raises(TypeError, match="url"):
            use()


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"replica": ""}, ValueError, "replica"),
        ({"replica": "a.b"}, ValueError, "replica"),
        ({"replica": "a-b"}, ValueError, "replica"),
        ({"replica": "x" * 32}, ValueError, "replica"),
        ({"replica": 5}, ValueError, "replica"),
        ({"on_disconnect": "retry"}, ValueError, "on_disconnect"),
        ({"decode": "json"}, TypeError, "decode"),
    ],
)
async def test_a_bad_argument_is_named(correlator, options, error, named):
    with pytest.raises(error, match=named):
        connect("memory:", correlator, **options)


async def test_what_is_no_correlator_is_refused():
    with pytest.raises(TypeError, match="correlator"):
        connect("memory:", "correlator")


@pytest.mark.parametrize(
    ("scheme", "missing", "extra"),
    [("nats", "nats", "nats"), ("valkey", "redis", "redis"), ("amqps", "pamqp", "amqp")],
)
def test_a_client_that_is_not_installed_is_named_by_its_extra(scheme, missing, extra):
    program = f"""
import sys
sys.modules[{missing!r}] = None
from correlator import Correlator
from correlator.transports import connect
try:
    connect("{scheme}://127.0.0.1", Correlator())
except ImportError as error:
    print(error)
"""
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert f"aiocorrelator[{extra}]" in done.stdout, done.stderr


@pytest.mark.parametrize("module", ["correlator.aiohttp", "correlator.transports.routing"])
@pytest.mark.parametrize("missing", ["aiohttp", "multidict", "yarl"])
def test_a_web_framework_that_is_not_installed_is_named_by_its_extra(module, missing):
    program = f"""
import sys
sys.modules[{missing!r}] = None
try:
    import {module}
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.startswith("ImportError "), done.stderr
    assert "aiocorrelator[aiohttp]" in done.stdout


def test_a_module_of_ours_that_is_missing_is_not_taken_for_the_web_framework():
    program = """
import sys
sys.modules["correlator.aiohttp.bodies"] = None
import correlator.aiohttp
"""
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert "aiocorrelator[aiohttp]" not in done.stderr
    assert "correlator.aiohttp.bodies" in done.stderr


def test_the_core_loads_no_broker_and_no_web_framework():
    program = "import sys, correlator, correlator.transports; print(*sys.modules)"
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert not {"nats", "redis", "pamqp", "aiohttp"} & set(done.stdout.split())


def test_a_message_hides_what_it_carries():
    message = Message(SECRET.encode(), {"Authorization": SECRET}, "text/plain")
    assert SECRET not in repr(message)
    with pytest.raises(AttributeError):
        message.body = b""
