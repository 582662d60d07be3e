"""The documentation's programs that need a broker run against a real one."""

import asyncio

import pytest

from correlator import Correlator, NoResponder, RequestTimeout
from correlator.transports import connect

from .. import pages

PROGRAMS = [program for program in pages.programs() if program.broker is not None]


@pytest.fixture
def url(request, program):
    server = request.getfixturevalue(f"{program.broker}_server")
    return server.url.replace("valkey:", "redis:")  # redis-py knows no other


def named(programs):
    return pytest.mark.parametrize("program", programs, ids=lambda program: program.where)


@named([each for each in PROGRAMS if each.answers is None])
def test_a_program_ends_well_and_prints_what_the_page_shows(program, url):
    done = pages.run("-c", program.at(url))
    assert done.returncode == 0, done.stderr  # which holds what a handler was shown to raise
    if program.shown is not None:
        assert done.stdout == program.shown


@named([each for each in PROGRAMS if each.answers is not None])
async def test_a_responder_of_a_page_answers_as_it_is(program, url):
    """Each of them answers with what it was sent, in capital letters."""
    with pages.running(program.at(url)) as process:
        async with Correlator() as correlator, connect(url, correlator) as transport:
            async with asyncio.timeout(30):
                while True:
                    assert process.poll() is None, process.stderr.read()
                    try:
                        reply = await transport.request(program.answers, b"lamp", timeout=1.0)
                    except (NoResponder, RequestTimeout):
                        await asyncio.sleep(0.05)  # another process takes its time to start
                    else:
                        break
        assert reply.body == b"LAMP"
