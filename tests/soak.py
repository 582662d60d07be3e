"""The chaos run for as long as you like: ``python -m tests.soak --operations 10000000``.

It exits with 1 if a request was left or crossed, a cancellation lost, or the memory grew by more
than 1 MB for each million operations; with 130 if it was interrupted and all was well till then.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from dataclasses import asdict

from .chaos import Chaos, Report, resident_bytes

LIMIT = 1_000_000  # bytes for each million operations
ENOUGH = 500_000  # operations after the warm-up, before which growth says nothing
INTERRUPTED = 130


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--operations", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    options = parser.parse_args(argv)
    if options.operations < 1:
        parser.error("--operations must be at least 1")
    return options


class Progress:
    """One line on standard error, rewritten once a second."""

    def __init__(self, operations: int) -> None:
        self.operations = operations
        self.began = self.shown = time.monotonic()

    def __call__(self, count: int) -> None:
        now = time.monotonic()
        if now - self.shown >= 1.0:
            self.shown = now
            left = (now - self.began) / count * (self.operations - count)
            sys.stderr.write(
                f"\r{count:,} of {self.operations:,}, {count / (now - self.began):,.0f}/s, "
                f"{left:,.0f} s left, {resident_bytes() / 1e6:.1f} MB   "
            )
            sys.stderr.flush()

    def end(self) -> None:
        sys.stderr.write("\n")


def table(report: Report) -> str:
    rows = {
        "operations": f"{report.operations:,}",
        "seconds": f"{report.seconds:,.1f}",
        "operations a second": f"{report.operations / report.seconds:,.0f}",
    }
    if report.stats is not None:
        for name, value in asdict(report.stats).items():
            rows[name.replace("_", " ")] = f"{value:,}" if isinstance(value, int) else f"{value:g}"
    for name, count in sorted(report.endings.items()):
        rows[f"callers: {name}"] = f"{count:,}"
    if report.warm_operations >= ENOUGH:
        rows["growth, bytes a million"] = f"{report.growth:,.0f}"
    rows["violations"] = f"{sum(report.violations.values()):,}"
    for name, count in report.violations.items():
        rows[f"  {name}"] = f"{count:,}"
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {value:>16}" for name, value in rows.items())


async def soak(options: argparse.Namespace) -> tuple[Report, bool]:
    """Run it, and tell whether it was interrupted. A second Ctrl-C ends it at once."""
    progress = Progress(options.operations)
    # As much memory as it will ever need is in use after some hundred thousand operations.
    warm_up = max(1, min(options.operations // 4, 1_000_000))
    chaos = Chaos(options.operations, options.seed, warm_up=warm_up, progress=progress)
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        chaos.stop()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        return await chaos.run(), chaos.stopped
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        progress.end()


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    factory = asyncio.SelectorEventLoop
    if options.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        report, interrupted = runner.run(soak(options))
    if report.warm_operations >= ENOUGH and report.growth > LIMIT:
        report.violations["memory grows"] += 1
    sys.stdout.write(table(report) + "\n")
    if report.violations:
        return 1
    return INTERRUPTED if interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
