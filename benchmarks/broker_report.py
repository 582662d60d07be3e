"""The tables of the brokers, and the marks that are asked of us there."""

from __future__ import annotations

from . import report
from .broker_peers import FASTSTREAM, NATS_PY, OURS, OURS_TO_RPC, PEERS, RPC

OURS_ALL = (OURS, OURS_TO_RPC)
_MANY = f"{OURS}, 2,000"
_NOTES = {
    "nats": "One plain nats-py responder answers all.",
    "valkey": "Ours is answered by our serve, over streams; FastStream by its subscriber, over\n"
    "channels, which is its default. The broker counts what is published, and all commands.\n"
    "Nobody serves the stream where requests time out: they lie there until somebody does.",
    "rabbitmq": "Ours with our serve, and with aio_pika's RPC as RPC.call; FastStream with our\n"
    "serve. All are confirmed and acknowledged. What goes out by direct reply-to, as replies\n"
    "to FastStream do, the broker does not count.",
}


def print_broker(broker, found, left):
    print(f"\n== {broker} ==\n\n{_NOTES[broker]}\n")
    _print_load(broker, found["load"])
    _print_memory(found["memory"])
    for case, ends in found.get("at once", {}).items():
        print(f"{case} at once: {_listed(ends)}")
    _print_messages(found["messages"])
    _print_left(found["left"], left)


def print_marks(marks):
    report.print_marks(marks, tolerance=0.0)


def marks(results):
    """Return the marks of those brokers that were measured."""
    found = []
    for broker, mark in _MARKS:
        if broker in results:
            found.append(mark(results[broker]))
    for broker, measured in results.items():
        counts = measured["messages"][OURS].values()
        for what in ("in", "out"):
            if what in next(iter(counts)):
                most = max(count[what] for count in counts)
                name = f"{broker}: messages {what} per request, 1, 3 and 6 replicas"
                found.append(report.Mark(name, most, 2))
    return found


def _ratio(peer, in_flight, asked, ours=OURS, note=""):
    def mark(found):
        measured = found["load"][peer][in_flight][f"x {ours}"]
        name = f"x {peer}{note}, {in_flight:,} in flight"
        return report.Mark(name, measured, asked, at_least=True)

    return mark


def _answered(found):
    answered = found["at once"][_MANY].get("answered", 0)
    return report.Mark("valkey: of 2,000 in flight are answered", answered, 2_000, at_least=True)


_MARKS = (
    ("nats", _ratio(NATS_PY, 1, 1)),
    ("nats", _ratio(NATS_PY, 100, 2)),
    ("valkey", _ratio(FASTSTREAM, 40, 10, note=", Redis")),
    ("valkey", _answered),
    ("rabbitmq", _ratio(RPC, 100, 1.3, OURS, ", each its own responder")),
    ("rabbitmq", _ratio(RPC, 100, 1.3, OURS_TO_RPC, ", its responder for both")),
)


def _print_load(broker, load):
    width = max(map(len, load))
    heads = ("in flight", "a second", "p50 ms", "p99 ms", "CPU us", "busy %", "responder", "+- %")
    compared = ", and ".join(ours for ours in OURS_ALL if ours in load)
    print(f"{'':{width}}", *(f"{head:>9}" for head in heads), f" x (by CPU) faster: {compared}")
    columns = (
        ("requests_per_s", ",.0f"),
        ("p50_ms", ".2f"),
        ("p99_ms", ".2f"),
        ("cpu_us", ".0f"),
        ("busy_%", ".0f"),
        ("responder_busy_%", ".0f"),
        ("spread_%", ".0f"),
    )
    for in_flight in sorted({each for levels in load.values() for each in levels}):
        for name, levels in load.items():
            if in_flight in levels:
                one = levels[in_flight]
                cells = (f"{one[column]:9{form}}" for column, form in columns)
                compared = [
                    f"{one[f'x {ours}']:7.2f} ({one[f'cpu x {ours}']:.2f})"
                    for ours in OURS_ALL
                    if ours in PEERS[broker] and in_flight in load[ours] and name not in OURS_ALL
                ]
                print(f"{name:{width}} {in_flight:9,}", *cells, *compared)


def _print_memory(memory):
    print("\nMemory, MB: connected, grown until warm, grown by the load\n")
    for name, at in memory.items():
        grown = (at["fresh"], at["aged"] - at["fresh"], at["loaded"] - at["aged"])
        print(f"{name:24}", *(f"{value / 1e6:8.2f}" for value in grown))
    print()


def _print_messages(messages):
    print("\nCounted by the broker for each request, by replicas\n")
    for name, counts in messages.items():
        shown = (
            f"{replicas}: " + ", ".join(f"{what} {value:.2f}" for what, value in count.items())
            for replicas, count in counts.items()
        )
        print(f"{name:24}", "   ".join(shown))


def _print_left(found, count):
    print(f"\nLeft behind by {count:,}\n")
    for name, ways in found.items():
        for how, one in ways.items():
            here = _listed(one["left"])
            there = _listed(one["at the broker"])
            print(f"{name:24} {how:13} {_listed(one['ends']):44} here: {here}; there: {there}")


def _listed(counts):
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
