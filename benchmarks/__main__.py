"""Runs the benchmarks, prints what was measured beside what is asked, and keeps it as JSON."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

from . import report
from .contenders import OURS
from .measuring import medians, progress, run_alone
from .memory import leak, weight
from .store_costs import expiry_of_a_sweep, expiry_of_ours, idle
from .throughput import measure_ids, measure_throughput

TOLERANCE = 0.15  # of `--check`: machines are noisy


def throughput(size):
    return asyncio.run(measure_throughput(size.rounds, size.requests))


def ids(size):
    return asyncio.run(measure_ids(size.rounds, size.requests))


def expiry(size):
    ways = {OURS: expiry_of_ours, "a sweep by hand": expiry_of_a_sweep}
    found = {}
    for count, awaited in ((size.pending, False), (size.awaited, True)):
        rounds = {f"{name}, {count:,}{' awaited' * awaited}": [] for name in ways}
        for number in range(size.heavy_rounds):
            for case, way in zip(rounds, ways.values(), strict=True):
                progress("expiry", f"round {number + 1} of {size.heavy_rounds}: {case}")
                rounds[case].append(run_alone(way, count=count, awaited=awaited))
        found |= {case: medians(taken) for case, taken in rounds.items()}
    return found


def idling(size):
    found = {}
    for case, count in (("nothing pending", 0), (f"{size.pending:,} pending", size.pending)):
        progress("idle", case)
        found[case] = run_alone(idle, pending=count, seconds=size.idle_seconds)
    return found


def weighing(size):
    cases = {
        f"{OURS}, deadlines spread": "spread",
        f"{OURS}, deadlines together": "together",
        "dict + future": "future",
        "dict + loop.call_later": "call_later",
        f"{OURS}, and a task that awaits": "awaited",
        "dict + future, and a task that awaits": "future awaited",
    }
    found = {}
    for case, what in cases.items():
        progress("weight", case)
        found[case] = {
            name: run_alone(weight, what=what, count=size.pending, traced=traced)
            for name, traced in (("bytes", True), ("rss_bytes", False))
        }
    return found


def leaking(size):
    case = f"{size.leaked:,} mixed requests"
    progress("leak", case)
    return {
        case + ", trimmed" * trimmed: run_alone(leak, count=size.leaked, trimmed=trimmed)
        for trimmed in (False, True)
    }


def gateway(size):
    from .gateway import measure_gateway

    return asyncio.run(measure_gateway(size.rounds, size.gateway_requests))


SECTIONS = {
    "throughput": throughput,
    "ids": ids,
    "expiry": expiry,
    "idle": idling,
    "weight": weighing,
    "leak": leaking,
    "gateway": gateway,
}
TITLES = {
    "expiry": "All falling due at once: longest time the loop was held, and the cost of each",
    "idle": "Idle: turns of the loop beyond a bare one's, CPU per second",
    "weight": "One pending beyond its id",
    "leak": "Requests that end in every way: bytes by which memory has grown, and how they ended",
    "gateway": "The gateway under load: requests by the wall's clock, CPU of its process for each",
}


def _loop_name():
    loop = asyncio.new_event_loop()
    loop.close()
    return type(loop).__name__


def parse(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds: a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep what was measured there")
    parser.add_argument("--rounds", type=int, metavar="N", help="interleaved rounds")
    parser.add_argument(
        "--only",
        choices=SECTIONS,
        action="append",
        metavar="NAME",
        help=f"one of {', '.join(SECTIONS)}; may be repeated",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"exit with 1 if a mark is missed by more than {TOLERANCE:.0%}%",
    )
    options = parser.parse_args(argv)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    quick = options.quick
    options.rounds = options.rounds or (5 if quick else 15)
    options.requests = 2_000 if quick else 10_000
    options.heavy_rounds = 1 if quick else 3
    options.pending = 50_000 if quick else 500_000
    options.awaited = 20_000
    options.idle_seconds = 1.0 if quick else 2.0
    options.gateway_requests = 250 if quick else 2_000
    options.leaked = 100_000 if quick else 1_000_000
    return options


def main(argv=None):
    options = parse(argv)
    results = {name: SECTIONS[name](options) for name in options.only or SECTIONS}
    progress("")
    for name, found in results.items():
        if name == "throughput":
            report.print_throughput(found)
        elif name == "ids":
            report.print_ids(found)
        else:
            report.print_others(TITLES[name], found)
    marks = report.marks(results)
    report.print_marks(marks, TOLERANCE)
    if options.json is not None:
        environment = {
            "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "python": sys.version,
            "platform": platform.platform(),
            "processors": os.cpu_count(),
            "loop": _loop_name(),
            "quick": options.quick,
            "rounds": options.rounds,
            "requests_per_round": options.requests,
            "gateway_requests_per_round": options.gateway_requests,
        }
        verdicts = [asdict(mark) | {"met": mark.met()} for mark in marks]
        kept = {"environment": environment, "marks": verdicts, "medians": results}
        options.json.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    return 1 if options.check and not all(mark.met(TOLERANCE) for mark in marks) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
