"""What is drawn: on screens of any size, of snapshots and of nonsense."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console, Group

from correlator.top.screen import line_of, screen_of
from correlator.top.source import Failure, parsed

from .telling import OLDEST, snapshot


def whole(lines):
    return "\n".join(line.plain for line in lines)


def drawn(seen, width, height, **options):
    """Return the lines of a screen of that size, as rich draws it."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    lines = screen_of(seen, width=width, height=height, **options)
    console.print(Group(*lines), end="")
    return file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("width", "height", "seen"),
    [
        (20, 5, ["gateway", "draining", "pending 52 of 10,000"]),
        (40, 12, ["gateway", "draining", "pending 52 of 10,000", "oldest 6 s", "refused/s"]),
        (80, 24, ["gateway", "draining", "pending 52", "CapacityExceeded 3", "handlers.py:42"]),
        (300, 80, ["pending 52", "CapacityExceeded 3", OLDEST["origin"], "order-41", "web-2"]),
    ],
)
@pytest.mark.parametrize("said", [None, "stale, last heard 3 s ago: " + "many words " * 40])
def test_it_fits_small_and_large_terminals(width, height, seen, said):
    told = snapshot(
        name="gateway " + "x" * 400,
        state="draining",
        max_pending=10_000,
        oldest=[OLDEST] * 20,
        labels=[{"label": "b" * 100, "pending": 10**9, "registered": 10**9}] * 50,
        unmatched=[{"time": 1.0, "request_id": "order-41 \u6f22\u5b57", "disposition": "late"}]
        * 50,
        replicas=[{"owner": f"web-{number}", "stats": {}} for number in range(3)],
        refusals={"CapacityExceeded": 3} | {f"Kind{number}": 1 for number in range(100)},
    )
    lines = drawn(told, width, height, history=[told] * 120, told=said)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= height
    if said is None:
        assert all(word in "\n".join(lines) for word in seen)
    else:
        assert "stale" in "\n".join(lines)
        assert height < 12 or "pending 52 of 10,000" in "\n".join(lines)


def test_the_origin_gives_way_before_the_id_and_the_rest_is_whole():
    def row(width, **parts):
        told = snapshot(oldest=[{**OLDEST, **parts}], labels=[], unmatched=[])
        line = drawn(told, width, 40)[-1]
        assert "12.6 ms" in line
        assert "83.3 min" in line
        assert OLDEST["label"] in line
        return line

    request_id, origin = OLDEST["request_id"], OLDEST["origin"]
    assert row(200).endswith(origin)
    assert row(110).endswith(f"  {origin[:-5]}…")
    assert row(100).endswith(f"  {origin.partition(' in ')[0]}")
    assert row(83).startswith(f"{request_id} ")
    assert row(83).endswith("  …omer/handlers.py:42")
    assert row(73).startswith(f"{request_id[:29]}… ")
    assert row(73).endswith("  …dlers.py:42")
    # There is no room for where it was: the id has it instead.
    assert row(50).startswith(f"{request_id[:20]}… ")
    assert row(50).endswith("payments")
    # What takes two cells.
    wide = row(80, request_id="\u6f22" * 30, origin="\u5b57" * 30 + ".py:7 in \u6f22")
    assert wide.endswith("\u5b57.py:7")
    assert cell_len(wide) <= 80


def test_it_says_what_state_it_is_in_and_when_it_began_anew():
    before, after = snapshot(started=1.0, state="open"), snapshot(started=2.0, state="closed")
    assert "closed" in screen_of(after)[0].plain
    assert "open" not in screen_of(before)[0].plain
    assert "restarted" not in screen_of(before, [before, before])[0].plain
    assert "restarted" in screen_of(after, [before, after, after])[0].plain
    assert "restarted" not in screen_of(after, [before, *[after] * 20])[0].plain  # for a while


def test_what_an_inspector_may_not_tell_is_left_out():
    assert "pending 52  oldest" in whole(screen_of(snapshot()))
    assert "pending 52  oldest" in whole(screen_of(snapshot(max_pending=None)))
    assert "pending 52 of 10,000" in whole(screen_of(snapshot(max_pending=10_000)))
    assert "refused/s 2.5" in whole(screen_of(snapshot(rates={"refused": 2.5})))
    refusals = {"CapacityExceeded": 3, "DuplicateRequest": 1}
    told = whole(screen_of(snapshot(refusals=refusals)))
    assert "refused since the inspector was opened:  CapacityExceeded 3  DuplicateRequest 1" in told
    assert "max –  of 10" in told


def test_how_high_a_bar_is_is_said():
    history = [snapshot(stats={"pending": n, "oldest_age": n / 2}) for n in (3, 3, 1500)]
    lines = [line.plain for line in screen_of(history[-1], history)]
    assert "pending ▁▁█ up to 1,500" in lines
    assert "oldest  ▁▁█ up to 12.5 min" in lines
    assert "pending █ up to 1,500" in [
        line.plain for line in screen_of(history[-1], history, width=21)
    ]


