"""Measures requests over real brokers, beside what people use there now.

We and each peer ask the same broker, in turns, from processes of their own; what answers has a
process of its own as well. Servers are started on loopback, and nothing is left of them.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from . import broker_report as report
from .broker_peers import FASTSTREAM, OURS, PEERS
from .measuring import medians, progress
from .worker import Worker

REPLICAS = (1, 3, 6)
MANY = 2_000
TOO_MANY = 100  # for who opens a connection for each
_LIBRARIES = {  # what is imported: what it is called where it is installed from
    "nats": {"nats": "nats-py", "faststream": "faststream", "trustme": "trustme"},
    "valkey": {"redis": "redis", "faststream": "faststream", "trustme": "trustme"},
    "rabbitmq": {
        "pamqp": "pamqp",
        "aio_pika": "aio-pika",
        "faststream": "faststream",
        "trustme": "trustme",
    },
}


class Missing(Exception):
    """What a broker's benchmark needs is not there."""


def measure(broker, size):
    """Start a broker and return all that is measured there. Raises Missing."""
    for module, name in _LIBRARIES[broker].items():
        if importlib.util.find_spec(module) is None:
            raise Missing(f"{name} is not installed: pip install -e '.[bench,test]'")
    # They import what was looked for above.
    from tests.transports.server import ServerMissing

    from .broker_counts import SERVERS

    with tempfile.TemporaryDirectory() as directory:
        try:
            server = SERVERS[broker](Path(directory) / broker)
        except ServerMissing as missing:
            raise Missing(str(missing)) from None
        progress(broker, "starting")
        with server:
            return asyncio.run(_measure(broker, server, size))


async def _measure(broker, server, size):
    peers = PEERS[broker]
    async with AsyncExitStack() as stack:

        async def start(module, *arguments):
            worker = Worker(f"{__package__}.{module}", *arguments, server.url)
            return await stack.enter_async_context(worker)

        kinds = {peer.responder for peer in peers.values()}
        responders = {kind: await start("broker_responder", kind) for kind in sorted(kinds)}
        askers = {name: await start("broker_asker", broker, name) for name in peers}
        memory = {name: await asker.ask("age") for name, asker in askers.items()}
        found = {"load": await _load(broker, askers, responders, size)}
        for name, asker in askers.items():
            memory[name]["loaded"] = await asker.ask("memory")
        found["memory"] = memory
        if broker == "valkey":
            progress(broker, "many at once")
            found["at once"] = {
                f"{name}, {count:,}": await askers[name].ask("outcomes", requests=count)
                for name, count in ((OURS, MANY), (FASTSTREAM, TOO_MANY))
            }
        found["left"] = await _left(broker, askers, server, size)
        found["messages"] = await _messages(broker, askers, server, size)
    return found


async def _load(broker, askers, responders, size):
    """Return the medians of all rounds, by peer and how many are in flight."""
    peers = PEERS[broker]
    cases = [(name, in_flight) for name, peer in peers.items() for in_flight in peer.in_flight]
    counts = {}
    for name, in_flight in cases:
        progress(f"{broker}: warming up", f"{name}, {in_flight:,} in flight")
        tried = await askers[name].ask("load", requests=max(200, in_flight), in_flight=in_flight)
        counts[name, in_flight] = max(int(tried["requests_per_s"] * size.seconds), in_flight)
    taken = {case: [] for case in cases}
    levels = sorted({in_flight for _, in_flight in cases})
    for number in range(size.rounds):
        for in_flight in levels:
            names = [name for name, peer in peers.items() if in_flight in peer.in_flight]
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                progress(f"{broker}: round {number + 1} of {size.rounds}", f"{name}, {in_flight:,}")
                responder = responders[peers[name].responder]
                requests = counts[name, in_flight]
                cpu = await responder.ask("cpu_seconds")
                one = await askers[name].ask("load", requests=requests, in_flight=in_flight)
                cpu = await responder.ask("cpu_seconds") - cpu
                seconds = one.pop("seconds")
                one["busy_%"] = one["cpu_us"] * one["requests_per_s"] / 1e4
                one["responder_busy_%"] = cpu / seconds * 100
                taken[name, in_flight].append(one)
    for name, in_flight in cases:
        _compare(taken, name, in_flight)
    return {
        name: {
            in_flight: medians(taken[name, in_flight]) | _spread(taken[name, in_flight])
            for in_flight in peer.in_flight
        }
        for name, peer in peers.items()
    }


