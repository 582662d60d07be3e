"""Server: a real one in a process of its own, on loopback; it does not outlive the test process."""

from __future__ import annotations

import atexit
import os
import random
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

from .certificates import Certificates

__all__ = ["HOST", "Server", "ServerMissing", "free_ports"]

_PATIENCE = 60.0  # seconds for a start, which takes RabbitMQ about five on a machine that is idle
HOST = "127.0.0.1"

# Below those that Linux gives to outgoing connections (ip_local_port_range). A port from up there
# could be taken, while its server is down, by a client that dials it: TCP connects it to itself.
_PORTS = range(10_000, 32_000)

# Kills the process groups that it was told of, once the test process is gone, however it went.
_GUARD = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


class ServerMissing(Exception):
    """There is no such server on this machine."""


def free_ports(count: int) -> list[int]:
    """Return so many ports that nobody listens at."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


class _Guard:
    """The process that sees to it that no server is left over."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def tell(self, sign: str, group: int) -> None:
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603  # our own code
                [sys.executable, "-c", _GUARD],
                stdin=subprocess.PIPE,
                text=True,
                process_group=0,  # the terminal's Ctrl-C is not for it
            )
            atexit.register(self._end)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{sign}{group}\n")
        self._process.stdin.flush()

    def _end(self) -> None:
        assert self._process is not None
        with self._process:
            pass  # closes its standard input, which is its word to begin, and waits


_guard = _Guard()


def _is_stopped(status: Path) -> bool:
    try:
        return "\nState:\tT" in status.read_text()
    except OSError:  # the thread has ended
        return True


class Server(ABC):
    """A server that `start` starts.

    Attributes:
        name: what to call it.
        directory: where it writes.
        port: where it listens, on 127.0.0.1. The same after a restart.
        url: the same for a client, with a user if it needs one.
        log: what it printed.
    """

    name: ClassVar[str]
    scheme: ClassVar[str]
    tls_scheme: ClassVar[str]

    def __init__(self, directory: Path, *, tls: Certificates | None = None) -> None:
        self.directory = directory
        self.log = directory / "server.log"
        self._program = self.find()
        self._tls = tls
        (self.port,) = free_ports(1)
        self._processes: list[subprocess.Popen[bytes]] = []

    # -- what each server does -------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def find() -> str:
        """Return the program. Raises ServerMissing."""

    @abstractmethod
    def _launch(self) -> None:
        """Start what it consists of, with `_run`; what serves comes last."""

    @abstractmethod
    def _check(self, connection: socket.socket) -> bool:
        """Return whether it answers, as a server that is ready does."""

    @abstractmethod
    def kill_connections(self) -> None:
        """End all connections of clients, at once."""

    # -- what all do -----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url} {'up' if self.running else 'down'}>"

    @property
    def url(self) -> str:
        return f"{self.scheme if self._tls is None else self.tls_scheme}://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process that serves."""
        return self._processes[-1].pid

    @property
    def running(self) -> bool:
        return bool(self._processes) and self._processes[-1].poll() is None

    def start(self) -> None:
        """Start it, and return once it answers."""
        assert not self._processes, f"{self!r} was started already"
        self.directory.mkdir(parents=True, exist_ok=True)
        patience = time.monotonic() + _PATIENCE
        try:
            self._launch()
            while not self._answers():
                if not self.running:
                    code = self._processes[-1].returncode
                    raise AssertionError(f"{self!r} ended with {code}:\n{self.tail()}")
                if time.monotonic() > patience:
                    raise AssertionError(f"{self!r} does not answer:\n{self.tail()}")
                time.sleep(0.02)  # it is another process: there is no clock to move
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End it as an operator does."""
        if self.running:
            self.resume()
            self._processes[-1].terminate()
            with suppress(subprocess.TimeoutExpired):
                self._processes[-1].wait(20)
        self.kill()

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._processes:
            group = self._processes[0].pid
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            for process in self._processes:
                process.wait()
            _guard.tell("-", group)
            self._processes.clear()

    def restart(self) -> None:
        """End it with SIGKILL and start it again, on the same port, with what it had stored."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Let it do nothing: its connections stay, and the kernel still accepts new ones."""
        os.kill(self.pid, signal.SIGSTOP)
        # It goes on until each of its threads has heard of it: "State:" of proc_pid_status(5).
        status = Path(f"/proc/{self.pid}/task")
        while status.exists() and not all(map(_is_stopped, status.glob("*/status"))):
            time.sleep(0.001)  # it is the kernel's doing: there is no clock to move

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def tail(self) -> str:
        """Return the last lines it printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def _dial(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), 5)

    def _answers(self) -> bool:
        try:
            with self._dial() as connection:
                return self._check(connection)
        except OSError:
            return False

    def _run(self, *command: str, environment: dict[str, str] | None = None) -> None:
        """Start a process; all of a server's are one group, so that one signal ends them."""
        group = self._processes[0].pid if self._processes else 0
        with self.log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  # programs that tests name
                command,
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=group,
            )
        if not self._processes:
            _guard.tell("+", process.pid)
        self._processes.append(process)
