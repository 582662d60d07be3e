"""`python -m correlator top`: within this process, and as users run it: in pipes and terminals."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest
from aiohttp import web
from rich.cells import cell_len
from rich.console import Console, Group

from correlator.__main__ import main
from correlator.aiohttp import inspector
from correlator.topscreen import line_of, screen_of
from correlator.topsource import Failure, Source, events_of, parsed

from .aiohttp.serving import inspected, serving, until
from .transports.certificates import Certificates
from .transports.server import free_ports

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])  # the program has a loop of its own

PROGRAM = [sys.executable, "-W", "error", "-m", "correlator", "top"]
NASTY = "\x1b[2J\x1b]0;owned\x07[red]x[/red]\u202eevil\r\n"
VARIABLE = "CORRELATOR_AUTHORIZATION"


@pytest.fixture
def top(capsys, monkeypatch):
    """Run it in a thread of this process; return its status, what it printed, its complaint."""
    monkeypatch.delenv(VARIABLE, raising=False)

    def call(arguments):
        try:
            return main(["top", *arguments])
        except SystemExit as end:
            return end.code

    async def run(*arguments):
        status = await asyncio.to_thread(call, arguments)
        return status, *capsys.readouterr()

    return run


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

    def __init__(self, *arguments, columns=100, rows=30, term="xterm-256color"):
        self.screen = ""
        self._ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(theirs)
        environment = {**os.environ, "TERM": term}
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "LINES"):
            environment.pop(name, None)
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


# -- what can be wrong -----------------------------------------------------------------------------


async def test_each_thing_that_is_wrong_is_said_in_a_line(correlator, top):
    (unused_port,) = free_ports(1)

    async def elsewhere(_request):
        raise web.HTTPFound("http://you:canary@192.0.2.1/login\x1b?token=canary")

    async def beside(_request):
        return web.Response(status=302, headers={"Location": "//you:canary@192.0.2.1/login#canary"})

    async def html(_request):
        return web.Response(text="<p>hello</p>", content_type="text/html")

    async def nonsense(_request):
        return web.json_response({"stats": []})

    async def unauthorized(_request):
        return web.Response(status=401)

    async def told_why(_request):
        raise web.HTTPForbidden(text=f"ask\n{NASTY}")

    async def faulty(_request):
        raise web.HTTPInternalServerError

    async def busy(_request):
        detail = f"{NASTY}{'x' * 500}"
        return web.json_response(
            {"detail": detail}, status=503, content_type="application/problem+json"
        )

    async def endless(_request):
        detail = {"detail": "x" * 100_000}
        return web.json_response(detail, status=503, content_type="application/problem+json")

    async def broken(request):
        response = web.StreamResponse(headers={"Content-Length": "100"})
        response.content_type = "application/json"
        await response.prepare(request)
        request.transport.close()
        return response

    app = web.Application()
    for path, handler in (
        ("moved", elsewhere),
        ("beside", beside),
        ("html", html),
        ("nonsense", nonsense),
        ("unauthorized", unauthorized),
        ("told-why", told_why),
        ("faulty", faulty),
        ("busy", busy),
        ("endless", endless),
        ("broken", broken),
    ):
        app.router.add_get(f"/{path}/snapshot", handler)
    app.add_subapp("/guarded", inspector(correlator, authorize=lambda _request: False))
    async with serving(app) as served:
        at = f"http://me:canary@127.0.0.1:{served.port}"
        for url, why in (
            (f"{at}/nowhere", "there is no inspector"),
            (f"{at}/guarded", r"it does not let you look: .* It says: You may not see this\."),
            (f"{at}/moved", "302 .* leads to http://192.0.2.1/login[^?]*: redirects are not follo"),
            (f"{at}/html", "it is no inspector: it answered 200 text/html"),
            (f"{at}/nonsense", "it tells nonsense"),
            (f"{at}/unauthorized", "it wants credentials: see CORRELATOR_AUTHORIZATION and --head"),
            (f"{at}/told-why", r"it does not let you look: .* It says: ask \ufffd\[2J"),
            (f"{at}/faulty", "its own log says why: it answered 500 text/plain\n"),
            (f"{at}/busy", r"it answered 503 .* It says: \ufffd\[2J.*\[red\]x.*x{100}"),
            (f"{at}/endless", "it answered 503 application/problem.json\n"),
            (f"{at}/broken", "its answer breaks off"),
            (f"http://me:canary@127.0.0.1:{unused_port}/inspector", "connection refused"),
            (f"https://me:canary@127.0.0.1:{served.port}/inspector", "TLS fails"),
            (f"http://me:canary@127.0.0.1:{unused_port}/http://x", "connection refused"),
            (f"{at}/beside", "leads to //192.0.2.1/login: redirects are not followed"),
            ("http://me:canary@a..b/inspector", "no request can be made"),
        ):
            status, out, complaint = await top(url, "--once")
            assert (status, out) == (1, "")
            assert re.search(why, complaint), complaint
            assert complaint.count("\n") == 1
            assert "\x1b" not in complaint
            assert "canary" not in complaint
            assert len(complaint) < 500


async def test_a_host_that_nobody_knows_is_told_from_one_that_refuses(top, monkeypatch):
    def unknown(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    status, _, complaint = await top("http://nowhere.invalid/inspector", "--once")
    assert status == 1
    assert complaint.startswith("correlator top: http://nowhere.invalid/inspector: its host is not")
    assert complaint.count("\n") == 1


async def test_a_certificate_that_is_not_trusted_is_told_from_tls_that_fails(tmp_path, top):
    runner = web.AppRunner(web.Application())
    await runner.setup()
    try:
        context = Certificates(tmp_path / "certificates").server()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        port = runner.addresses[0][1]
        status, _, complaint = await top(f"https://127.0.0.1:{port}/inspector", "--once")
    finally:
        await runner.cleanup()
    assert status == 1
    assert "its certificate is not trusted: " in complaint
    assert complaint.count("\n") == 1


async def test_it_speaks_tls(tmp_path):
    certificates = Certificates(tmp_path / "certificates")
    runner = web.AppRunner(made_up(snapshot()))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificates.server()).start()
        url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        process = await started(url, "--once", SSL_CERT_FILE=str(certificates.authority))
        out, complaint = await process.communicate()
    finally:
        await runner.cleanup()
    assert (process.returncode, complaint) == (0, b"")
    assert b"pending 52" in out


async def test_more_than_a_megabyte_is_refused(top):
    told = snapshot(labels=[{"label": "x" * 1000}] * 2000)
    async with serving(made_up(told)) as served:
        for options in (("--once",), ()):
            status, _, complaint = await top(str(served.url()), *options)
            assert status == 1
            assert "more than a megabyte" in complaint


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "url"),
        (["http://x", "--timeout", "0"], "--timeout: it must be above 0"),
        (["http://x", "--timeout", "nan"], "--timeout: it must be above 0"),
        (["http://x", "--header", "canary"], "NAME: VALUE"),
        (
            ["http://x", "--header", "A b: canary"],
            "--header: it must be 'NAME: VALUE', with a NAME",
        ),
        (["http://x", "--header", ": canary"], "with a NAME that HTTP allows"),
        (["http://x", "--header", "a: canary\r\nb: c"], "--header: the VALUE of 'NAME: VALUE'"),
        (["http://x", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["http://x", "--heade=Authorization: canary"], "unrecognized arguments: --heade\n"),
        (["http://x", "-H", "canary", "-Hcanary"], "unrecognized arguments: -H … -H\n"),
        (["foo"], "url: it must begin with http:// or https://"),
        (["not a url"], "url: it must begin with http:// or https://"),
        (["me:canary@host/"], "url: it must begin with http:// or https://"),
        (["ftp://me:canary@host/"], "url: it must begin with http:// or https://"),
        (["http://"], "url: it must name a host"),
        (["http://me:canary@host:99999/"], "its port is not one of 1 to 65535"),
        (["http://me:canary@host:0/"], "its port is not one of 1 to 65535"),
        (["http://me:canary@[host/"], "its host is none"),
        (["http://me:canary@host/?token=canary"], "url: it has a query or a fragment"),
        (["http://me:canary@host/#top"], "url: it has a query or a fragment"),
        (["http://me:canary@host/a b"], "url: it has a space or a control character"),
        (["http://me:canary@host/", "--header", "authorization: b"], "credentials in the URL"),
    ],
)
async def test_what_is_not_understood_is_said_in_a_line_with_status_2(arguments, why, top):
    status, out, complaint = await top(*arguments)
    assert (status, out) == (2, "")
    assert why in complaint
    assert complaint.count("\n") == 1
    assert "canary" not in complaint


async def test_who_forgets_the_command_reads_no_password(capsys):
    with pytest.raises(SystemExit):
        main(["http://me:canary@host/"])
    assert "canary" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "secret", ["canary\n", "canary\x00", "canary\r\nX-Other: 1", "\udc80canary"]
)
async def test_a_variable_that_is_no_header_is_named(secret, top, monkeypatch):
    monkeypatch.setattr(os, "environ", {**os.environ, VARIABLE: secret})
    status, _, complaint = await top("http://x", "--once")
    assert status == 2
    assert VARIABLE in complaint
    assert complaint.count("\n") == 1
    assert "canary" not in complaint


# -- what is sent ----------------------------------------------------------------------------------


async def test_it_sends_the_credentials_it_is_given(correlator, top, monkeypatch):
    def may(request):
        return request.headers.get("Authorization") == "Bearer canary"

    async with serving(inspected(correlator, authorize=may)) as served:
        url = str(served.url("/inspector"))
        assert (await top(url, "--once"))[0] == 1
        monkeypatch.setenv(VARIABLE, "Bearer canary")
        assert (await top(url, "--once"))[0] == 0


async def test_the_command_line_wins_over_the_variable_and_each_header_is_sent(top, monkeypatch):
    sent = []

    async def answer(request):
        sent.append([request.headers.getall(name, []) for name in ("Authorization", "X-Twice")])
        return web.json_response(snapshot())

    app = web.Application()
    app.router.add_get("/snapshot", answer)
    async with serving(app) as served:
        url = str(served.url())
        monkeypatch.setenv(VARIABLE, "Bearer variable")
        assert (await top(url, "--once", "--header", "authorization: Bearer option"))[0] == 0
        twice = ("--header", "X-Twice: 1", "--header", "x-twice: 2")
        assert (await top(url, "--once", *twice))[0] == 0
        in_url = url.replace("http://", "http://me:it@")
        assert (await top(in_url, "--once"))[0] == 0
    assert sent == [
        [["Bearer option"], []],
        [["Bearer variable"], ["1", "2"]],
        [["Basic bWU6aXQ="], []],
    ]


async def test_without_the_extra_it_says_which():
    code = "import sys; sys.modules['rich'] = None\nfrom correlator.__main__ import main\n"
    code += "sys.exit(main(['top', 'http://x']))"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "correlator top needs the extra 'cli', as in aiocorrelator[cli]\n"


# -- how long it waits -----------------------------------------------------------------------------


async def dribbled(write, piece):
    """Write a hundred pieces a second, for many times the timeouts here, but not for ever."""
    for _ in range(500):
        await write(piece)
        # Really: a program with a loop and a clock of its own reads.
        await asyncio.sleep(0.01)


async def told_by(handler, timeout):
    """Yield what a source tells of a stream."""
    app = web.Application()
    app.router.add_get("/events", handler)
    async with serving(app) as served:
        source = Source(str(served.url()), (), timeout=timeout)
        async with (
            source.session() as session,
            contextlib.aclosing(source.snapshots(session)) as told,
        ):
            async for each in told:
                yield each


async def test_who_dribbles_a_body_holds_it_no_longer_than_the_timeout(top):
    async def dribble(request):
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            await dribbled(response.write, b" ")
            await response.write(json.dumps(snapshot()).encode())
        return response

    app = web.Application()
    app.router.add_get("/snapshot", dribble)
    async with serving(app) as served:
        status, _, complaint = await top(str(served.url()), "--once", "--timeout", "0.5")
        assert status == 1
        assert "it does not answer within 0.5 s; a snapshot takes up to a second" in complaint
        _, _, complaint = await top(str(served.url()), "--once", "--timeout", "1.5")
        assert complaint.endswith("it does not answer within 1.5 s\n")


@pytest.mark.parametrize("options", [(), ("--once",)])
async def test_who_dribbles_headers_holds_it_no_longer_either(options, top):
    is_over = asyncio.Event()

    async def dribble(_reader, writer):
        async def write(piece):
            writer.write(piece)
            await writer.drain()

        try:
            await write(b"HTTP/1.1 200 OK\r\nX: ")
            await dribbled(write, b"x")
        except ConnectionError:  # the client has gone
            pass
        finally:
            writer.close()
            is_over.set()

    async with await asyncio.start_server(dribble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        status, _, complaint = await top(f"http://127.0.0.1:{port}", *options, "--timeout", "0.5")
        await is_over.wait()
    assert status == 1
    assert "it does not answer within 0.5 s" in complaint


@pytest.mark.parametrize("count", [0, 1])
async def test_comments_and_other_events_are_no_sign_of_life(count):
    async def events(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        data = json.dumps(snapshot())
        with contextlib.suppress(ConnectionError):
            await response.write(f"event: snapshot\ndata: {data}\n\n".encode() * count)
            await dribbled(response.write, b": ping\n\nevent: ping\ndata: 1\n\n")
        return response

    async with contextlib.aclosing(told_by(events, timeout=0.5)) as told:
        for _ in range(count):
            assert (await anext(told))["name"] == "gateway"
        if count:
            assert "it does not answer within 0.5 s" in str(await anext(told))
        else:
            with pytest.raises(Failure, match=r"it does not answer within 0\.5 s"):
                await anext(told)


async def test_a_stream_that_tells_nonsense_is_stale_and_asked_again():
    answers = iter([snapshot(), snapshot(stats=[]), snapshot(name="again")])

    async def events(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for told in answers:
            await response.write(f"event: snapshot\ndata: {json.dumps(told)}\n\n".encode())
            if told["stats"] == []:
                break
        return response

    async with contextlib.aclosing(told_by(events, timeout=5.0)) as told:
        assert (await anext(told))["name"] == "gateway"
        assert "it tells nonsense" in str(await anext(told))
        assert (await anext(told))["name"] == "again"
        assert "the stream has ended" in str(await anext(told))


# -- in a terminal ---------------------------------------------------------------------------------


async def test_in_a_terminal_it_is_live_and_ctrl_c_gives_the_terminal_back(correlator):
    async with (
        serving(inspected(correlator)) as served,
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_as_ever_once_the_terminal_is_as_it_was(number):
    async with (
        serving(made_up(snapshot())) as served,
        Terminal(str(served.url())) as terminal,
    ):
        await terminal.shows("pending 52")
        terminal.process.send_signal(number)
        assert await asyncio.to_thread(terminal.process.wait, 10) == -number
        await until(lambda: "\x1b[?1049l" in terminal.screen)
        assert terminal.screen.rindex("\x1b[?25h") > terminal.screen.rindex("\x1b[?25l")
        assert "Traceback" not in terminal.text
        assert termios.tcgetattr(terminal._theirs) == terminal.before


async def test_a_dumb_terminal_gets_lines_as_a_pipe_does():
    async with serving(made_up(snapshot())) as served:
        async with Terminal(str(served.url()), term="dumb") as terminal:
            await terminal.shows(r"pending=52(.|\s)*pending=52")
            assert "\x1b" not in terminal.screen
        async with Terminal(str(served.url()), "--once", term="dumb", columns=30) as terminal:
            assert await asyncio.to_thread(terminal.process.wait, 30) == 0
            await until(lambda: "order-41" in terminal.screen)
            assert "refused/s" in terminal.screen
            assert "\x1b" not in terminal.screen


async def test_once_in_a_terminal_it_keeps_to_the_width(correlator):
    told = snapshot(oldest=[OLDEST])
    async with (
        serving(made_up(told)) as served,
        Terminal(str(served.url()), "--once", columns=80) as terminal,
    ):
        assert await asyncio.to_thread(terminal.process.wait, 30) == 0
        await until(lambda: "order-41" in terminal.screen)
        assert max(map(cell_len, terminal.text.splitlines())) <= 80
        assert "handlers.py:42" in terminal.text
        assert OLDEST["origin"] not in terminal.text


async def test_it_says_when_it_is_stale_and_recovers(correlator):
    runner = web.AppRunner(inspected(correlator))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    async with Terminal(f"http://127.0.0.1:{port}/inspector") as terminal:
        await terminal.shows("pending 0")
        await runner.cleanup()
        await terminal.shows("stale, last heard")
        runner = web.AppRunner(inspected(correlator))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        correlator.register("after the restart", timeout=60.0)
        await terminal.shows("after the restart")
    await runner.cleanup()
    await correlator.aclose()


async def test_what_is_hostile_does_nothing_to_the_terminal(top):
    told = snapshot(
        name=NASTY,
        oldest=[{"request_id": NASTY, "age": 1.0, "label": NASTY, "origin": NASTY}],
        labels=[{"label": NASTY}],
        unmatched=[{"time": 1.0, "request_id": NASTY, "disposition": NASTY}],
        refusals={NASTY: 1},
        replicas=[{"owner": NASTY, "stats": {}}],
    )
    async with serving(made_up(told)) as served:
        async with Terminal(str(served.url()), columns=200) as terminal:
            await terminal.shows(r"\[red\]x\[/red\]")
            for part in ("\x1b[2J", "\x1b]0;", "\x07", "\u202e"):
                assert part not in terminal.screen
        _, out, _ = await top(str(served.url()), "--once")
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
    assert row(110).endswith(f"  {origin[:-5]}…")
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
    assert "refused since somebody looks:  CapacityExceeded 3  DuplicateRequest 1" in told
    assert "max –  of 10" in told


async def test_how_high_a_bar_is_is_said():
    history = [snapshot(stats={"pending": n, "oldest_age": n / 2}) for n in (3, 3, 1500)]
    lines = [line.plain for line in screen_of(history[-1], history)]
    assert "pending ▁▁█ up to 1,500" in lines
    assert "oldest  ▁▁█ up to 12.5 min" in lines
    assert "pending █ up to 1,500" in [
        line.plain for line in screen_of(history[-1], history, width=21)
    ]


async def test_labels_that_differ_at_their_end_are_told_apart():
    labels = [{"label": f"payments.example:{port}", "pending": 1} for port in (8443, 8444)]
    lines = drawn(snapshot(labels=labels), 80, 40)
    assert any(line.startswith("payments.example:8443 ") for line in lines)
    assert any(line.startswith("payments.example:8444 ") for line in lines)


async def test_a_line_tells_the_news():
    before, after = snapshot(started=1.0), snapshot(started=2.0, state="draining")
    assert line_of(before, before).endswith("p99=300ms")
    assert line_of(before).endswith("p99=300ms")
    assert line_of(after, before).endswith("p99=300ms draining restarted")


async def test_without_an_output_it_says_so(capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["top", "http://127.0.0.1:9/inspector"]) == 1
    assert capfd.readouterr().err == "correlator top: there is no output to write to\n"


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
        assert whole(screen_of(told)).partition("max ")[2].partition("  of")[0] == shown


# -- nonsense --------------------------------------------------------------------------------------

NONSENSE = [
    *('"x"', '""', "[]", "{}", "[[]]", "[null]", '[{"stats": 1}]', '{"a": []}', "null", "true"),
    *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e15", "-1e15", "-1", "1e-300"),
    *("9" * 400, "-" + "9" * 5000, '"\\ud800\\u001b[2J"', "[" * 50 + "]" * 50, "[" * 90_000),
]


def places(value, path=()):
    """Yield the path to each value within."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*path, key)
            yield from places(value[key], (*path, key))


