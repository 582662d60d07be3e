"""`python -m correlator top`: its command line, and what it says of what is wrong."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys

import pytest
from aiohttp import web

from correlator.__main__ import main
from correlator.aiohttp import inspector

from ..aiohttp.serving import inspected, serving
from ..transports.certificates import Certificates
from ..transports.server import free_ports
from .telling import NASTY, VARIABLE, made_up, snapshot, started

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])  # the program has a loop of its own


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


@pytest.mark.parametrize(
    "arguments",
    [
        ["http://me:canary@host/"],
        ["http://me:canary@not@host/"],
        ["--header", "Authorization: canary", "top", "http://host"],
        ["top", "http://host", "--once=canary"],
    ],
)
async def test_what_stands_where_it_does_not_belong_is_not_quoted(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    complaint = capsys.readouterr().err
    assert "canary" not in complaint
    assert complaint.count("\n") == 1


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


async def test_without_an_output_it_says_so(capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["top", "http://127.0.0.1:9/inspector"]) == 1
    assert capfd.readouterr().err == "correlator top: there is no output to write to\n"


async def test_the_help_tells_all(top):
    status, out, _ = await top("--help")
    assert status == 0
    for word in ("--once", "--json", "--header", "--timeout", VARIABLE):
        assert word in out
