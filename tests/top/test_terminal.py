"""The program in a terminal of its own: live, and the terminal as it was at its end."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from fcntl import ioctl

import pytest
from aiohttp import web
from rich.cells import cell_len

from ..aiohttp.serving import inspected, serving, until
from .telling import NASTY, OLDEST, PROGRAM, made_up, snapshot

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])  # the program has a loop of its own


class Terminal:
    """The program in a terminal of its own."""

    def __init__(self, *arguments, columns=100, rows=30, term="xterm-256color"):
        self.screen = ""
        self._ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(theirs)
        environment = {**os.environ, "TERM": term}
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "LINES"):
            environment.pop(name, None)
        self.process = subprocess.Popen(  # noqa: S603  # our own code
            [*PROGRAM, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        self._theirs = theirs
        asyncio.get_running_loop().add_reader(self._ours, self._read)

    def _read(self):
        try:
            self.screen += os.read(self._ours, 65536).decode(errors="replace")
        except OSError:  # its end
            asyncio.get_running_loop().remove_reader(self._ours)

    async def shows(self, pattern):
        async with asyncio.timeout(30):
            while not re.search(pattern, self.text):
                assert self.process.poll() is None, self.text
                await asyncio.sleep(0.02)  # really: another process draws

    @property
    def text(self):
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.screen)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        await asyncio.to_thread(self.process.wait)
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        os.close(self._theirs)


async def test_in_a_terminal_it_is_live_and_ctrl_c_gives_the_terminal_back(correlator):
    async with (
        serving(inspected(correlator)) as served,
        Terminal(str(served.url("/inspector"))) as terminal,
    ):
        await terminal.shows("pending 0")
        correlator.register("order-42", label="bank", timeout=60.0)
        await terminal.shows("order-42")
        assert "\x1b[?1049h" in terminal.screen  # the other screen
        terminal.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(terminal.process.wait, 10) == 0
        await until(lambda: "\x1b[?1049l" in terminal.screen)
        assert "Traceback" not in terminal.text
        assert termios.tcgetattr(terminal._theirs) == terminal.before
    await correlator.aclose()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_as_ever_once_the_terminal_is_as_it_was(number):
    async with (
        serving(made_up(snapshot())) as served,
        Terminal(str(served.url())) as terminal,
    ):
        await terminal.shows("pending 52")
        terminal.process.send_signal(number)
        assert await asyncio.to_thread(terminal.process.wait, 10) == -number
        await until(lambda: "\x1b[?1049l" in terminal.screen)
        assert terminal.screen.rindex("\x1b[?25h") > terminal.screen.rindex("\x1b[?25l")
        assert "Traceback" not in terminal.text
        assert termios.tcgetattr(terminal._theirs) == terminal.before


async def test_a_dumb_terminal_gets_lines_as_a_pipe_does():
    async with serving(made_up(snapshot())) as served:
        async with Terminal(str(served.url()), term="dumb") as terminal:
            await terminal.shows(r"pending=52(.|\s)*pending=52")
            assert "\x1b" not in terminal.screen
        async with Terminal(str(served.url()), "--once", term="dumb", columns=30) as terminal:
            assert await asyncio.to_thread(terminal.process.wait, 30) == 0
            await until(lambda: "order-41" in terminal.screen)
            assert "refused/s" in terminal.screen
            assert "\x1b" not in terminal.screen


async def test_once_in_a_terminal_it_keeps_to_the_width(correlator):
    told = snapshot(oldest=[OLDEST])
    async with (
        serving(made_up(told)) as served,
        Terminal(str(served.url()), "--once", columns=80) as terminal,
    ):
        assert await asyncio.to_thread(terminal.process.wait, 30) == 0
        await until(lambda: "order-41" in terminal.screen)
        assert max(map(cell_len, terminal.text.splitlines())) <= 80
        assert "handlers.py:42" in terminal.text
        assert OLDEST["origin"] not in terminal.text


async def test_it_says_when_it_is_stale_and_recovers(correlator):
    runner = web.AppRunner(inspected(correlator))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    async with Terminal(f"http://127.0.0.1:{port}/inspector") as terminal:
        await terminal.shows("pending 0")
        await runner.cleanup()
        await terminal.shows("stale, last heard")
        runner = web.AppRunner(inspected(correlator))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        correlator.register("after the restart", timeout=60.0)
        await terminal.shows("after the restart")
    await runner.cleanup()
    await correlator.aclose()


async def test_what_is_hostile_does_nothing_to_the_terminal(top):
    told = snapshot(
        name=NASTY,
        oldest=[{"request_id": NASTY, "age": 1.0, "label": NASTY, "origin": NASTY}],
        labels=[{"label": NASTY}],
        unmatched=[{"time": 1.0, "request_id": NASTY, "disposition": NASTY}],
        refusals={NASTY: 1},
        replicas=[{"owner": NASTY, "stats": {}}],
    )
    async with serving(made_up(told)) as served:
        async with Terminal(str(served.url()), columns=200) as terminal:
            await terminal.shows(r"\[red\]x\[/red\]")
            for part in ("\x1b[2J", "\x1b]0;", "\x07", "\u202e"):
                assert part not in terminal.screen
        _, out, _ = await top(str(served.url()), "--once")
        assert "\x1b" not in out
        assert "[red]x[/red]" in out
