"""The command line: ``python -m correlator top URL``."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn
from urllib.parse import urlsplit

from .checks import TOKEN

__all__ = ["main"]

_VARIABLE = "CORRELATOR_AUTHORIZATION"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status: 0, 1 if it failed, 2 without the extra it needs.

    Raises:
        SystemExit: 2 if it was not understood; 0 if all it was asked for is how it works.
    """
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        # Their names alone: there may be a secret in what follows.
        names = (re.sub(r"(?s)(--[a-z-]+|-\w|).*", r"\1", each, count=1) for each in unknown)
        parser.error(f"unrecognized arguments: {' '.join(name or '…' for name in names)}")
    headers = _headers(parser, options)
    if sys.stdout is None:  # it was closed before we began
        print("correlator top: there is no output to write to", file=sys.stderr)
        return 1
    try:
        from .top import Failure, run  # noqa: PLC0415  # it needs an extra that may be missing
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("correlator"):
            raise
        print("correlator top needs the extra 'cli', as in aiocorrelator[cli]", file=sys.stderr)
        return 2
    try:
        run(
            options.url,
            headers=headers,
            once=options.once,
            as_json=options.json,
            timeout=options.timeout,
        )
    except Failure as failure:
        print(f"correlator top: {failure}", file=sys.stderr)
        return 1
    except OSError as error:
        # Or what could not be written is written again at the end: "Note on SIGPIPE" in
        # https://docs.python.org/3/library/signal.html.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # whoever read has had enough
            return 0
        print(f"correlator top: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in a line, and quotes no password that is in a URL."""

    def error(self, message: str) -> NoReturn:
        # argparse quotes what it does not understand, as an option before the command.
        message = re.sub(r"(?s)invalid choice.*", "the only one there is is top", message)
        message = re.sub(r"(?s)ignored explicit argument.*", "it takes no value", message)
        self.exit(2, f"{self.prog}: {re.sub(r'//.*@', '//…@', message)}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="correlator", description="What a correlator's inspector shows, in a terminal."
    )
    try:
        installed = version("aiocorrelator")
    except PackageNotFoundError:
        installed = "of a checkout"
    parser.add_argument("--version", action="version", version=f"correlator {installed}")
    commands = parser.add_subparsers(required=True, metavar="command")
    top = commands.add_parser(
        "top",
        help="show what is pending, live",
        description="Show what is pending, live, as the inspector at a URL tells it. Ctrl-C ends.",
        allow_abbrev=False,  # what is ambiguous would be quoted, with its value
    )
    top.add_argument("url", type=_url, help="where it is: http://127.0.0.1:8080/inspector")
    top.add_argument("--once", action="store_true", help="show it once, and end")
    top.add_argument("--json", action="store_true", help="print snapshots as JSON, one a line")
    top.add_argument(
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="'NAME: VALUE'",
        help="send this along; may be repeated. What is in the variable CORRELATOR_AUTHORIZATION "
        "goes as Authorization, unless there is one here or in the URL, and is in no list of "
        "processes",
    )
    top.add_argument(
        "--timeout",
        type=_seconds,
        default=5.0,
        help="seconds until an attempt, or a silence, counts as failed (5)",
    )
    return parser


def _headers(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[tuple[str, str]]:
    """Return what is sent along: the variable counts where the command line says nothing."""
    headers: list[tuple[str, str]] = options.header
    is_in_url = "@" in urlsplit(options.url).netloc
    if any(name.lower() == "authorization" for name, _ in headers):
        if is_in_url:
            parser.error("argument --header: there are credentials in the URL already")
        return headers
    secret = "" if is_in_url else os.environ.get(_VARIABLE, "")
    if not secret.isprintable():
        parser.error(f"the variable {_VARIABLE} has a line break or a control character in it")
    return [*headers, ("Authorization", secret)] if secret else headers


def _url(text: str) -> str:
    # What is raised never has the text: there may be a password in it.
    try:
        url = urlsplit(text)
        if url.scheme not in ("http", "https"):
            raise argparse.ArgumentTypeError("it must begin with http:// or https://")
        if not url.hostname:
            raise argparse.ArgumentTypeError("it must name a host")
        if url.port == 0:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            "its host is none, or its port is not one of 1 to 65535"
        ) from None
    if "?" in text or "#" in text:
        raise argparse.ArgumentTypeError(
            "it has a query or a fragment, which cannot be used: give where the inspector is"
        )
    if " " in text or not text.isprintable():
        raise argparse.ArgumentTypeError("it has a space or a control character in it")
    return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = (part.strip(" \t") for part in text.partition(":"))
    # Not the text: there may be a secret in it.
    if not colon or not TOKEN.fullmatch(name):
        raise argparse.ArgumentTypeError("it must be 'NAME: VALUE', with a NAME that HTTP allows")
    if not value.isprintable():
        raise argparse.ArgumentTypeError(
            "the VALUE of 'NAME: VALUE' has a line break or a control character in it"
        )
    return name, value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"it must be above 0 and at most 3600, not {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
