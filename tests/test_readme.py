"""The README keeps its word: its example runs, its commands and its links are there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib

import pytest

from examples.gateway.options import parse_options
from examples.gateway.upstream import parse_faults

from . import pages

ROOT = pages.ROOT
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()

BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
COMMANDS = "\n".join(
    [text for kind, text in BLOCKS if kind == "sh"] + re.findall(r"`([^`\n]+)`", README)
)
TARGETS = sorted(set(re.findall(r"\bmake ([a-z-]+)", COMMANDS)))
LINKS = sorted(set(re.findall(r"\]\(([^)\s]+)\)", README)))
MODULES = sorted(set(re.findall(r"-m (examples\.\w+)", COMMANDS)))


def test_the_example_runs_and_prints_what_the_readme_shows():
    (at,) = (at for at, (kind, _) in enumerate(BLOCKS) if kind == "python")
    kind, shown = BLOCKS[at + 1]
    assert kind == "text"
    done = pages.run("-c", BLOCKS[at][1])
    assert done.stderr == ""
    assert done.stdout == shown


def test_the_readme_names_what_this_looks_for():
    assert {"run", "test", "help", "check", "bench"} <= set(TARGETS)
    assert len(MODULES) >= 3
    assert {"docs", "LICENSE"} <= set(LINKS)


@pytest.mark.parametrize("target", TARGETS)
def test_every_make_target_that_is_named_exists_and_is_explained(target):
    assert re.search(rf"^{target}:.*## \S", MAKEFILE, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split()
    assert target in phony


def test_every_target_is_phony_and_in_the_help():
    explained = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split())
    assert explained == phony


@pytest.mark.parametrize("link", LINKS)
def test_every_file_that_is_linked_exists(link):
    if link.startswith(("http://", "https://")):
        assert " " not in link
    else:
        assert (ROOT / link.partition("#")[0]).exists()


@pytest.mark.parametrize("module", MODULES)
def test_every_module_that_is_to_be_run_exists(module):
    assert importlib.util.find_spec(module) is not None


def test_the_options_it_shows_for_the_gateway_are_taken():
    shown = re.findall(r'make run ARGS="([^"]+)"', README)
    assert shown
    for arguments in shown:
        options = parse_options(shlex.split(arguments))
        faults, _ = parse_faults(list(options.simulator), "simulator")
        assert (options.timeout, faults.never, faults.late_by) == (2.0, 0.1, 3.0)


def test_every_extra_that_is_to_be_installed_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"'\.\[([\w,]+)\]'", README)
    assert named
    assert {extra for names in named for extra in names.split(",")} <= set(
        project["optional-dependencies"]
    )
    assert f"Python {project['requires-python'].removeprefix('>=')} or newer" in README
