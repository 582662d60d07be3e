"""The real servers that tests of transports run against, one of each for the whole run."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from .certificates import Certificates
from .servers import NatsServer, RabbitmqServer, ServerMissing, ValkeyServer

_MISSING = pytest.StashKey[dict[str, str]]()


def pytest_terminal_summary(terminalreporter, config):
    for name, reason in config.stash.get(_MISSING, {}).items():
        terminalreporter.write_line(
            f"WARNING: the tests against {name} were skipped: there is none ({reason})",
            yellow=True,
            bold=True,
        )


def _make(kind, config, directory, /, **options):
    """Make a server; where there is none, CI fails, and others skip, but are told at the end."""
    try:
        return kind(directory, **options)
    except ServerMissing as error:
        if os.environ.get("CI"):
            raise
        config.stash.setdefault(_MISSING, {})[kind.name] = str(error)
        pytest.skip(str(error))


def _shared(kind):
    @pytest.fixture(scope="session")
    def server(tmp_path_factory, pytestconfig):
        with _make(kind, pytestconfig, tmp_path_factory.mktemp(kind.name)) as server:
            yield server

    return server


def _factory(kind):
    """A function that starts a server with the options of `kind`, for as long as the test runs."""

    @pytest.fixture
    def start_server(tmp_path_factory, pytestconfig):
        with ExitStack() as running:

            def start(**options):
                directory = tmp_path_factory.mktemp(kind.name)
                return running.enter_context(_make(kind, pytestconfig, directory, **options))

            yield start

    return start_server


nats_server = _shared(NatsServer)
valkey_server = _shared(ValkeyServer)
rabbitmq_server = _shared(RabbitmqServer)

start_nats_server = _factory(NatsServer)
start_valkey_server = _factory(ValkeyServer)
start_rabbitmq_server = _factory(RabbitmqServer)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """What servers have, and clients trust."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def other_certificates(tmp_path_factory):
    """Those of another authority, which has nothing to do with the first."""
    return Certificates(tmp_path_factory.mktemp("other-certificates"))
