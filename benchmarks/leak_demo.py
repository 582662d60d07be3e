"""The leak made visible: the story's map beside ours, under the same load.

Of so many requests a second, a few are never answered. Each of the two runs in a process of its own
and tells once in a while how many entries it holds and how much memory it has. In the end there is
a picture: one climbs, one is flat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import linear_regression

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from correlator import Correlator, new_request_id

from .measuring import rss

_TICK = 0.01  # seconds between two handfuls of requests
_SAMPLE = 0.25  # seconds between two looks
_ANSWERED_IN = 0.02  # seconds that an upstream takes on average
_BODY = 8192  # bytes of each order, which the map keeps beside the future


@dataclass(frozen=True, slots=True)
class Load:
    """What both get."""

    seconds: float
    rate: int
    unanswered: float
    timeout: float
    seed: int


class StorysMap:
    """In on request, out on response. Callers give up after a while; their entries stay."""

    def __init__(self, timeout):
        self._timeout = timeout
        self._pending = {}

    def __len__(self):
        return len(self._pending)

    async def request(self, request_id, order):
        future = asyncio.get_running_loop().create_future()
        self._pending[request_id] = future, order
        await asyncio.wait_for(future, self._timeout)

    def reply(self, request_id):
        entry = self._pending.pop(request_id, None)
        if entry is not None and not entry[0].done():
            entry[0].set_result("shipped")


class Ours:
    """The same with a correlator."""

    def __init__(self, correlator):
        self._correlator = correlator

    def __len__(self):
        return len(self._correlator)

    async def request(self, request_id, order):
        await self._correlator.correlate(request_id, context=order)

    def reply(self, request_id):
        self._correlator.resolve(request_id, "shipped")


MAP, OURS = "the story's map", "correlator"


async def carry(name, load):
    """Put the load on one of the two, and print what it holds as it goes, a JSON list a line."""
    async with AsyncExitStack() as stack:
        holder = StorysMap(load.timeout)
        if name == OURS:
            # Ids for 10 s only, or their memory would still be filling when this is over.
            correlator = Correlator(timeout=load.timeout, max_pending=100_000, remember=10.0)
            holder = Ours(await stack.enter_async_context(correlator))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        await _run(holder, load, group)


async def _run(holder, load, group):
    loop, dice = asyncio.get_running_loop(), random.Random(load.seed)

    async def ask():
        request_id = new_request_id()
        if dice.random() >= load.unanswered:
            loop.call_later(dice.expovariate(1 / _ANSWERED_IN), holder.reply, request_id)
        with suppress(TimeoutError):
            await holder.request(request_id, dice.randbytes(_BODY))

    began, asked, looked = loop.time(), 0, -1.0
    while (since := loop.time() - began) < load.seconds:
        if since - looked >= _SAMPLE:
            looked = since
            print(json.dumps([round(since, 2), asked, len(holder), rss()]), flush=True)
        while asked < load.rate * (loop.time() - began):
            group.create_task(ask())
            asked += 1
        await asyncio.sleep(_TICK)
    print(json.dumps([round(since, 2), asked, len(holder), rss()]), flush=True)


async def watch(load):
    """Run both beside each other, with a bar on standard error; return the samples of each."""
    samples = {MAP: [], OURS: []}
    columns = (
        TextColumn("{task.description:>16}"),
        BarColumn(),
        TextColumn("{task.fields[entries]:>7,} entries  {task.fields[mb]:6.1f} MB"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:

        async def follow(name):
            bar = progress.add_task(name, total=load.seconds, entries=0, mb=0.0)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.leak_demo", "--carry", name),
                *("--load", json.dumps(asdict(load))),
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                async for line in process.stdout:
                    sample = json.loads(line)
                    samples[name].append(sample)
                    seconds, _, entries, memory = sample
                    progress.update(bar, completed=seconds, entries=entries, mb=memory / 1e6)
                if await process.wait() != 0:
                    raise SystemExit(f"{name} has failed; see above")
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

        async with asyncio.TaskGroup() as group:
            for name in samples:
                group.create_task(follow(name))
    return samples


def draw(samples, load, stem):
    """Draw the picture, as SVG and as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "correlator", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    colours = {MAP: "#c2410c", OURS: "#0f766e"}
    for axis, index, scale, what in (
        (axes[0], 2, 1, "entries"),
        (axes[1], 3, 1e-6, "resident memory, MB"),
    ):
        for name, rows in samples.items():
            x, y = [row[0] for row in rows], [row[index] * scale for row in rows]
            axis.plot(x, y, color=colours[name], linewidth=2)
            axis.annotate(
                name,
                (x[-1], y[-1]),
                xytext=(-4, 6),
                textcoords="offset points",
                ha="right",
                color=colours[name],
            )
        axis.set_xlabel("seconds")
        axis.set_title(what, loc="left", fontsize=11)
        axis.set_ylim(0, None)
        axis.margins(y=0.15)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
    figure.suptitle(
        f"{load.rate:,} requests a second, {load.unanswered:.0%} never answered, "
        f"timeout {load.timeout:g} s",
        fontsize=11,
    )
    said = {"Date": None, "Description": table(figures(samples), load)}
    figure.savefig(stem.with_suffix(".svg"), metadata=said)
    figure.savefig(stem.with_suffix(".png"), dpi=150)


