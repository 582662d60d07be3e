"""A simulated upstream, with faults to order: it takes a job with a 202 and calls back later."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from yarl import URL

from correlator import is_valid_request_id

from .logs import configure_logging
from .options import host, http_url, seconds, whole
from .serving import address_of, listen, no_listener, serve

__all__ = ["Faults", "Simulator", "parse_faults"]


def share(text: str) -> float:
    """Parse a share, from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to 1, not {text!r}")
    return value


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, as shares of all jobs, and how long things take, in seconds."""

    never: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    error: float = 0.0
    delay: float = 0.05
    distribution: str = "exponential"
    late_by: float = 10.0
    seed: int = 0


def parse_faults(
    arguments: list[str], prog: str, *, by_itself: bool = False
) -> tuple[Faults, argparse.Namespace]:
    """Parse the simulator's options. Leaves with status 2 and one line where they are no good.

    Run by itself, it also takes the address to listen on.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    default = Faults()
    add("--never", type=share, default=default.never, help="share never answered")
    add("--twice", type=share, default=default.twice, help="share answered twice")
    add("--late", type=share, default=default.late, help="share answered late")
    add("--error", type=share, default=default.error, help="share refused with a 500")
    add("--delay", type=seconds, default=default.delay, metavar="S", help="mean time to answer")
    add(
        "--distribution",
        choices=("fixed", "uniform", "exponential"),
        default=default.distribution,
        help="of the delay",
    )
    add("--late-by", type=seconds, default=default.late_by, metavar="S", help="delay of the late")
    add("--seed", type=whole(0, 2**63), default=default.seed, help="of the random draws")
    if by_itself:
        add("--host", type=host, default="127.0.0.1", help="address to listen on")
        add("--port", type=whole(0, 65535), default=8081, help="port to listen on")
    given = parser.parse_args(arguments)
    faults = Faults(**{field: getattr(given, field) for field in Faults.__dataclass_fields__})
    if faults.never + faults.twice + faults.late + faults.error > 1 + 1e-9:
        parser.error("--never, --twice, --late and --error must not exceed 1 together")
    return faults, given


class Simulator:
    """Takes jobs by POST and calls back at the URL in ``Callback-URL``."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._random = random.Random(faults.seed)
        self._callbacks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("upstream")

    def make_app(self) -> web.Application:
        """Return the application. It takes jobs at every path."""
        app = web.Application()
        app.cleanup_ctx.append(self._run)
        app.router.add_post("/{path:.*}", self._take)
        return app

    async def _run(self, _app: web.Application) -> AsyncIterator[None]:
        async with ClientSession(
            connector=TCPConnector(limit=0), timeout=ClientTimeout(total=10)
        ) as self._session:
            yield
            for task in self._callbacks:
                task.cancel()
            if self._callbacks:
                await asyncio.wait(self._callbacks)

    async def _take(self, request: web.Request) -> web.Response:
        try:
            callback = http_url(request.headers.get("Callback-URL", ""))
            job = await request.json()
        except (argparse.ArgumentTypeError, ValueError):
            return web.Response(status=400, text="a job is JSON, with a Callback-URL header\n")
        request_id = request.headers.get("X-Request-ID")
        if not is_valid_request_id(request_id):
            request_id = None
        fault, delay = self._draw()
        self._log.info("job_taken", request_id=request_id, fault=fault)
        if fault == "error":
            return web.Response(status=500, text="simulated failure\n")
        if fault != "never":
            times = 2 if fault == "twice" else 1
            task = asyncio.create_task(self._call_back(callback, job, request_id, delay, times))
            self._callbacks.add(task)
            task.add_done_callback(self._callbacks.discard)
        return web.Response(status=202)

    def _draw(self) -> tuple[str | None, float]:
        """Draw what goes wrong with a job, and after how many seconds it is answered."""
        faults = self._faults
        point = self._random.random()
        fault = None
        for name in ("never", "twice", "late", "error"):
            point -= getattr(faults, name)
            if point < 0:
                fault = name
                break
        delay = {
            "fixed": faults.delay,
            "uniform": self._random.uniform(0, 2 * faults.delay),
            "exponential": self._random.expovariate(1 / faults.delay),
        }[faults.distribution]
        return fault, faults.late_by if fault == "late" else delay

    async def _call_back(
        self, callback: URL, job: object, request_id: str | None, delay: float, times: int
    ) -> None:
        await asyncio.sleep(delay)
        headers = {} if request_id is None else {"X-Request-ID": request_id}
        for _ in range(times):
            try:
                async with self._session.post(
                    callback, json={"result": job}, headers=headers
                ) as response:
                    status = response.status
            except (ClientError, TimeoutError) as error:
                self._log.warning(
                    "callback_failed", request_id=request_id, error=type(error).__name__
                )
            else:
                self._log.info("callback_sent", request_id=request_id, status=status)


async def main() -> None:
    """Run the simulator by itself until it is interrupted."""
    faults, given = parse_faults(
        sys.argv[1:], "python -m examples.gateway.upstream", by_itself=True
    )
    configure_logging("info")
    try:
        listener = listen(given.host, given.port)
    except OSError as error:
        sys.exit(no_listener(given.host, given.port, error))
    runner = await serve(Simulator(faults).make_app(), listener)
    print(json.dumps({"upstream": address_of(listener), "faults": str(faults)}), flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
