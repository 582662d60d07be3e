"""The command line: what can be set, what is out of range, and what it says then."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from dataclasses import dataclass

from yarl import URL

from correlator import Correlator
from correlator.transports import SCHEMES, connect

__all__ = ["Options", "parse_options"]

_BROKERS = tuple(f"{scheme}:" for scheme in SCHEMES if scheme != "memory")  # other processes' too


@dataclass(frozen=True, slots=True)
class Options:
    """How to run the gateway. Times are in seconds, sizes in bytes."""

    host: str
    port: int
    timeout: float
    max_pending: int
    max_body: int
    job_ttl: float
    drain: float
    public_url: URL | None
    upstream: URL | None
    broker: str | None
    keys: tuple[str, ...]
    log_level: str
    simulator: tuple[str, ...] = ()


def seconds(text: str) -> float:
    """Parse a number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1e6 seconds, not {text!r}")
    return value


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        value = int(text) if text.isascii() and text.isdecimal() else least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {least} to {most}, not {text!r}"
            )
        return value

    return parse


def host(text: str) -> str:
    """Parse an address to listen on. Nothing would be every address, which has to be said."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"must not be empty, not {text!r}; 0.0.0.0 is every one")
    return text


def http_url(text: str) -> URL:
    """Parse an absolute http or https URL."""
    try:
        url = URL(text)
        good = url.scheme in ("http", "https") and bool(url.host)
        good = good and not any(each <= " " or each == "\x7f" for each in text)
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f"must be an absolute http(s) URL, not {text!r}")
    return url


def base_url(text: str) -> URL:
    """Parse a URL that paths are added to."""
    url = http_url(text)
    if url.query_string or url.fragment:
        raise argparse.ArgumentTypeError(f"must have no query and no fragment, not {text!r}")
    return url


def broker_url(text: str) -> str:
    """Parse the URL of a broker. It may hold a password, so a bad one is not shown with that."""
    if not text.lower().startswith(_BROKERS):
        _, at, shown = text.rpartition("@")
        shown, query, _ = shown.partition("?")
        shown = ("***@" if at else "") + shown + ("?***" if query else "")
        raise argparse.ArgumentTypeError(
            f"must be the URL of a broker that other processes reach, and begin with one of "
            f"{' '.join(_BROKERS)}, not {shown!r:.100}"
        )
    try:
        connect(text, Correlator())  # which looks at it, and does not yet connect
    except (ValueError, ImportError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def parse_options(arguments: list[str] | None = None) -> Options:
    """Parse the command line. Leaves with status 2 and one line where it is no good."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.gateway",
        description="A synchronous front for an asynchronous backend: POST a job, get its result.",
        epilog="Without --upstream it starts a simulated one on a loopback port, with the options "
        "after `--` (see python -m examples.gateway.upstream --help). Callback tokens are signed "
        "with the keys in GATEWAY_KEYS (comma-separated, newest first), else with a fresh one.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", type=host, default="127.0.0.1", help="address to listen on")
    add("--port", type=whole(0, 65535), default=8080, help="port to listen on; 0 takes a free one")
    add("--timeout", type=seconds, default=5.0, metavar="S", help="seconds a job may take")
    add(
        "--max-pending",
        type=whole(1, 10_000_000),
        default=10_000,
        metavar="N",
        help="jobs that may be under way at once; more get 503",
    )
    add(
        "--max-body",
        type=whole(1, 1 << 30),
        default=1 << 20,
        metavar="BYTES",
        help="size of a job or a result at most, after decompression",
    )
    add(
        "--job-ttl",
        type=seconds,
        default=300.0,
        metavar="S",
        help="seconds a result is kept for polling (Prefer: respond-async)",
    )
    add(
        "--drain",
        type=seconds,
        default=10.0,
        metavar="S",
        help="seconds that jobs under way get to finish after SIGTERM",
    )
    add(
        "--public-url",
        type=base_url,
        metavar="URL",
        default=argparse.SUPPRESS,
        help="where the upstream reaches this gateway (default: the address it listens on)",
    )
    add("--upstream", type=http_url, metavar="URL", help="where jobs are sent")
    add(
        "--broker",
        type=broker_url,
        metavar="URL",
        help="links replicas of this gateway: nats:, redis:, valkey: or amqp:. They must share "
        "GATEWAY_KEYS",
    )
    add(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="what is logged, to standard error",
    )
    add("simulator", nargs="*", metavar="-- SIMULATOR OPTION", help=argparse.SUPPRESS)
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        hint = "; options of the simulated upstream go after --" if not parsed.upstream else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    given = {"public_url": None, **vars(parsed)}
    secrets = os.environ.get("GATEWAY_KEYS")
    keys = () if secrets is None else tuple(key.strip() for key in secrets.split(","))
    short = [str(at) for at, key in enumerate(keys, 1) if len(os.fsencode(key)) < 16]
    if short:
        parser.error(
            f"GATEWAY_KEYS must hold keys of at least 16 bytes each, separated by commas; "
            f"too short: number {', '.join(short)} of {len(keys)}"
        )
    if given["broker"] and not keys:
        parser.error("--broker needs GATEWAY_KEYS: replicas must share the keys of callbacks")
    if given["simulator"] and given["upstream"]:
        parser.error("options of the simulator make no sense with --upstream")
    given["simulator"] = tuple(given["simulator"])
    return Options(keys=keys, **given)