def figures(samples):
    """Return what the samples say of each, in figures."""
    said = {}
    for name, rows in samples.items():
        warm = rows[len(rows) // 2 :]  # by then it has warmed up
        _, asked, entries, memory = rows[-1]
        # A line through all of them: of two alone the difference is mostly noise.
        slope = linear_regression([row[0] for row in warm], [row[3] for row in warm]).slope
        said[name] = {
            "requests": asked,
            "entries": entries,
            "memory_mb": round(memory / 1e6, 1),
            "grown_mb_a_minute": round(slope * 60 / 1e6, 1) + 0.0,  # no -0.0
        }
    return said


def table(said, load):
    """Return the figures as a table in Markdown."""
    lines = [
        f"| after {load.seconds:g} s | requests | entries | resident memory | more each minute |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {row['requests']:,} | {row['entries']:,} | {row['memory_mb']:.1f} MB "
        f"| {row['grown_mb_a_minute']:.1f} MB |"
        for name, row in said.items()
    ]
    return "\n".join(lines)


def keep(readme, lines):
    """Put the figures between their marks in the README."""
    begin, end = "<!-- leak-demo -->\n", "<!-- /leak-demo -->\n"
    text = readme.read_text()
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    readme.write_text(f"{before}{begin}{lines}\n{end}{after}")


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.leak_demo", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="how long (120)")
    parser.add_argument("--rate", type=int, default=2_000, help="requests a second (2000)")
    parser.add_argument(
        "--unanswered", type=float, default=0.03, help="share of them that get no answer (0.03)"
    )
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds callers wait (2)")
    parser.add_argument("--seed", type=int, default=1, help="of the dice (1)")
    parser.add_argument(
        "--to", type=Path, default=Path("leak-demo/leak"), help="the pictures, without .svg or .png"
    )
    parser.add_argument("--readme", type=Path, help="a file whose table is to be this run's")
    parser.add_argument("--carry", choices=(MAP, OURS), help=argparse.SUPPRESS)
    parser.add_argument("--load", type=json.loads, help=argparse.SUPPRESS)
    return parser


def main():
    parser = _parser()
    options = parser.parse_args()
    if options.carry:
        asyncio.run(carry(options.carry, Load(**options.load)))
        return
    for name in ("seconds", "rate", "timeout"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} must be above 0, not {getattr(options, name)}")
    if options.seconds < 1:
        parser.error(
            f"--seconds must be at least 1, or there is nothing to draw, not {options.seconds}"
        )
    if not 0 <= options.unanswered <= 1:
        parser.error(f"--unanswered must be from 0 to 1, not {options.unanswered}")
    try:
        options.to.parent.mkdir(parents=True, exist_ok=True)
        options.to.with_suffix(".svg").touch()
    except OSError as error:
        parser.error(f"--to: nothing can be written there: {error.strerror}")
    fields = ("seconds", "rate", "unanswered", "timeout", "seed")
    load = Load(**{name: getattr(options, name) for name in fields})
    samples = asyncio.run(watch(load))
    draw(samples, load, options.to)
    lines = table(figures(samples), load)
    if options.readme:
        keep(options.readme, lines)
    print(lines)
    print(f"\n{options.to}.svg and .png", file=sys.stderr)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
