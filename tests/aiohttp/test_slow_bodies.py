"""A callback whose body does not come holds nothing for longer than it may."""

import asyncio

import pytest
from aiohttp import web

from correlator import Correlator
from correlator.aiohttp import CallbackTokens, callback_route


@pytest.mark.parametrize("sent", [b"", b"half", b"half mor"])
async def test_a_body_that_does_not_come_is_a_408_and_settles_nothing(sent):
    tokens = CallbackTokens([b"k" * 32])
    async with Correlator() as correlator:
        app = web.Application()
        app.add_routes([callback_route(correlator, tokens=tokens, body_timeout=0.05)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            pending = correlator.register()
            token = tokens.issue(pending.request_id, 60)
            reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
            head = f"POST /callbacks/{token} HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n"
            writer.write(head.encode() + sent)
            async with asyncio.timeout(5):
                assert (await reader.readline()).split()[1] == b"408"
            writer.transport.abort()
            assert pending.outcome is None
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "1"])
def test_a_bad_body_timeout_is_named(seconds):
    tokens = CallbackTokens([b"k" * 32])
    with pytest.raises((TypeError, ValueError), match="^body_timeout "):
        callback_route(Correlator(), tokens=tokens, body_timeout=seconds)
