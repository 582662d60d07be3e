"""topscreen: a snapshot as what a terminal shows. Whatever it says is text, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import ConsoleDimensions, Group, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["line_of", "screen_of"]

_NOTHING = "\N{EN DASH}"
_BARS = "▁▂▃▄▅▆▇█"
_ENDS = ("resolved", "rejected", "timed_out", "cancelled", "closed")


def line_of(seen: dict[str, Any]) -> str:
    """Return a snapshot as one line."""
    stats, rates, latency = seen["stats"], seen["rates"], seen["latency"]
    parts = [
        time.strftime("%H:%M:%S", time.localtime(seen["time"])),
        f"pending={_number(stats.get('pending'))}",
        f"oldest={_seconds(stats.get('oldest_age')).replace(' ', '')}",
        *(f"{name}/s={_number(rates.get(name))}" for name in (*_ENDS, "refused")),
        f"p50={_seconds(latency.get('p50')).replace(' ', '')}",
        f"p99={_seconds(latency.get('p99')).replace(' ', '')}",
    ]
    return " ".join(parts)


def screen_of(
    seen: dict[str, Any] | None,
    history: Sequence[dict[str, Any]],
    told: str | None,
    size: ConsoleDimensions,
    *,
    is_whole: bool = False,
) -> RenderableType:
    """Return what fits on a screen of that size.

    Args:
        seen: the last snapshot, or None.
        history: the last ones, oldest first.
        told: why there is no newer one, or None.
        size: of the terminal.
        is_whole: show all of it, however long.
    """
    head = Text("correlator ", style="bold")
    if seen is not None:
        head.append(_text(seen.get("name")), style="")
        head.append(time.strftime("  %H:%M:%S", time.localtime(seen["time"])), style="dim")
    parts: list[RenderableType] = [head]
    if told is not None:
        parts.append(Text(_text(told), style="bold red"))
    if seen is None:
        return Group(*parts)
    stats, rates, latency = seen["stats"], seen["rates"], seen["latency"]
    parts += [
        _figures(
            ("pending", _number(stats.get("pending"))),
            ("oldest", _seconds(stats.get("oldest_age"))),
            ("waiting", _number(stats.get("waiting"))),
            ("refused", _number(stats.get("refused"))),
            ("late", _number(stats.get("late"))),
            ("duplicate", _number(stats.get("duplicate"))),
            ("unknown", _number(stats.get("unknown"))),
        ),
        _figures(*((f"{_words(name)}/s", _number(rates.get(name))) for name in _ENDS)),
        _figures(*((name, _seconds(latency.get(name))) for name in ("p50", "p90", "p99", "max"))),
    ]
    width = max(10, min(60, size.width - 20))
    if len(history) > 1:
        for name, label in (("pending", "pending"), ("oldest_age", "oldest ")):
            values = [each["stats"].get(name) for each in history][-width:]
            parts.append(Text(f"{label} {_sparkline(values)}", style="cyan"))
    room = 10_000 if is_whole else max(0, size.height - len(parts) - 2)
    for title, columns, rows in (
        ("replicas", _REPLICAS, _replicas(seen)),
        ("oldest", _OLDEST, _oldest(seen)),
        ("labels", _LABELS, _labels(seen)),
        ("unmatched", _UNMATCHED, _unmatched(seen)),
    ):
        # A title and the names of columns are two lines.
        count = min(len(rows), room - 2, 10_000 if is_whole else 10)
        if count > 0:
            parts.append(_table(title, columns, rows[:count]))
            room -= count + 2
    return Group(*parts)


# -- tables ----------------------------------------------------------------------------------------

_REPLICAS = ("replica", ">seen", ">pending", ">oldest", ">registered", ">timed out", ">refused")
_OLDEST = ("request", ">age", ">left", "label", "where it was asked for")
_LABELS = ("label", ">pending", ">registered", *(f">{name.replace('_', ' ')}" for name in _ENDS))
_UNMATCHED = ("when", "what", "request")


def _replicas(seen: dict[str, Any]) -> list[list[str]]:
    return [
        [
            _text(each.get("owner")),
            "this one" if not index else f"{_seconds(each.get('seen_ago'))} ago",
            _number(each["stats"].get("pending")),
            _seconds(each["stats"].get("oldest_age")),
            *(_number(each["stats"].get(n)) for n in ("registered", "timed_out", "refused")),
        ]
        for index, each in enumerate(seen["replicas"])
    ]


def _oldest(seen: dict[str, Any]) -> list[list[str]]:
    return [
        [
            _text(each.get("request_id")),
            _seconds(each.get("age")),
            _seconds(each.get("remaining")),
            _text(each.get("label")),
            _text(each.get("origin")),
        ]
        for each in seen["oldest"]
    ]


def _labels(seen: dict[str, Any]) -> list[list[str]]:
    names = ("pending", "registered", *_ENDS)
    return [
        [_text(each.get("label")), *(_number(each.get(name)) for name in names)]
        for each in seen["labels"]
    ]


def _unmatched(seen: dict[str, Any]) -> list[list[str]]:
    return [
        [
            time.strftime("%H:%M:%S", time.localtime(each.get("time", 0.0))),
            _text(each.get("disposition")),
            _text(each.get("request_id")),
        ]
        for each in seen["unmatched"]
    ]


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False, header_style="dim"
    )
    for index, name in enumerate(columns):
        is_number = name.startswith(">")
        header = Text(name.removeprefix(">"))
        if not index:
            header = Text(title, style="bold not dim")
        table.add_column(
            header,
            justify="right" if is_number else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=None,
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _figures(*pairs: tuple[str, str]) -> RenderableType:
    figures = [Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in pairs]
    return Columns(figures, padding=(0, 2))


# -- words and numbers -----------------------------------------------------------------------------


def _text(value: Any) -> str:
    """Return what a stranger said as what cannot do anything to a terminal."""
    if value is None:
        return _NOTHING
    return "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(value)
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _seconds(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _NOTHING
    if value == 0:
        return "0 s"
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.1f} min"


def _sparkline(values: Sequence[Any]) -> str:
    numbers = [value if isinstance(value, int | float) else 0 for value in values]
    top = max(numbers, default=0) or 1
    return "".join(_BARS[min(7, max(0, int(value / top * 7.999)))] for value in numbers)
