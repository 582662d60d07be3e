"""The documentation keeps its word: every program in it runs, and prints what the page shows."""

import re
import time
import urllib.error
import urllib.request

import pytest

from . import pages

PROGRAMS = [program for program in pages.programs() if program.broker is None]
ENDING = [each for each in PROGRAMS if each.serves is None and not each.is_test]


def named(programs):
    return pytest.mark.parametrize("program", programs, ids=lambda program: program.where)


def test_there_are_programs_of_every_kind():
    everything = pages.programs()
    assert len(ENDING) >= 19
    assert {each.broker for each in everything} == {None, "nats", "valkey", "rabbitmq"}
    assert any(each.serves for each in everything)
    assert any(each.answers for each in everything)


@pytest.mark.parametrize(
    ("page", "package"),
    [
        ("asgi.md", "starlette"),
        ("asgi.md", "uvicorn"),
        ("monitoring.md", "prometheus-client"),
        ("monitoring.md", "opentelemetry-sdk"),
    ],
)
def test_a_page_names_the_packages_that_its_programs_need(page, package):
    text = " ".join((pages.ROOT / "docs" / page).read_text().split())
    assert re.search(rf"(pip install [^`]*|brings `){package}`", text)


@named(ENDING)
def test_a_program_ends_well_and_prints_what_the_page_shows(program):
    done = pages.run("-c", program.at(None))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    if program.shown is not None:
        assert done.stdout == program.shown


@named([each for each in PROGRAMS if each.is_test])
def test_tests_that_a_page_shows_pass(program, tmp_path):
    done = pages.run_tests(program.source, tmp_path)
    assert done.returncode == 0, done.stdout


@named([each for each in PROGRAMS if each.serves is not None])
def test_a_program_that_serves_answers_where_the_page_says(program):
    source = program.at(None)
    (port,) = set(re.findall(r"(?:\bport=|, )([0-9]{5})\b", source))
    with pages.running(source) as process:
        until = time.monotonic() + 30
        while True:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            try:
                url = f"http://127.0.0.1:{port}{program.serves}"
                urllib.request.urlopen(url, timeout=10).close()  # noqa: S310  # http, to our own
                break
            except urllib.error.HTTPError as answer:
                answer.close()
                if program.serves != "/":
                    raise
                break  # it has nothing there, but it is there
            except OSError:
                time.sleep(0.05)  # another process takes its time to start
    assert process.returncode == 0