@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda text: text[:12])
async def test_nonsense_anywhere_is_refused_or_drawn(nonsense):
    told = snapshot(
        started=1.0,
        state="open",
        max_pending=10,
        refusals={"CapacityExceeded": 1},
        replicas=[{"owner": "web-1", "seen_ago": 1.0, "stats": {"pending": 1, "oldest_age": 1.0}}],
        oldest=[OLDEST],
    )
    for path in [(), *places(told)]:
        spoilt = {"": json.loads(json.dumps(told))}
        within, last = spoilt, ""
        for key in path:
            within, last = within[last], key
        within[last] = "HERE"
        data = json.dumps(spoilt[""]).replace('"HERE"', nonsense).encode()
        try:
            seen = parsed(data)
        except Failure:
            continue
        json.dumps(seen, allow_nan=False)
        for text in (line_of(seen), whole(screen_of(seen)), *drawn(seen, 80, 24)):
            assert "\x1b" not in text
        drawn(seen, 40, 12, history=[parsed(json.dumps(told).encode()), seen, seen])


@pytest.mark.parametrize("depth", [6, 100, 500, 700, 800, 900])
async def test_what_nests_deeper_than_a_snapshot_is_nonsense(depth):
    nested = "[" * depth + "]" * depth
    data = json.dumps(snapshot(name="HERE")).replace('"HERE"', nested).encode()
    with pytest.raises(Failure, match="nonsense"):
        parsed(data)


