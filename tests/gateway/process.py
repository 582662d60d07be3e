"""The real gateway in a process of its own, as a user starts it, and what it prints and logs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

__all__ = ["ROOT", "Gateway", "run_to_end"]

ROOT = Path(__file__).parents[2]
_LISTENS = re.compile(r"The gateway listens on (http://\S+), its upstream is (http://\S+)\.")
_PATIENCE = 20.0  # seconds for what takes well under one, on a machine that is busy


def _command(arguments: tuple[str, ...], module: str = "examples.gateway") -> list[str]:
    return [sys.executable, "-W", "error", "-m", module, *arguments]


def _environment(extra: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONASYNCIODEBUG": "", **extra}


def run_to_end(
    *arguments: str, module: str = "examples.gateway", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the gateway, or its simulator, with options that it refuses."""
    return subprocess.run(  # noqa: S603  # our own code
        _command(arguments, module),
        cwd=ROOT,
        env=_environment(environment),
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )


class Gateway:
    """A gateway that runs until `stop`.

    Attributes:
        url: where it listens; `host` and `port` are parts of it.
        upstream: where its upstream listens.
        output: the lines it printed so far.
        errors: the lines on its standard error so far: its log.
    """

    def __init__(self, *options: str, **environment: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603  # our own code
            _command(("--port", "0", *options)),
            cwd=ROOT,
            env=_environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self._signalled = False
        self.output: list[str] = []
        self.errors: list[str] = []
        self._printed = threading.Condition()
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self.output)),
            threading.Thread(target=self._read, args=(self._process.stderr, self.errors)),
        ]
        for reader in self._readers:
            reader.start()
        with self._printed:
            self._printed.wait_for(lambda: self.output or not self._alive, _PATIENCE)
        listens = _LISTENS.search("".join(self.output[:1]))
        if listens is None:
            self.kill()
            raise AssertionError(f"no gateway came up: {self.output} {self.errors}")
        self.url, self.upstream = listens[1], listens[2]
        self.host, port = self.url.removeprefix("http://").rsplit(":", 1)
        self.port = int(port)

    @property
    def _alive(self) -> bool:
        return any(reader.is_alive() for reader in self._readers)

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._printed:
                    lines.append(line.rstrip("\n"))
                    self._printed.notify_all()
        with self._printed:
            self._printed.notify_all()

    @property
    def log(self) -> list[dict[str, Any]]:
        """What it logged so far. Every line must be one JSON object."""
        return [json.loads(line) for line in self.errors]

    def signal(self, number: signal.Signals) -> None:
        self._signalled = True
        self._process.send_signal(number)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self, seconds: float = _PATIENCE) -> int:
        """Wait until it has ended, and return its exit code."""
        code = self._process.wait(seconds)
        for reader in self._readers:
            reader.join()
        return code

    def stop(self) -> None:
        """End it as an operator does; it must leave with code 0, and its log must be in order."""
        if not self._signalled:
            self.signal(signal.SIGTERM)
        try:
            code = self.wait()
        finally:
            self.kill()
        assert code == 0, (code, self.errors[-20:])
        self.check_log()

    def check_log(self) -> None:
        """Assert that the log is one JSON object a line, and tells of no bug."""
        for line in self.errors:
            assert line.startswith("{"), f"this is no log line: {line!r} in {self.errors[-20:]}"
        bugs = [each for each in self.log if each["level"] in ("error", "critical")]
        assert not bugs, bugs

    def kill(self) -> None:
        """End it at once, whatever it does. For when a test has failed already."""
        self._process.kill()
        self.wait()

    def connections(self) -> int:
        """Return how many connections it has that it has not closed."""
        open_states = ("01", "08")  # ESTABLISHED, CLOSE_WAIT; see proc_net_tcp.txt
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[1].endswith(f":{self.port:04X}") and row[3] in open_states for row in rows)

    def peak_memory(self) -> int:
        """Return the most bytes it ever had in memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
