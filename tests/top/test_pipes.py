"""Once, and in a pipe: what scripts get."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from ..aiohttp.serving import inspected, serving
from .telling import OLDEST, PROGRAM, made_up, snapshot, started

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])  # the program has a loop of its own


async def test_once_it_prints_what_a_real_inspector_tells(correlator, top):
    correlator.register("order-42", label="bank", timeout=60.0)
    correlator.resolve("stranger", 1)
    async with serving(inspected(correlator)) as served:
        url = str(served.url("/inspector"))
        status, out, complaint = await top(url, "--once")
        assert (status, complaint) == (0, "")
        for word in ("tested", "pending 1", "unknown 1", "order-42", "bank"):
            assert word in out
        assert "\x1b" not in out
        status, out, _ = await top(url, "--once", "--json")
        seen = json.loads(out)
        assert seen["stats"]["pending"] == 1
        assert seen["oldest"][0]["request_id"] == "order-42"
    await correlator.aclose()


async def test_in_a_pipe_it_prints_a_line_a_snapshot_until_nobody_reads():
    async with serving(made_up(snapshot())) as served:
        for options, expected in (((), "pending=52"), (("--json",), '"pending": 52')):
            process = await asyncio.create_subprocess_exec(
                *PROGRAM,
                str(served.url()),
                *options,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            lines = [await process.stdout.readline() for _ in range(3)]
            assert all(expected in line.decode() for line in lines)
            process.stdout._transport.close()
            async with asyncio.timeout(10):
                assert await process.wait() == 0
            assert await process.stderr.read() == b""


@pytest.mark.parametrize("options", [("--once",), ("--once", "--json")])
async def test_who_reads_nothing_at_all_is_no_failure(options):
    async with serving(made_up(snapshot())) as served:
        ours, theirs = os.pipe()
        os.close(ours)
        try:
            process = await asyncio.create_subprocess_exec(
                *PROGRAM, str(served.url()), *options, stdout=theirs, stderr=subprocess.PIPE
            )
        finally:
            os.close(theirs)
        _, complaint = await process.communicate()
        assert (process.returncode, complaint) == (0, b"")


async def test_in_a_pipe_nothing_is_cut(top, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    async with serving(made_up(snapshot(oldest=[OLDEST]))) as served:
        status, out, _ = await top(str(served.url()), "--once")
        assert status == 0
        for word in map(str, (OLDEST["request_id"], OLDEST["label"], OLDEST["origin"])):
            assert word in out
        assert "…" not in out


async def test_ctrl_c_in_a_pipe_ends_it_well():
    async with serving(made_up(snapshot())) as served:
        process = await started(str(served.url()))
        await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, complaint = await process.communicate()
        assert (process.returncode, complaint) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk here is always full")
@pytest.mark.parametrize("options", [(), ("--once",), ("--once", "--json")])
async def test_a_full_disk_is_said_in_a_line(options):
    async with serving(made_up(snapshot())) as served:
        full = os.open("/dev/full", os.O_WRONLY)
        try:
            process = await asyncio.create_subprocess_exec(
                *PROGRAM, str(served.url()), *options, stdout=full, stderr=subprocess.PIPE
            )
        finally:
            os.close(full)
        _, complaint = await process.communicate()
        assert process.returncode == 1
        assert complaint.count(b"\n") == 1
        assert b"the output cannot be written: No space left" in complaint


async def test_an_encoding_that_lacks_a_character_ends_nothing():
    async with serving(made_up(snapshot(name="Überweisung"))) as served:
        process = await started(str(served.url()), "--once", PYTHONIOENCODING="ascii")
        out, complaint = await process.communicate()
        assert (process.returncode, complaint) == (0, b"")
        assert b"?berweisung" in out
