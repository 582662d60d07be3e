"""The small examples run, with warnings as errors, and print what they say they do."""

from __future__ import annotations

import re

import pytest

from . import pages

EXAMPLES = pages.ROOT / "examples"

PRINTED = {
    "bare": [
        r"1 squared is 1",
        r"2 squared: request '[0-9a-f]{32}' got no response in 0\.5 s",
        r"3 squared is 9",
        r"left behind: 0",
    ],
    "json_rpc": [
        r"1 \+ 2 = 3",
        r"ConnectionError: the connection dropped",
        r"ConnectionError: the connection dropped",
        r"RequestTimeout: request \('two', 1\) got no response in 1 s",
        r"RequestRejected: JSON-RPC error -32601",
        r"3 \+ 4 = 7",
        r"left behind: 0",
    ],
    "from_thread": [
        r"ship -> SHIP, resolved by the thread",
        r"pay -> PAY, resolved by the thread",
        r"refund -> REFUND, resolved by the thread",
    ],
}


def test_every_small_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} - {"__init__"} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_says_how_it_is_run(name):
    assert f"Run: python -m examples.{name}" in (EXAMPLES / f"{name}.py").read_text()


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_runs_and_prints_what_it_shows(name):
    done = pages.run("-m", f"examples.{name}")
    assert done.stderr == ""
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    printed = PRINTED[name]
    assert len(lines) == len(printed), done.stdout
    for line, pattern in zip(lines, printed, strict=True):
        assert re.fullmatch(pattern, line), done.stdout