def _compare(taken, name, in_flight):
    """Add to each round how many times ours of the same round it is, the other way round."""
    for ours in report.OURS_ALL:
        for one, other in zip(
            taken[name, in_flight], taken.get((ours, in_flight), ()), strict=False
        ):
            one[f"x {ours}"] = other["requests_per_s"] / one["requests_per_s"]
            one[f"cpu x {ours}"] = one["cpu_us"] / other["cpu_us"]


def _spread(rounds):
    """Return how far the rounds lie apart: between the quartiles, in % of the median."""
    rates = [one["requests_per_s"] for one in rounds]
    if len(rates) < 3:
        return {"spread_%": 0.0}
    low, middle, high = statistics.quantiles(rates, n=4)
    return {"spread_%": (high - low) / middle * 100}


async def _left(broker, askers, server, size):
    """Return how requests ended otherwise, and what was left of them here and at the broker."""
    found = {}
    for name, asker in askers.items():
        found[name] = {}
        for how in ("timeouts", "cancels", "failed sends"):
            progress(f"{broker}: {how}", name)
            before = server.lying()
            one = await asker.ask("leave", how=how, requests=size.left)
            after = server.lying()
            one["at the broker"] = {what: after[what] - before[what] for what in after}
            found[name][how] = one
    return found


async def _messages(broker, askers, server, size):
    """Return what the broker counted for each request, by peer and how many replicas there are."""
    found = {name: {} for name in askers}
    for replicas in REPLICAS:
        for name, asker in askers.items():
            progress(f"{broker}: messages", f"{name}, {replicas} replicas")
            await asker.ask("grow", to=replicas)
            before = server.messages()
            await asker.ask("load", requests=size.counted, in_flight=12)
            await asyncio.sleep(0.3)  # until the last acknowledgements are counted
            after = server.messages()
            found[name][replicas] = {
                what: (after[what] - before[what]) / size.counted for what in after
            }
    return found


def parse(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.brokers", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer and smaller rounds: two minutes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep what was measured there")
    parser.add_argument("--rounds", type=int, metavar="N", help="interleaved rounds")
    parser.add_argument(
        "--broker",
        choices=PEERS,
        action="append",
        metavar="NAME",
        help=f"one of {', '.join(PEERS)}; may be repeated; by default all",
    )
    options = parser.parse_args(argv)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    quick = options.quick
    options.rounds = options.rounds or (3 if quick else 9)
    options.seconds = 0.1 if quick else 0.4
    options.left = 100 if quick else 1_000
    options.counted = 120 if quick else 600
    return options


def main(argv=None):
    options = parse(argv)
    results, missing = {}, {}
    for broker in dict.fromkeys(options.broker or PEERS):
        try:
            results[broker] = measure(broker, options)
        except Missing as error:
            missing[broker] = str(error)
            progress("")
            print(f"{broker} is left out: {error}", file=sys.stderr)
    progress("")
    for broker, found in results.items():
        report.print_broker(broker, found, options.left)
    marks = report.marks(results)
    report.print_marks(marks)
    if options.json is not None:
        environment = {
            "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "python": sys.version,
            "platform": platform.platform(),
            "processors": os.cpu_count(),
            "libraries": {
                name: version(name)
                for broker in results
                for name in _LIBRARIES[broker].values()
                if name != "trustme"
            },
            "quick": options.quick,
            "rounds": options.rounds,
            "seconds_per_round": options.seconds,
            "left_out": missing,
        }
        verdicts = [asdict(mark) | {"met": mark.met()} for mark in marks]
        kept = {"environment": environment, "marks": verdicts, "medians": results}
        options.json.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    return 0 if results else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
