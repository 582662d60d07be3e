"""`python -m correlator top`, run as users run it: in a pipe, and in a terminal of its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

import pytest
from aiohttp import web
from rich.cells import cell_len
from rich.console import Console, Group

from correlator.aiohttp import inspector
from correlator.top import events_of
from correlator.topscreen import screen_of

from .aiohttp.serving import serving, until
from .transports.server import free_ports

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])  # the program has a loop of its own

PROGRAM = [sys.executable, "-W", "error", "-m", "correlator", "top"]
NASTY = "\x1b[2J\x1b]0;owned\x07[red]x[/red]\u202eevil\r\n"


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


async def run(*arguments, **environment):
    """Run it to its end; return its status, what it printed, and what it complained of."""
    process = await started(*arguments, **environment)
    async with asyncio.timeout(30):
        out, complaint = await process.communicate()
    return process.returncode, out.decode(), complaint.decode()


def app_of(correlator, **options):
    app = web.Application()
    app.add_subapp("/inspector", inspector(correlator, **options))
    return app


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


def whole(lines):
    return "\n".join(line.plain for line in lines)


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


class Terminal:
    """The program in a terminal of its own."""

    def __init__(self, *arguments, columns=100, rows=30):
        self.screen = ""
        self._ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(theirs)
        environment = {**os.environ, "TERM": "xterm-256color"}
        environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen(  # noqa: S603  # our own code
            [*PROGRAM, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        self._theirs = theirs
        asyncio.get_running_loop().add_reader(self._ours, self._read)

    def _read(self):
        try:
            self.screen += os.read(self._ours, 65536).decode(errors="replace")
        except OSError:  # its end
            asyncio.get_running_loop().remove_reader(self._ours)

    async def shows(self, pattern):
        async with asyncio.timeout(30):
            while not re.search(pattern, self.text):
                assert self.process.poll() is None, self.text
                await asyncio.sleep(0.02)  # really: another process draws

    @property
    def text(self):
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.screen)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        await asyncio.to_thread(self.process.wait)
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        os.close(self._theirs)


# -- once, and in a pipe -------------------------------------------------------------------------


async def test_once_it_prints_what_a_real_inspector_tells(correlator):
    correlator.register("order-42", label="bank", timeout=60.0)
    correlator.resolve("stranger", 1)
    async with serving(app_of(correlator)) as served:
        url = str(served.url("/inspector"))
        status, out, complaint = await run(url, "--once")
        assert (status, complaint) == (0, "")
        for word in ("tested", "pending 1", "unknown 1", "order-42", "bank"):
            assert word in out
        assert "\x1b" not in out
        status, out, _ = await run(url, "--once", "--json")
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


@pytest.mark.parametrize("number", [signal.SIGINT])
async def test_ctrl_c_in_a_pipe_ends_it_well(number):
    async with serving(made_up(snapshot())) as served:
        process = await started(str(served.url()))
        await process.stdout.readline()
        process.send_signal(number)
        _, complaint = await process.communicate()
        assert (process.returncode, complaint) == (0, b"")


# -- what can be wrong -----------------------------------------------------------------------------


async def test_each_thing_that_is_wrong_is_said_in_a_line(correlator):
    (unused_port,) = free_ports(1)

    async def elsewhere(_request):
        raise web.HTTPFound("http://192.0.2.1/")

    async def html(_request):
        return web.Response(text="<p>hello</p>", content_type="text/html")

    async def nonsense(_request):
        return web.json_response({"stats": []})

    app = web.Application()
    app.add_routes(
        [
            web.get("/moved/snapshot", elsewhere),
            web.get("/html/snapshot", html),
            web.get("/nonsense/snapshot", nonsense),
        ]
    )
    app.add_subapp("/guarded", inspector(correlator, authorize=lambda _request: False))
    async with serving(app) as served:
        at = f"http://me:canary@127.0.0.1:{served.port}"
        for url, why in (
            (f"{at}/nowhere", "there is no inspector"),
            (f"{at}/guarded", "it does not let you look"),
            (f"{at}/moved", "it answered 302"),
            (f"{at}/html", "it answered 200 text/html"),
            (f"{at}/nonsense", "it tells nonsense"),
            (f"http://me:canary@127.0.0.1:{unused_port}/inspector", "Cannot connect"),
            ("not a url", "must begin with http"),
            (f"ftp://me:canary@127.0.0.1:{unused_port}/", "must begin with http"),
        ):
            status, out, complaint = await run(url, "--once", "--timeout", "5")
            assert (status, out) == (1, "")
            assert re.search(why, complaint, re.IGNORECASE), complaint
            assert complaint.count("\n") == 1
            assert "canary" not in complaint


async def test_more_than_a_megabyte_is_refused():
    told = snapshot(labels=[{"label": "x" * 1000}] * 2000)
    async with serving(made_up(told)) as served:
        for options in (("--once",), ()):
            status, _, complaint = await run(str(served.url()), *options)
            assert status == 1
            assert "more than a megabyte" in complaint


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "required"),
        (["http://x", "--timeout", "0"], "above 0"),
        (["http://x", "--header", "canary"], "NAME: VALUE"),
        (["http://x", "--header", "a: canary\r\nb: c"], "NAME: VALUE"),
        (["http://x", "--nonsense"], "unrecognized"),
    ],
)
async def test_what_is_not_understood_is_said_with_status_2(arguments, why):
    status, _, complaint = await run(*arguments)
    assert status == 2
    assert why in complaint
    assert "canary" not in complaint


async def test_it_sends_the_credentials_it_is_given(correlator):
    def may(request):
        return request.headers.get("Authorization") == "Bearer canary"

    async with serving(app_of(correlator, authorize=may)) as served:
        url = str(served.url("/inspector"))
        assert (await run(url, "--once", "--header", "Authorization: Bearer canary"))[0] == 0
        assert (await run(url, "--once", CORRELATOR_AUTHORIZATION="Bearer canary"))[0] == 0
        assert (await run(url, "--once"))[0] == 1


async def test_without_the_extra_it_says_which():
    code = "import sys; sys.modules['rich'] = None\nfrom correlator.__main__ import main\n"
    code += "sys.exit(main(['top', 'http://x']))"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "correlator top needs the extra 'cli', as in aiocorrelator[cli]\n"


# -- in a terminal ---------------------------------------------------------------------------------


async def test_in_a_terminal_it_is_live_and_ctrl_c_gives_the_terminal_back(correlator):
    async with (
        serving(app_of(correlator)) as served,
        Terminal(str(served.url("/inspector"))) as terminal,
    ):
        await terminal.shows("pending 0")
        correlator.register("order-42", label="bank", timeout=60.0)
        await terminal.shows("order-42")
        assert "\x1b[?1049h" in terminal.screen  # the other screen
        terminal.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(terminal.process.wait, 10) == 0
        await until(lambda: "\x1b[?1049l" in terminal.screen)
        assert "Traceback" not in terminal.text
        assert termios.tcgetattr(terminal._theirs) == terminal.before
    await correlator.aclose()


async def test_it_says_when_it_is_stale_and_recovers(correlator):
    runner = web.AppRunner(app_of(correlator))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    async with Terminal(f"http://127.0.0.1:{port}/inspector") as terminal:
        await terminal.shows("pending 0")
        await runner.cleanup()
        await terminal.shows("stale, last heard")
        runner = web.AppRunner(app_of(correlator))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        correlator.register("after the restart", timeout=60.0)
        await terminal.shows("after the restart")
    await runner.cleanup()
    await correlator.aclose()


async def test_what_is_hostile_does_nothing_to_the_terminal():
    told = snapshot(
        name=NASTY,
        oldest=[{"request_id": NASTY, "age": 1.0, "label": NASTY, "origin": NASTY}],
        labels=[{"label": NASTY}],
        unmatched=[{"time": 1.0, "request_id": NASTY, "disposition": NASTY}],
    )
    async with serving(made_up(told)) as served:
        async with Terminal(str(served.url()), columns=200) as terminal:
            await terminal.shows(r"\[red\]x\[/red\]")
            for part in ("\x1b[2J", "\x1b]0;", "\x07", "\u202e"):
                assert part not in terminal.screen
        _, out, _ = await run(str(served.url()), "--once")
        assert "\x1b" not in out
        assert "[red]x[/red]" in out


# -- the screen ------------------------------------------------------------------------------------


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
async def test_it_fits_small_and_large_terminals(width, height, seen, said):
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


async def test_the_origin_gives_way_before_the_id_and_the_rest_is_whole():
    def row(width, **parts):
        told = snapshot(oldest=[{**OLDEST, **parts}], labels=[], unmatched=[])
        line = drawn(told, width, 40)[-1]
        assert "12.6 ms" in line
        assert "83.3 min" in line
        assert OLDEST["label"] in line
        return line

    request_id, origin = OLDEST["request_id"], OLDEST["origin"]
    assert row(200).endswith(origin)
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


async def test_it_says_what_state_it_is_in_and_when_it_began_anew():
    before, after = snapshot(started=1.0, state="open"), snapshot(started=2.0, state="closed")
    assert "closed" in screen_of(after)[0].plain
    assert "open" not in screen_of(before)[0].plain
    assert "restarted" not in screen_of(before, [before, before])[0].plain
    assert "restarted" in screen_of(after, [before, after, after])[0].plain
    assert "restarted" not in screen_of(after, [before, *[after] * 20])[0].plain  # for a while


async def test_what_an_inspector_may_not_tell_is_left_out():
    assert "pending 52  oldest" in whole(screen_of(snapshot()))
    assert "pending 52  oldest" in whole(screen_of(snapshot(max_pending=None)))
    assert "pending 52 of 10,000" in whole(screen_of(snapshot(max_pending=10_000)))
    assert "refused/s 2.5" in whole(screen_of(snapshot(rates={"refused": 2.5})))
    refusals = {"CapacityExceeded": 3, "DuplicateRequest": 1}
    told = whole(screen_of(snapshot(refusals=refusals)))
    assert "CapacityExceeded 3  DuplicateRequest 1" in told


async def test_seconds_are_those_of_the_page():
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
        assert whole(screen_of(told)).partition("max ")[2].partition("\n")[0] == shown


# -- the stream ----------------------------------------------------------------------------------


async def test_a_stream_is_read_however_it_is_cut():
    stream = (
        b": a comment\n\nevent: snapshot\ndata: one\ndata: two\n\n"
        b"data:three\r\n\r\nevent: other\r\ndata: four\r\n\r\nid: 7\nretry: 1\nevent: none\n\n"
    )
    whole = [("snapshot", b"one\ntwo"), ("message", b"three"), ("other", b"four")]
    for size in range(1, len(stream) + 1):

        async def parts(size=size):
            for start in range(0, len(stream), size):
                yield stream[start : start + size]

        assert [event async for event in events_of(parts())] == whole


async def test_the_help_tells_all():
    _, out, _ = await run("--help")
    for word in ("--once", "--json", "--header", "--timeout", "CORRELATOR_AUTHORIZATION"):
        assert word in out