async def test_a_time_that_is_none_and_numbers_that_nothing_has_are_shown_as_nothing():
    for missing in (
        "stats",
        "rates",
        "latency",
        "time",
        "oldest",
        "labels",
        "unmatched",
        "replicas",
    ):
        told = snapshot()
        del told[missing]
        with pytest.raises(Failure, match="nonsense"):
            parsed(json.dumps(told).encode())
    seen = parsed(json.dumps(snapshot(time=-1e15, max_pending=sys.maxsize)).encode())
    assert seen["max_pending"] is None
    assert "pending=52" in line_of(seen)


# -- the stream ------------------------------------------------------------------------------------


async def events_in(*parts):
    async def stream():
        for part in parts:
            yield part

    return [event async for event in events_of(stream())]


async def test_a_stream_is_read_however_it_is_cut():
    stream = (
        b": a comment\n\nevent: snapshot\ndata: one\ndata: two\n\n"
        b"data:three\r\n\r\nevent: other\r\ndata: four\r\n\r\nid: 7\nretry: 1\nevent: none\n\n"
        b"event: mac\rdata: five\r\revent\ndata: six\r\n\n\revent: end\ndata\r\n\r\r\n"
    )
    told = [
        *(("snapshot", b"one\ntwo"), ("message", b"three"), ("other", b"four")),
        *(("mac", b"five"), ("message", b"six"), ("end", b"")),
    ]
    for size in range(1, len(stream) + 1):
        parts = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert await events_in(*parts) == told


async def test_an_event_is_told_as_soon_as_it_has_ended():
    heard = []

    async def stream():
        yield b"data: one\r\r"
        heard.append("the rest")
        yield b"\ndata: two\n\n"

    async for _, data in events_of(stream()):
        heard.append(data)
    assert heard == [b"one", "the rest", b"two"]


@pytest.mark.parametrize(
    "part",
    [b"data\n" * 10_000, b"data:\r" * 10_000, b"data: x\n" * 9_000, b"x" * 60_000, b":" * 60_000],
)
async def test_what_never_ends_is_refused(part):
    with pytest.raises(Failure, match="more than a megabyte"):
        await events_in(*[part] * 200)
    with pytest.raises(Failure, match="more than a megabyte"):
        await events_in(part * 200 + b"\n\n")


async def test_a_long_stream_of_short_events_is_no_long_event():
    parts = [b": ping\n\ndata: " + b"x" * 60_000 + b"\n\n"] * 100
    assert len(await events_in(*parts)) == 100


async def test_the_help_tells_all(top):
    status, out, _ = await top("--help")
    assert status == 0
    for word in ("--once", "--json", "--header", "--timeout", VARIABLE):
        assert word in out
