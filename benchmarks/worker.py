"""Processes of their own that do what they are asked: a line of JSON in, a line of JSON out."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

_START_TAKES = 30.0  # seconds at most
_ANSWER_TAKES = 180.0


class Worker:
    """A process that runs a module of ours, for as long as the context lasts."""

    def __init__(self, module, *arguments):
        self._call = [sys.executable, "-m", module, *arguments]

    async def __aenter__(self):
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._call,
            stdin=pipe,
            stdout=pipe,
            cwd=Path(__file__).parent.parent,
            process_group=0,  # Ctrl-C is for this process; it then ends the others
        )
        try:
            self.about = await self._line(_START_TAKES)
        except BaseException:
            await self._end(at_once=True)
            raise
        return self

    async def __aexit__(self, kind, *_):
        await self._end(at_once=kind is not None)

    async def ask(self, what, **arguments):
        self._process.stdin.write(json.dumps([what, arguments]).encode() + b"\n")
        return await self._line(_ANSWER_TAKES)

    async def _line(self, seconds):
        async with asyncio.timeout(seconds):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process has ended: {' '.join(self._call[1:])}")
        return json.loads(line)

    async def _end(self, *, at_once):
        self._process.stdin.close()
        try:
            if not at_once:
                await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            pass  # it is of no use any more, and what it leaves is its own
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()


def work(main):
    """Run `main`, an async function, in a worker. Whoever started the process ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(main)


async def obey(orders, about=None):
    """Say that we are here, and do what we are asked until the input ends.

    It ends also when the process that started us was killed.
    """
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    print(json.dumps(about), flush=True)
    while line := await lines.readline():
        what, arguments = json.loads(line)
        print(json.dumps(await orders[what](**arguments)), flush=True)
