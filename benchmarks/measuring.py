"""Taking turns, clocks, and processes of their own: what makes the numbers comparable."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


_said = ""


def progress(what, detail=""):
    """Say what is under way, on one line of stderr; in a log, `what` on a line of its own."""
    global _said  # noqa: PLW0603  # the line on the terminal is as global
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what} {detail}", end="", file=sys.stderr, flush=True)
    elif what != _said:
        print(what, file=sys.stderr, flush=True)
    _said = what


async def cpu_seconds(work):
    """Await `work`, and return the CPU seconds it took: other people's work does not count.

    What lives already is frozen, so that the collector runs, as it does in a service, but nobody
    pays for what others keep.
    """
    gc.collect()
    gc.freeze()
    try:
        start = time.process_time()
        await work
        return time.process_time() - start
    finally:
        gc.unfreeze()


def medians(rounds):
    """Turn a list of rounds, each a dict of numbers, into the dict of their medians."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def rss(*, trimmed=False):
    """Return the bytes of memory this process has resident, after a collection.

    Where `trimmed`, the C library (glibc) first gives back what it keeps of freed memory, which
    tells what is still in use from what only has not been given back.
    """
    gc.collect()
    if trimmed:
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


def run_alone(function, **arguments):
    """Call a function of a module, plain or async, in a fresh process, and return its result."""
    call = [function.__module__, function.__name__, json.dumps(arguments)]
    done = subprocess.run(  # noqa: S603  # our own modules, by name
        [sys.executable, "-m", __name__, *call],
        check=True,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    return json.loads(done.stdout)


def _main(module, name, arguments):
    result = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    print(json.dumps(asyncio.run(result) if asyncio.iscoroutine(result) else result))


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)  # the parent, which got it too, says so