def test_labels_that_differ_at_their_end_are_told_apart():
    labels = [{"label": f"payments.example:{port}", "pending": 1} for port in (8443, 8444)]
    lines = drawn(snapshot(labels=labels), 80, 40)
    assert any(line.startswith("payments.example:8443 ") for line in lines)
    assert any(line.startswith("payments.example:8444 ") for line in lines)


def test_a_line_tells_the_news():
    before, after = snapshot(started=1.0), snapshot(started=2.0, state="draining")
    assert line_of(before, before).endswith("p99=300ms")
    assert line_of(before).endswith("p99=300ms")
    assert line_of(after, before).endswith("p99=300ms draining restarted")


def test_seconds_are_those_of_the_page():
    for value, shown in (
        (0, "0 s"),
        (0.0000423, "42 µs"),
        (0.0426, "42.6 ms"),
        (0.9996, "1000 ms"),
        (6.0, "6 s"),
        (6.04, "6.0 s"),
        (99.94, "99.9 s"),
        (100, "1.7 min"),
        (6000, "1.7 h"),
        ("6", "–"),
    ):
        told = snapshot(latency={"max": value})
        assert whole(screen_of(told)).partition("max ")[2].partition("  of")[0] == shown


NONSENSE = [
    *('"x"', '""', "[]", "{}", "[[]]", "[null]", '[{"stats": 1}]', '{"a": []}', "null", "true"),
    *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e15", "-1e15", "-1", "1e-300"),
    *("9" * 400, "-" + "9" * 5000, '"\\ud800\\u001b[2J"', "[" * 50 + "]" * 50, "[" * 90_000),
]


def places(value, path=()):
    """Yield the path to each value within."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*path, key)
            yield from places(value[key], (*path, key))


@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda text: text[:12])
def test_nonsense_anywhere_is_refused_or_drawn(nonsense):
    told = snapshot(
        started=1.0,
        state="open",
        max_pending=10,
        refusals={"CapacityExceeded": 1},
        replicas=[{"owner": "web-1", "seen_ago": 1.0, "stats": {"pending": 1, "oldest_age": 1.0}}],
        oldest=[OLDEST],
    )
    for path in [(), *places(told)]:
        spoilt = {"": json.loads(json.dumps(told))}
        within, last = spoilt, ""
        for key in path:
            within, last = within[last], key
        within[last] = "HERE"
        data = json.dumps(spoilt[""]).replace('"HERE"', nonsense).encode()
        try:
            seen = parsed(data)
        except Failure:
            continue
        json.dumps(seen, allow_nan=False)
        for text in (line_of(seen), whole(screen_of(seen)), *drawn(seen, 80, 24)):
            assert "\x1b" not in text
        drawn(seen, 40, 12, history=[parsed(json.dumps(told).encode()), seen, seen])


@pytest.mark.parametrize(
    "huge",
    [
        {"refusals": {str(number): 1 for number in range(1_001)}},
        {"labels": [{"label": "a"}] * 1_001},
        {"name": "x" * 10_001},
        {"oldest": [{"request_id": "x" * 10_001}]},
        {"refusals": {"x" * 10_001: 1}},
    ],
)
def test_what_is_larger_than_anything_an_inspector_tells_is_nonsense(huge):
    with pytest.raises(Failure, match="nonsense"):
        parsed(json.dumps(snapshot(**huge)).encode())


def test_no_character_that_a_terminal_acts_on_is_drawn():
    acts = "\x7f\x9b\x85\u200b\u202e\u2066\u2028"
    drawn_name = whole(screen_of(snapshot(name=f"a{acts}z")))
    assert not set(acts) & set(drawn_name)
    assert "a\ufffd" in drawn_name


@pytest.mark.parametrize("depth", [6, 100, 500, 700, 800, 900])
def test_what_nests_deeper_than_a_snapshot_is_nonsense(depth):
    nested = "[" * depth + "]" * depth
    data = json.dumps(snapshot(name="HERE")).replace('"HERE"', nested).encode()
    with pytest.raises(Failure, match="nonsense"):
        parsed(data)


def test_a_time_that_is_none_and_numbers_that_nothing_has_are_shown_as_nothing():
    for missing in (
        "stats",
        "rates",
        "latency",
        "time",
        "oldest",
        "labels",
        "unmatched",
        "replicas",
    ):
        told = snapshot()
        del told[missing]
        with pytest.raises(Failure, match="nonsense"):
            parsed(json.dumps(told).encode())
    seen = parsed(json.dumps(snapshot(time=-1e15, max_pending=sys.maxsize)).encode())
    assert seen["max_pending"] is None
    assert "pending=52" in line_of(seen)
