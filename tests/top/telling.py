"""Inspectors that are made up, and what asks them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys

from aiohttp import web

PROGRAM = [sys.executable, "-W", "error", "-m", "correlator", "top"]

NASTY = "\x1b[2J\x1b]0;owned\x07[red]x[/red]\u202eevil\r\n"

VARIABLE = "CORRELATOR_AUTHORIZATION"

OLDEST = {
    "request_id": "2786734787007541b9c08ce137c9d4da",
    "age": 5000.0,
    "remaining": 0.0126,
    "label": "payments",
    "origin": "/srv/gateway/customer/handlers.py:42 in place_order",
}


async def started(*arguments, **environment):
    return await asyncio.create_subprocess_exec(
        *PROGRAM,
        *arguments,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def snapshot(**parts):
    """Return a snapshot as an inspector tells it."""
    return {
        "name": "gateway",
        "owner": None,
        "time": 1.0,
        "stats": {"pending": 52, "oldest_age": 6.0, "waiting": 0, "refused": 1, "late": 2},
        "rates": {"resolved": 132.5, "timed_out": 9.0},
        "latency": {"count": 10, "p50": 0.0426, "p90": 0.113, "p99": 0.3, "max": None},
        "labels": [{"label": "bank", "pending": 3, "registered": 7}],
        "oldest": [{"request_id": "order-42", "age": 6.0, "remaining": 0.5, "label": "bank"}],
        "unmatched": [{"time": 1.0, "request_id": "order-41", "disposition": "late"}],
        "replicas": [],
        **parts,
    }


def made_up(told):
    """Return an application that tells that, at once and as a stream."""

    async def once(_request):
        return web.json_response(told)

    async def events(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                data = json.dumps(told)
                await response.write(f"event: snapshot\r\ndata: {data}\r\n\r\n".encode())
                await asyncio.sleep(0.1)  # really: another process reads
        return response

    app = web.Application()
    app.add_routes([web.get("/snapshot", once), web.get("/events", events)])
    return app
