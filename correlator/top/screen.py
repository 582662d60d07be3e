"""screen: a snapshot as what a terminal shows. Whatever it says is text, and nothing else."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from ..pending import Outcome

__all__ = ["is_number", "line_of", "plain", "screen_of"]

_NOTHING = "\N{EN DASH}"
_CUT = "\N{HORIZONTAL ELLIPSIS}"
_BARS = "▁▂▃▄▅▆▇█"
_GAP = 2  # cells between two columns, or two figures
_NO_END = 10**9  # cells or lines: as many as there are
_LEAST_FUNCTION = 9  # cells of `` in function``; of fewer there is nothing to read
_BARS_SHOWN = 60
_ROWS = 10  # of a table, on a screen
_REFUSALS = 8  # kinds of them, on a screen
_RESTARTED = 10  # snapshots, so seconds, for which it says so
_ENDS = tuple(Outcome)
_RATES = (*_ENDS, "refused")
_STATES = ("draining", "closed")  # those that are news


def line_of(seen: dict[str, Any], before: dict[str, Any] | None = None) -> str:
    """Return a snapshot as one line. `before` is the one before, or None."""
    stats, rates, latency = seen["stats"], seen["rates"], seen["latency"]
    parts = [
        _clock(seen["time"]),
        f"pending={_number(stats.get('pending'))}",
        f"oldest={_seconds(stats.get('oldest_age')).replace(' ', '')}",
        *(f"{name}/s={_number(rates.get(name))}" for name in _RATES),
        f"p50={_seconds(latency.get('p50')).replace(' ', '')}",
        f"p99={_seconds(latency.get('p99')).replace(' ', '')}",
        *_news(seen, [seen if before is None else before, seen]),
    ]
    return " ".join(parts)


def screen_of(
    seen: dict[str, Any] | None,
    history: Sequence[dict[str, Any]] = (),
    told: str | None = None,
    *,
    width: int | None = None,
    height: int | None = None,
) -> list[Text]:
    """Return the lines that fit on a screen of that size.

    Args:
        seen: the last snapshot, or None.
        history: the last ones, oldest first.
        told: why there is no newer one, or None.
        width: in cells; None: nothing is cut.
        height: in lines; None: all of it is shown.
    """
    width, height = width or _NO_END, height or _NO_END
    lines = _flow(_head(seen, history), width)
    if told is not None:
        lines += [
            Text(line, style="bold red")
            for line in textwrap.wrap(
                plain(told), max(10, width), max_lines=max(1, height // 4), placeholder=f" {_CUT}"
            )
        ]
    if seen is not None:
        lines += _figures(seen, width, None if height == _NO_END else _REFUSALS)
        if len(history) > 1:
            for name, label in (("pending", "pending"), ("oldest_age", "oldest ")):
                values = [each["stats"].get(name) for each in history[-_BARS_SHOWN:]]
                values = [value if is_number(value) else 0 for value in values]
                shown = _seconds if name == "oldest_age" else _number
                scale = f" up to {shown(max(values))}"
                room = max(1, width - len(label) - 1 - len(scale))
                lines.append(
                    Text(f"{label} {_sparkline(values[-room:])}", style="cyan").append(scale, "dim")
                )
        for table in (_replicas(seen), _oldest(seen), _labels(seen), _unmatched(seen)):
            # The names of the columns and the rule are two lines.
            count = height - len(lines) - 2
            lines += table.lines(width, count if height == _NO_END else min(count, _ROWS))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines[:height]


def _head(seen: dict[str, Any] | None, history: Sequence[dict[str, Any]]) -> list[Text]:
    if seen is None:
        return [Text("correlator", style="bold")]
    head = [
        Text.assemble(("correlator", "bold"), f" {plain(seen.get('name'))}"),
        Text.assemble((_clock(seen["time"]), "dim")),
    ]
    head += [Text(news, style="bold yellow") for news in _news(seen, history[-_RESTARTED:])]
    return head


def _news(seen: dict[str, Any], history: Sequence[dict[str, Any]]) -> list[str]:
    """Return what is out of the ordinary with the correlator, in a word each."""
    news = [seen["state"]] if seen.get("state") in _STATES else []
    began = [each.get("started") for each in history]
    if any(before != after for before, after in pairwise(began)):
        news.append("restarted")
    return news


def _figures(seen: dict[str, Any], width: int, most_refusals: int | None) -> list[Text]:
    stats, rates, latency = seen["stats"], seen["rates"], seen["latency"]
    bound = f" of {_number(seen['max_pending'])}" if is_number(seen.get("max_pending")) else ""
    counters = {"pending": _number(stats["pending"]) + bound}
    counters["oldest"] = _seconds(stats.get("oldest_age"))
    for name in ("waiting", "refused", "late", "duplicate", "unknown"):
        counters[name] = _number(stats.get(name))
    groups = [
        counters,
        {f"{_words(name)}/s": _number(rates.get(name)) for name in _RATES},
        {name: _seconds(latency.get(name)) for name in ("p50", "p90", "p99", "max")}
        | {"of": _number(latency.get("count"))},
    ]
    lines = [line for group in groups for line in _flow(_pairs(group), width)]
    refusals = list((seen.get("refusals") or {}).items())[:most_refusals]
    if refusals:
        # The counter above is since the start.
        begin = Text("refused since the inspector was opened:", style="dim")
        counts = {plain(name): _number(count) for name, count in refusals}
        lines += _flow([begin, *_pairs(counts)], width)
    return lines


def _pairs(figures: dict[str, str]) -> list[Text]:
    return [Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in figures.items()]


def _flow(parts: Iterable[Text], width: int) -> list[Text]:
    """Return the parts side by side, on as many lines as they need."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + _GAP + part.cell_len <= width:
            lines[-1].append(" " * _GAP).append_text(part)
        else:
            lines.append(part)
    return lines


