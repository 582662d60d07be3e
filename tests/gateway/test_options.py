"""The command line: what is refused, in one clear line, and what is kept to itself."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import subprocess
import sys
import time

import pytest

from correlator.aiohttp import CallbackTokens
from correlator.transports import SCHEMES
from examples.gateway.__main__ import this_python
from examples.gateway.options import parse_options
from examples.gateway.upstream import parse_faults

from .process import ROOT, run_to_end

KEY = "a key of sixteen bytes or more"

REFUSED = [
    ("--port", "x"),
    ("--port", "-1"),
    ("--port", "65536"),
    ("--port", "8080.0"),
    ("--port", "\u0668\u0660"),
    ("--timeout", "0"),
    ("--timeout", "-1"),
    ("--timeout", "nan"),
    ("--timeout", "inf"),
    ("--timeout", "soon"),
    ("--max-pending", "0"),
    ("--max-pending", "many"),
    ("--max-body", "0"),
    ("--max-body", "1e6"),
    ("--job-ttl", "0"),
    ("--drain", "-3"),
    ("--public-url", "gateway.example"),
    ("--public-url", "ftp://gateway.example"),
    ("--public-url", "http://"),
    ("--public-url", "http://gateway.example/?key=secret"),
    ("--public-url", "http://gateway.example/#there"),
    ("--upstream", "http://[::1"),
    ("--upstream", "/jobs"),
    ("--upstream", "http://upstream.example:99999/"),
    ("--log-level", "loud"),
]
SIMULATOR_REFUSED = [
    ("--never", "2"),
    ("--never", "-0.1"),
    ("--twice", "nan"),
    ("--late", "often"),
    ("--error", "1.01"),
    ("--delay", "0"),
    ("--late-by", "-1"),
    ("--seed", "x"),
    ("--distribution", "normal"),
]


def complaint(*arguments: str, **environment: str) -> str:
    """Return the one line that says what is wrong with the options, beside the usage."""
    done = run_to_end(*arguments, **environment)
    assert done.returncode == 2, done
    assert done.stdout == ""
    usage, _, wrong = done.stderr.partition("error: ")
    assert usage.startswith("usage: python -m examples.gateway"), done.stderr
    assert wrong.count("\n") == 1, done.stderr
    assert wrong.endswith("\n")
    return wrong


@pytest.mark.parametrize(("option", "value"), REFUSED)
def test_a_bad_option_is_named_with_its_value(option, value, capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_options([option, value])
    assert leaving.value.code == 2
    wrong = capsys.readouterr().err.splitlines()[-1]
    assert option in wrong
    assert repr(value) in wrong


@pytest.mark.parametrize(("option", "value"), SIMULATOR_REFUSED)
def test_a_bad_option_of_the_simulator_is_named_with_its_value(option, value, capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_faults([option, value], "simulator")
    assert leaving.value.code == 2
    wrong = capsys.readouterr().err.splitlines()[-1]
    assert option in wrong
    assert repr(value) in wrong


def test_the_gateway_leaves_with_one_clear_line_and_no_traceback():
    assert "'65536'" in complaint("--port", "65536")
    assert "'nan'" in complaint("--timeout", "nan")
    assert "'2'" in complaint("--port", "0", "--", "--never", "2")


def test_shares_that_make_one_together_are_taken():
    for shares in ((0.1, 0.2, 0.3, 0.4), (0.7, 0.1, 0.1, 0.1), (0.2, 0.4, 0.3, 0.1), (1, 0, 0, 0)):
        names = ("--never", "--twice", "--late", "--error")
        words = [word for name, each in zip(names, shares, strict=True) for word in (name, each)]
        faults, _ = parse_faults([str(word) for word in words], "simulator")
        assert (faults.never, faults.twice, faults.late, faults.error) == shares


def test_shares_that_are_too_much_together_are_named():
    wrong = complaint("--port", "0", "--", "--never", "0.6", "--error", "0.6")
    assert "--never" in wrong
    assert "--error" in wrong


def test_an_unknown_option_is_named():
    assert "--colour" in complaint("--colour", "blue")
    assert "--colour" in complaint("--port", "0", "--", "--colour", "blue")


def test_the_address_of_the_simulator_is_the_gateways_affair():
    assert "--port" in complaint("--port", "0", "--", "--port", "9000")
    assert "--host" in complaint("--port", "0", "--", "--host", "127.0.0.1")


def test_an_option_is_not_guessed_from_its_beginning():
    assert "--max-pend" in complaint("--max-pend", "7")
    assert "--nev" in complaint("--port", "0", "--", "--nev", "1")


def test_options_of_the_simulator_need_the_simulator():
    assert "--upstream" in complaint("--upstream", "http://upstream.example", "--", "--never", "1")


def test_keys_that_are_too_short_are_refused_and_not_shown():
    wrong = complaint(GATEWAY_KEYS=f"{KEY},too-short")
    assert "GATEWAY_KEYS" in wrong
    assert "too short: number 2 of 2" in wrong
    assert "too-short" not in wrong
    assert "too short: number 1, 3 of 3" in complaint(GATEWAY_KEYS=f"x,{KEY},")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("foo", "'foo'"),
        ("localhost:6379", "'localhost:6379'"),
        ("memory:", "'memory:'"),
        ("Memory:", "'Memory:'"),
        ("http://us:canary@broker.example/x", "'***@broker.example/x'"),
        ("http://us:c@n/ary?canary@broker.example", "'***@broker.example'"),
        ("http://broker.example?password=canary", "'http://broker.example?***'"),
    ],
)
def test_what_is_no_broker_is_shown_without_its_password(value, shown, capsys):
    with pytest.raises(SystemExit):
        parse_options(["--broker", value])
    wrong = capsys.readouterr().err.splitlines()[-1]
    assert wrong.endswith(f"not {shown}")
    assert "canary" not in wrong
    offered = wrong.partition("one of ")[2].partition(",")[0].split()
    assert offered == [f"{scheme}:" for scheme in SCHEMES if scheme != "memory"]


@pytest.mark.parametrize("scheme", ["nats", "redis"])
def test_a_broker_that_is_not_there_is_told_in_words(scheme):
    done = run_to_end(
        "--port", "0", "--broker", f"{scheme}://us:canary@127.0.0.1:1", GATEWAY_KEYS=KEY
    )
    assert done.returncode == 1
    wrong = done.stderr.splitlines()[-1]
    assert "127.0.0.1:1: nobody listens there (ConnectionRefusedError)" in wrong
    assert "canary" not in done.stdout + done.stderr


@pytest.mark.parametrize("module", ["examples.gateway", "examples.gateway.upstream"])
def test_a_port_in_use_is_told_in_one_line(module):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_to_end("--port", str(port), module=module)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert str(port) in done.stderr
    assert done.stderr.endswith("in use; choose another with --port\n")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "a" * 70, "256.0.0.1", "8.8.8.8"])
def test_a_host_that_is_not_here_is_told_in_one_line(host):
    done = run_to_end("--port", "0", "--host", host)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    wrong = done.stderr.splitlines()[-1]
    assert host in wrong
    assert wrong.endswith("; choose another with --host")


async def test_what_it_prints_to_try_works_as_printed(own):
    client = own("--", "--delay", "0.01")
    assert (await client.get("/metrics")).status == 200
    assert f"  curl {client.gateway.url}/metrics" in client.gateway.output
    (top,) = (line.strip() for line in client.gateway.output if " -m correlator top " in line)
    done = await asyncio.to_thread(
        subprocess.run,
        [*shlex.split(top), "--once"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "correlator gateway" in done.stdout


def test_the_interpreter_is_printed_as_a_shell_here_calls_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for runs, printed in (
        (tmp_path / ".venv" / "bin" / "python", ".venv/bin/python"),
        ("/opt/some where/python3", "'/opt/some where/python3'"),
    ):
        monkeypatch.setattr(sys, "executable", str(runs))
        assert this_python() == printed


def test_help_names_every_option():
    done = run_to_end("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for option in {option for option, _ in REFUSED} | {"--host", "GATEWAY_KEYS"}:
        assert option in done.stdout


async def test_it_listens_on_ipv6_too(own):
    client = own("--host", "::1", "--", "--delay", "0.01")
    assert client.gateway.url.startswith("http://[::1]:")
    assert (await client.job({"n": 6})).json == {"result": {"n": 6}}


async def test_a_gateway_that_listens_everywhere_is_called_back_on_this_machine(own):
    client = own("--host", "0.0.0.0", "--", "--delay", "0.01")  # noqa: S104  # that is what is tested
    assert (await client.job({"n": 0})).json == {"result": {"n": 0}}


async def test_the_upstream_calls_back_at_the_public_url(own, upstream):
    client = own(
        "--upstream", upstream.url, "--timeout", "0.3", "--public-url", "https://gw.example/base"
    )
    assert (await client.job({})).is_problem(504)
    assert (await upstream.job_taken()).startswith("https://gw.example/base/callbacks/v1.")


async def test_tokens_are_signed_with_the_newest_key_and_old_ones_still_count(own, upstream):
    old = "an old key of many bytes"
    client = own("--upstream", upstream.url, GATEWAY_KEYS=f"{KEY},{old}")
    assert (await client.job({}, Prefer="respond-async")).status == 202
    url, token = (await upstream.job_taken()).rsplit("/", 1)
    verified = CallbackTokens([KEY]).verify(token)
    assert verified is not None
    assert CallbackTokens([old]).verify(token) is None
    expired = CallbackTokens([KEY], clock=lambda: time.time() - 100).issue(verified.request_id, 1)
    assert await upstream.call_back(f"{url}/{expired}") == 404
    stranger = CallbackTokens([KEY]).issue("nobody", 60)
    assert await upstream.call_back(f"{url}/{stranger}") == 404
    assert (await client.stats())["unknown"] == 1
    older = CallbackTokens([old]).issue(verified.request_id, 60)
    assert await upstream.call_back(f"{url}/{older}") == 204


async def test_a_password_in_a_url_is_neither_printed_nor_logged(own):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    client = own(
        "--log-level",
        "debug",
        "--upstream",
        f"http://user:canary@127.0.0.1:{port}/jobs",
        GATEWAY_KEYS="canary-in-a-key-of-bytes",
    )
    assert (await client.job({})).is_problem(502)
    assert "canary" not in "\n".join(client.gateway.output + client.gateway.errors)


def test_the_tests_do_not_depend_on_keys_in_the_environment():
    assert "GATEWAY_KEYS" not in os.environ
