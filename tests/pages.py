"""Pages: the programs in the documentation, found by sybil, and how each is run.

Most of them end by themselves, and print what the page shows below them, where it shows something.
Those that serve say so in a comment before them:

    <!-- serves /ask -->           it answers there, over HTTP, until it is stopped
    <!-- answers orders.create --> it is a responder at a broker

What holds tests is run by pytest.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from sybil import Document, Sybil
from sybil.parsers.myst import CodeBlockParser

from .transports.server import free_ports

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_BROKERS = {
    "nats": "nats://127.0.0.1:4222",
    "valkey": "redis://127.0.0.1:6379",
    "rabbitmq": "amqp://guest:guest@127.0.0.1:5672/%2F",
}
_SAYS = re.compile(r"<!-- (serves|answers) (\S+) -->\n\Z")
_SHOWN = re.compile(r"\A\s*(?:It prints\s+)?```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PORT = re.compile(r"\b80[0-9]{2}\b")
_PYTHON = [sys.executable, "-W", "error", "-X", "dev"]


class Program:
    """One program of a page."""

    def __init__(self, document: Document, start: int, end: int, source: str) -> None:
        text = document.text
        self.where = f"{Path(document.path).name}:{text.count(chr(10), 0, start) + 1}"
        self.source = source
        says = _SAYS.search(text[:start])
        self.serves = says[2] if says and says[1] == "serves" else None
        self.answers = says[2] if says and says[1] == "answers" else None
        shown = _SHOWN.match(text[end:])
        self.shown = shown[1] if shown else None
        self.is_test = re.search(r"^(async )?def test_", source, re.MULTILINE) is not None
        self.broker = next((name for name, url in _BROKERS.items() if url in source), None)

    def at(self, url: str | None) -> str:
        """Return the program with its broker there, and with ports that are free."""
        source = self.source
        if self.broker is not None and url is not None:
            source = source.replace(_BROKERS[self.broker], url)
        fixed = sorted(set(_PORT.findall(source)))
        for port, free in zip(fixed, free_ports(len(fixed)), strict=True):
            source = source.replace(port, str(free))
        return source


def programs() -> list[Program]:
    """Return all of them, page by page."""
    sybil = Sybil([CodeBlockParser("python", lambda _example: None)])
    return [
        Program(document, example.start, example.end, str(example.parsed))
        for document in map(sybil.parse, PAGES)
        for example in document.examples()
    ]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments to its end.

    Of what it complains of, asyncio's remarks that a step took long are left out: they are about
    the machine.
    """
    done = subprocess.run(  # noqa: S603  # our own code
        [*_PYTHON, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    done.stderr = re.sub(r"(?m)^Executing <.*> took [0-9.]+ seconds\n", "", done.stderr)
    return done


def run_tests(source: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that holds tests, as pytest runs them."""
    (directory / "test_page.py").write_text(source)
    scope = "asyncio_default_fixture_loop_scope = function"
    (directory / "pytest.ini").write_text(f"[pytest]\nasyncio_mode = auto\n{scope}\n")
    plugins = ("-p", "pytest_asyncio.plugin", "-p", "correlator.testing.plugin")
    return subprocess.run(  # noqa: S603  # our own pages
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *plugins, "."],
        cwd=directory,
        # Whether this checkout is installed, with its entry points, does not matter.
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextlib.contextmanager
def running(source: str):
    """Run a program that does not end, for the length of the block."""
    with subprocess.Popen(  # noqa: S603  # our own pages
        [*_PYTHON, "-c", source], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
