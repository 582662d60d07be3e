"""The fault run at length: ``python -m tests.soak_cluster --broker nats``; all three by default.

It exits with 1 if a law was broken, or a reply lost that was promised; with 130 on Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path

from .cluster import INTERRUPTED, SERVERS
from .transports.faults import WITHOUT_LOSS, Faults, Report
from .transports.servers import ServerMissing


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak_cluster", description=__doc__)
    add = parser.add_argument
    add("--broker", choices=[*SERVERS, "all"], default="all", help="default: %(default)s")
    add("--requests", type=int, default=300_000, help="for each broker; default: %(default)s")
    add("--faults", type=int, default=300, help="for each broker; default: %(default)s")
    add("--seed", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args(argv)
    for name in ("requests", "faults"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(options, name)}")
    return options


def soak(broker: str, options: argparse.Namespace, only: tuple[str, ...] | None) -> Report:
    with tempfile.TemporaryDirectory() as directory, SERVERS[broker](Path(directory)) as server:
        faults = Faults(
            server,
            requests=options.requests // 2,
            faults=options.faults // 2,
            seed=options.seed,
            only=only,
            progress=True,
        )
        return asyncio.run(faults.run())


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    logging.disable(logging.CRITICAL)  # thousands of lost connections, each of them on purpose
    bad = False
    for broker in SERVERS if options.broker == "all" else [options.broker]:
        for title, only in (("every fault", None), ("connections alone", WITHOUT_LOSS)):
            try:
                report = soak(broker, options, only)
            except ServerMissing as error:
                sys.stderr.write(f"{error}\n")
                return 1
            sys.stderr.write("\n")
            sys.stdout.write(f"\n{broker}: {title}\n{report.table()}\n")
            lost = report.lost if broker != "nats" else report.lost - report.lost_and_told
            bad = bad or bool(report.violations) or (only is not None and lost > 0)
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
