"""Runs the gateway: ``python -m examples.gateway --help``."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import signal
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry
from yarl import URL

from correlator import Correlator
from correlator.aiohttp import CallbackReply
from correlator.observers.prometheus import PrometheusObserver
from correlator.observers.structlog import StructlogObserver
from correlator.transports import ReplyStore, reply_store

from .app import JOBS, READINESS, make_app
from .jobs import Jobs
from .logs import configure_logging
from .options import Options, parse_options
from .serving import address_of, listen, no_listener, serve, tune_collector
from .upstream import Faults, Simulator, parse_faults

_TRY = """\
The gateway listens on {url}, its upstream is {upstream}.
Things to try:

  curl -i {url}/v1/jobs -H 'Content-Type: application/json' -d '{{"order": 42}}'
  curl -i {url}/v1/jobs -H 'Content-Type: application/json' -H 'Prefer: respond-async' -d '{{}}'
  curl -i {url}/v1/jobs -H 'Content-Type: application/json' -H 'Prefer: wait=1' -d '{{}}'
  curl -i {url}/v1/jobs -H 'Content-Type: application/json' -H 'X-Request-ID: my-id' -d '{{}}'
  curl {url}/stats
  curl {url}/metrics
  {python} -m correlator top {url}/inspector

In a browser, {url}/inspector shows what is pending, live. Prometheus reads {url}/metrics.

Ctrl-C or SIGTERM drains it: jobs under way finish, new ones get 503. A second one stops at once.
"""


async def run(options: Options, faults: Faults) -> None:
    """Run the gateway until SIGTERM or SIGINT, then drain it."""
    log = structlog.get_logger("gateway")
    loop = asyncio.get_running_loop()
    signalled: asyncio.Queue[str] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled.put_nowait, number.name)

    async with AsyncExitStack() as stack:
        listener = stack.enter_context(listen(options.host, options.port))
        upstream = options.upstream
        if upstream is None:
            simulator = stack.enter_context(listen("127.0.0.1", 0))
            runner = await serve(Simulator(faults).make_app(), simulator)
            stack.push_async_callback(runner.cleanup)
            upstream = URL(address_of(simulator)) / "jobs"
        metrics = CollectorRegistry()
        correlator: Correlator[str, CallbackReply] = Correlator(
            timeout=options.timeout,
            max_pending=options.max_pending,
            observers=[StructlogObserver(), PrometheusObserver(metrics)],
            name="gateway",
            track_origin=True,
        )
        store: ReplyStore | None = None
        if options.broker is not None:
            store = await stack.enter_async_context(reply_store(options.broker))
        app = make_app(
            options,
            correlator,
            public_url=options.public_url or URL(address_of(listener)),
            upstream=upstream,
            keys=[os.fsencode(key) for key in options.keys] or [secrets.token_bytes(32)],
            store=store,
            metrics=metrics,
        )
        runner = await serve(app, listener)
        stack.push_async_callback(runner.cleanup)
        tune_collector()
        shown = upstream.with_user(None).with_query(None)  # what may be a secret stays out
        url = address_of(listener)
        print(_TRY.format(url=url, upstream=shown, python=this_python()), flush=True)

        name = await signalled.get()
        app[READINESS].ready = False
        log.info("draining", signal=name, pending=len(correlator))
        # While it still listens: the callbacks of what is under way come in by the same door.
        draining = asyncio.create_task(drain(correlator, app[JOBS], options.drain))
        again = asyncio.create_task(signalled.get())
        await asyncio.wait([draining, again], return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, again):
            task.cancel()
        log.info("stopping", pending=len(correlator))
        await correlator.aclose()


async def drain(correlator: Correlator[str, CallbackReply], jobs: Jobs, seconds: float) -> None:
    """Wait until what is under way has ended, and who polls has heard how, or the time is up."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await correlator.drain(seconds)
            await jobs.all_told()


def this_python() -> str:
    """Return how a shell in this directory calls the interpreter that runs."""
    python, here = Path(sys.executable), Path.cwd()
    return shlex.quote(str(python.relative_to(here) if python.is_relative_to(here) else python))


def main() -> None:
    """Parse the command line and run."""
    options = parse_options()
    faults, _ = parse_faults(list(options.simulator), "python -m examples.gateway --")
    configure_logging(options.log_level)
    try:
        asyncio.run(run(options, faults))
    except ConnectionError as error:
        sys.exit(f"the broker is not there: {error}")
    except ImportError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(no_listener(options.host, options.port, error))


if __name__ == "__main__":
    main()
