"""The leak made visible: the demonstration runs, and the README's figures are its picture's."""

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs/images"


def run(*options, cwd=ROOT):
    return subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-m", "benchmarks.leak_demo", *options],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rows(table):
    """Return what the table says of each: requests, entries, memory, growth."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {
        name: [float(re.sub(r"[^0-9.-]", "", cell)) for cell in cells] for name, *cells in lines
    }


def test_one_climbs_and_the_other_is_flat(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- leak-demo -->\nold\n<!-- /leak-demo -->\nafter\n")
    load = ("--seconds", "4", "--rate", "300", "--unanswered", "0.2", "--timeout", "0.5")
    done = run(*load, "--to", str(tmp_path / "new/leak"), "--readme", str(readme))
    assert done.returncode == 0, done.stderr
    said = rows(done.stdout.strip())
    assert list(said) == ["the story's map", "correlator"]
    for asked, *_ in said.values():
        assert 1_000 < asked < 1_300
    assert said["the story's map"][1] > 170  # a fifth of all
    assert said["correlator"][1] < 80  # a fifth of half a second's, and what is on its way
    assert (tmp_path / "new/leak.png").read_bytes().startswith(b"\x89PNG")
    assert "the story" in (tmp_path / "new/leak.svg").read_text()
    assert readme.read_text() == (
        f"before\n<!-- leak-demo -->\n{done.stdout.strip()}\n<!-- /leak-demo -->\nafter\n"
    )


def test_the_readmes_figures_are_those_of_its_picture():
    text = (ROOT / "README.md").read_text()
    (table,) = re.findall(r"<!-- leak-demo -->\n(.+)\n<!-- /leak-demo -->", text, re.DOTALL)
    assert "](docs/images/leak.svg)" in text
    assert table in unescape((IMAGES / "leak.svg").read_text())
    assert (IMAGES / "leak.png").read_bytes().startswith(b"\x89PNG")
    said = rows(table)
    assert said["the story's map"][1] > 10 * said["correlator"][1]


def test_a_load_that_is_none_is_refused():
    for option, value in (
        ("--rate", "0"),
        ("--seconds", "-1"),
        ("--seconds", "0.2"),
        ("--unanswered", "2"),
    ):
        done = run(option, value)
        assert done.returncode == 2
        assert f"{option} must be" in done.stderr
        assert value in done.stderr
