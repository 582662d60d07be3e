"""The command line: ``python -m correlator top URL``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status: 0, 1 if it failed, 2 if it was not understood."""
    options = _parser().parse_args(arguments)
    try:
        from .top import Failure, run  # noqa: PLC0415  # which needs an extra
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("correlator"):
            raise
        print("correlator top needs the extra 'cli', as in aiocorrelator[cli]", file=sys.stderr)
        return 2
    try:
        run(
            options.url,
            headers=dict(options.header),
            once=options.once,
            as_json=options.json,
            timeout=options.timeout,
        )
    except Failure as failure:
        print(f"correlator top: {failure}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
    )
    top.add_argument("url", help="where the inspector is: http://127.0.0.1:8080/inspector")
    top.add_argument("--once", action="store_true", help="show it once, and end")
    top.add_argument("--json", action="store_true", help="print snapshots as JSON, one a line")
    top.add_argument(
        "--header",
        action="append",
        default=_headers_of_the_environment(),
        type=_header,
        metavar="'NAME: VALUE'",
        help="send this along; may be repeated. What is in the variable CORRELATOR_AUTHORIZATION "
        "goes as Authorization, and is in no list of processes",
    )
    top.add_argument(
        "--timeout", type=_seconds, default=5.0, help="seconds until an attempt fails (5)"
    )
    return parser


def _headers_of_the_environment() -> list[tuple[str, str]]:
    secret = os.environ.get("CORRELATOR_AUTHORIZATION")
    return [] if secret is None else [("Authorization", secret)]


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    # Not the text: there may be a secret in it.
    if not colon or not name.strip() or not (name + value).isprintable():
        raise argparse.ArgumentTypeError("it must be 'NAME: VALUE', and is not")
    return name.strip(), value.strip()


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
