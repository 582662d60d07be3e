"""The deadline a caller sends along: everything below inherits what is left of it."""

from __future__ import annotations

import pytest
from aiohttp import web

from correlator import Correlator, remaining_time
from correlator.aiohttp import get_correlator, setup

from .serving import exchange, http_request, serving, status_of

DEADLINE = "X-Envoy-Expected-Rq-Timeout-Ms"


async def _answer(handler, *headers, **options):
    app = web.Application()
    setup(app, Correlator(), **options)
    app.router.add_get("/", handler)
    async with serving(app) as served:
        return await exchange(served.port, http_request("/", *headers))


async def _remaining(*headers, **options):
    """The seconds a handler is told it has, and the timeout of what it registers."""
    told = []

    async def handler(request):
        told.append(remaining_time())
        with get_correlator(request).register(timeout=50.0) as pending:
            told.append(pending.timeout)
        return web.Response()

    assert status_of(await _answer(handler, *headers, **options)) == 200
    return told


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"15000", 15.0), (b"15001", 15.001), (b"0020000", 20.0), (b" 7000 ", 7.0)],
)
async def test_the_callers_deadline_is_inherited_by_what_is_registered_below(value, seconds):
    remaining, timeout = await _remaining((DEADLINE, value))
    assert remaining < seconds + 1e-6
    assert timeout == pytest.approx(seconds, abs=5.0)
    assert timeout < seconds + 1e-6


@pytest.mark.parametrize(
    "value",
    [b"0", b"000", b"-1", b"1.5", b"1e3", b"+5", b"5 000", b"5,000", b"0x10", b"", b"inf", b"nan"]
    + [each.encode() for each in ("\u0663\u0664", "\u00b2", "\uff11", "5\u00a0")],
)
async def test_a_deadline_that_is_no_whole_number_above_zero_is_ignored(value):
    assert await _remaining((DEADLINE, value)) == [None, pytest.approx(50.0)]


@pytest.mark.parametrize("digits", [12, 13, 400, 5000])
async def test_a_huge_deadline_does_no_harm(digits):
    remaining, timeout = await _remaining((DEADLINE, b"9" * digits))
    assert remaining is None or remaining == pytest.approx(999_999_999.999)
    assert timeout == pytest.approx(50.0)


async def test_of_two_deadlines_none_is_taken():
    assert (await _remaining((DEADLINE, b"10"), (DEADLINE, b"10")))[0] is None


async def test_the_deadline_header_can_be_another_or_none():
    assert (await _remaining((DEADLINE, b"10"), deadline_header=None))[0] is None
    assert (await _remaining(("X-Ms", b"10000"), deadline_header="X-Ms"))[0] < 10.001


async def test_a_call_that_the_callers_deadline_ends_answers_504():
    async def handler(request):
        await get_correlator(request).correlate(timeout=50.0)

    assert status_of(await _answer(handler, (DEADLINE, b"15"))) == 504