# -- tables ----------------------------------------------------------------------------------------


def _cut_right(text: str, width: int) -> str:
    cut = Text(text)
    cut.truncate(width, overflow="ellipsis")
    return cut.plain


def _cut_origin(text: str, width: int) -> str:
    """Cut ``file:line in function``: of the function the end goes first, of the file its begin."""
    place = text.rpartition(" in ")[0] or text
    if cell_len(place) + _LEAST_FUNCTION <= width:
        return _cut_right(text, width)
    if cell_len(place) > width:
        place = place[-width:]
        while cell_len(place) >= width:
            place = place[1:]
        place = _CUT + place
    return place


class _Column(NamedTuple):
    """A column of a table: its name, and how it gives way where there is no room.

    Attributes:
        least: cells that it keeps; None: all of it.
    """

    name: str
    is_right: bool = False
    least: int | None = None
    cut: Callable[[str, int], str] = _cut_right

    def cell(self, text: str, width: int) -> str:
        text = self.cut(text, width)
        room = " " * (width - cell_len(text))
        return room + text if self.is_right else text + room


class _Table(NamedTuple):
    """The name of the first column is that of the table."""

    columns: Sequence[_Column]
    rows: Sequence[Sequence[str]]

    def lines(self, width: int, most: int) -> list[Text]:
        """Return names, a rule and at most so many rows, or nothing if there is none."""
        rows = self.rows[: max(0, most)]
        if not rows:
            return []
        widths = self._widths(rows, width)
        columns = self.columns[: len(widths)]
        names = [
            column.cell(_cut_right(column.name, cells), cells)
            for column, cells in zip(columns, widths, strict=True)
        ]
        gap = " " * _GAP
        return [
            Text.assemble((names[0], "bold"), (gap + gap.join(names[1:]).rstrip(), "dim")),
            Text("─" * (sum(widths) + _GAP * (len(widths) - 1)), style="dim"),
            *(Text(gap.join(map(_Column.cell, columns, row, widths)).rstrip()) for row in rows),
        ]

    def _widths(self, rows: Sequence[Sequence[str]], width: int) -> list[int]:
        """Return the width of each column, of as many as there is room for."""
        whole = [
            max(cell_len(column.name), *(cell_len(row[index]) for row in rows))
            for index, column in enumerate(self.columns)
        ]
        while True:
            widths = list(whole)
            excess = sum(widths) + _GAP * (len(widths) - 1) - width
            # The last that can gives way first.
            for index in reversed(range(len(widths))):
                least = self.columns[index].least
                if least is not None and excess > 0:
                    given = min(excess, max(0, widths[index] - least))
                    widths[index] -= given
                    excess -= given
            if excess <= 0 or len(widths) == 1:
                return widths
            whole.pop()


