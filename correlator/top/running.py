"""running: snapshots as they come, printed or drawn, until somebody ends it."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable

from rich.console import Console, Group
from rich.live import Live

from .screen import line_of, screen_of
from .source import Failure, Snapshot, Source

__all__ = ["run"]

_HISTORY = 60  # snapshots


def run(
    url: str, *, headers: Iterable[tuple[str, str]], once: bool, as_json: bool, timeout: float
) -> None:
    """Show what the inspector at `url` tells, until Ctrl-C, or once.

    In a terminal SIGTERM and SIGHUP end the process as they always do, once the terminal is as it
    was.

    Raises:
        Failure: it tells nothing.
        OSError: what is shown cannot be written.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a label may have what the encoding has not
    source = Source(url, headers, timeout)
    console = Console(highlight=False)
    # Rich may be told by the environment to take a pipe for a terminal.
    is_terminal = sys.stdout.isatty() and console.is_terminal and not console.is_dumb_terminal
    if once:
        asyncio.run(_print_once(source, console.width if is_terminal else None, as_json=as_json))
    elif as_json or not is_terminal:
        asyncio.run(_print(source, as_json=as_json))
    else:
        ended_by: list[signal.Signals] = []
        try:
            asyncio.run(_watch(source, console, ended_by))
        finally:
            if ended_by:
                signal.raise_signal(ended_by[0])


async def _print_once(source: Source, width: int | None, *, as_json: bool) -> None:
    async with source.session() as session:
        seen = await source.snapshot(session)
    if as_json:
        print(json.dumps(seen), flush=True)
    elif width is None:
        print(*(line.plain for line in screen_of(seen)), sep="\n", flush=True)
    else:
        Console(highlight=False).print(Group(*screen_of(seen, width=width)))


async def _print(source: Source, *, as_json: bool) -> None:
    before: Snapshot | None = None
    async with source.session() as session:
        async for told in source.snapshots(session):
            if isinstance(told, Failure):
                print(f"correlator top: {told}", file=sys.stderr, flush=True)
            else:
                print(json.dumps(told) if as_json else line_of(told, before), flush=True)
                before = told


async def _watch(source: Source, console: Console, ended_by: list[signal.Signals]) -> None:
    """Draw until cancelled, which the signals do that end a process: `ended_by` then has which."""
    seen: Snapshot | None = None
    history: deque[Snapshot] = deque(maxlen=_HISTORY)  # of each only what is drawn of the past
    told: str | None = "connecting …"
    last_at = time.monotonic()

    def screen() -> Group:
        said = told
        if said is not None and seen is not None:
            said = f"stale, last heard {time.monotonic() - last_at:.0f} s ago: {said}"
        width, height = console.size
        return Group(*screen_of(seen, list(history), said, width=width, height=height))

    _end_by_signals(ended_by)
    async with source.session() as session:
        with Live(
            get_renderable=screen,
            console=console,
            screen=True,
            refresh_per_second=2,
        ):
            async for each in source.snapshots(session):
                if isinstance(each, Failure):
                    told = str(each)
                else:
                    told, last_at = None, time.monotonic()
                    seen = each
                    stats = {name: each["stats"].get(name) for name in ("pending", "oldest_age")}
                    history.append({"started": each.get("started"), "stats": stats})


def _end_by_signals(ended_by: list[signal.Signals]) -> None:
    if sys.platform == "win32":  # where a loop has no add_signal_handler
        return
    task = asyncio.current_task()
    assert task is not None, "it runs in one"

    def end(number: signal.Signals) -> None:
        ended_by.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