_ID = 8  # cells of an id that are left at least
_NAME = 24  # and of what distinguishes rows


def _replicas(seen: dict[str, Any]) -> _Table:
    names = ("registered", "timed_out", "refused")
    columns = [_Column("replicas", least=_NAME)]
    columns += [_Column(name, is_right=True) for name in ("seen", "pending", "oldest")]
    columns += [_Column(_words(name), is_right=True) for name in names]
    rows = [
        [
            plain(each.get("owner")),
            "this one" if not index else f"{_seconds(each.get('seen_ago'))} ago",
            _number(each["stats"].get("pending")),
            _seconds(each["stats"].get("oldest_age")),
            *(_number(each["stats"].get(name)) for name in names),
        ]
        for index, each in enumerate(seen["replicas"])
    ]
    return _Table(columns, rows)


def _oldest(seen: dict[str, Any]) -> _Table:
    columns = (
        _Column("oldest", least=_ID),
        _Column("age", is_right=True),
        _Column("left", is_right=True),
        _Column("label"),
        _Column("where it was asked for", least=12, cut=_cut_origin),
    )
    rows = [
        [
            plain(each.get("request_id")),
            _seconds(each.get("age")),
            _seconds(each.get("remaining")),
            plain(each.get("label")),
            plain(each.get("origin")),
        ]
        for each in seen["oldest"]
    ]
    return _Table(columns, rows)


def _labels(seen: dict[str, Any]) -> _Table:
    names = ("pending", "registered", *_ENDS)
    columns = [_Column("labels", least=_NAME)]
    columns += [_Column(_words(name), is_right=True) for name in names]
    rows = [
        [plain(each.get("label")), *(_number(each.get(name)) for name in names)]
        for each in seen["labels"]
    ]
    return _Table(columns, rows)


def _unmatched(seen: dict[str, Any]) -> _Table:
    columns = (_Column("unmatched"), _Column("what"), _Column("request", least=_ID))
    rows = [
        [_clock(each.get("time")), plain(each.get("disposition")), plain(each.get("request_id"))]
        for each in seen["unmatched"]
    ]
    return _Table(columns, rows)


# -- words and numbers -----------------------------------------------------------------------------


def plain(value: Any) -> str:
    """Return what a stranger said as what cannot do anything to a terminal."""
    if value is None:
        return _NOTHING
    return "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(value)
    )


def is_number(value: Any) -> bool:
    """Tell whether it is a number as JSON has them: there a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: Any) -> str:
    if not is_number(value):
        return _NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _seconds(value: Any) -> str:
    """Return a duration as the inspector's page shows it."""
    if not is_number(value):
        return _NOTHING
    if value == 0:
        return "0 s"
    if value < 1e-3:
        return f"{value * 1e6:.0f} µs"
    if value < 1:
        return f"{float(f'{value * 1e3:.3g}'):g} ms"
    if value < 100:
        return f"{value:.0f} s" if value == int(value) else f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 6000 else f"{value / 3600:.1f} h"


def _clock(value: Any) -> str:
    if not is_number(value):
        return _NOTHING
    try:
        return time.strftime("%H:%M:%S", time.localtime(value))
    except (ValueError, OverflowError, OSError):  # no time of this world
        return _NOTHING


def _sparkline(values: Sequence[float]) -> str:
    top = max(values, default=0) or 1
    return "".join(_BARS[min(7, max(0, int(value / top * 7.999)))] for value in values)
