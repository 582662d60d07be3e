"""The gateway's routes."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, NoReturn

import structlog
from aiohttp import (
    ClientPayloadError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
    web,
)
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from yarl import URL

from correlator import CorrelationError, Correlator, remaining_time
from correlator.aiohttp import (
    BodyTooLarge,
    CallbackClient,
    CallbackReply,
    CallbackTokens,
    callback_route,
    error_response,
    get_correlator,
    inspector,
    problem_response,
    propagation_middleware,
    read_bounded,
    setup,
)
from correlator.transports import MemoryReplyStore, Message, ReplyStore, Transport, connect
from correlator.transports.routing import CallbackRouter, callback_reply

from .jobs import RETRY_AFTER, Jobs, Result
from .logs import access_log
from .options import Options
from .prefer import parse_prefer

__all__ = ["JOBS", "READINESS", "Readiness", "make_app"]

# What aiohttp decodes; br and zstd only with packages of their own, without which it answers 400.
_CODINGS = frozenset(["", "identity", "gzip", "deflate", "br", "zstd"])
_STORED_RESULTS = 64 * 1024 * 1024  # bytes of results kept for polling, all together


class Readiness:
    """Whether the gateway takes new jobs."""

    def __init__(self) -> None:
        self.ready = True


OPTIONS: web.AppKey[Options] = web.AppKey("options", Options)
UPSTREAM: web.AppKey[URL] = web.AppKey("upstream", URL)
CLIENT: web.AppKey[CallbackClient] = web.AppKey("client", CallbackClient)
JOBS: web.AppKey[Jobs] = web.AppKey("jobs", Jobs)
TRANSPORT: web.AppKey[Transport[CallbackReply]] = web.AppKey("transport", Transport)
READINESS: web.AppKey[Readiness] = web.AppKey("readiness", Readiness)
METRICS: web.AppKey[CollectorRegistry] = web.AppKey("metrics", CollectorRegistry)


def make_app(
    options: Options,
    correlator: Correlator[str, CallbackReply],
    *,
    public_url: URL,
    upstream: URL,
    keys: Sequence[bytes],
    store: ReplyStore | None = None,
    metrics: CollectorRegistry | None = None,
) -> web.Application:
    """Return the application: it sends jobs to `upstream`, which calls back at `public_url`.

    With a broker among its options there may be other replicas, which share `keys` and `store`.
    `metrics` is what an observer of the correlator counts in.
    """
    tokens = CallbackTokens(keys)
    if store is None:
        store = MemoryReplyStore(
            max_replies=options.max_pending, max_bytes=max(_STORED_RESULTS, options.max_body)
        )
    transport: Transport[CallbackReply] | None = None
    router: CallbackRouter | None = None
    if options.broker is not None:
        transport = connect(options.broker, correlator, decode=callback_reply, replica="gateway")
        router = CallbackRouter(transport, store=store, ttl=options.job_ttl)
    owner = None if router is None else router.owner

    async def link(_app: web.Application) -> AsyncIterator[None]:
        assert transport is not None, "there is a broker"
        async with transport:
            yield

    async def start(app: web.Application) -> AsyncIterator[None]:
        app[JOBS] = Jobs(
            keys, timeout=options.timeout, ttl=options.job_ttl, store=store, owner=owner
        )
        # No limits of aiohttp's own: how many requests there may be, and how long they may take,
        # is the correlator's to say. And no cookies, which would tie one client's job to another's.
        async with ClientSession(
            connector=TCPConnector(limit=0),
            cookie_jar=DummyCookieJar(),
            middlewares=(propagation_middleware(),),
            timeout=ClientTimeout(total=None),
        ) as session:
            app[CLIENT] = CallbackClient(
                session,
                correlator,
                callback_url=public_url / "callbacks",
                tokens=tokens,
                max_body=options.max_body,
                owner=owner,
            )
            yield

    app = web.Application(middlewares=[access_log, problems])
    setup(app, correlator, drain_timeout=options.drain)
    if transport is not None:
        app[TRANSPORT] = transport
        app.cleanup_ctx.append(link)
    app[OPTIONS] = options
    app[UPSTREAM] = upstream
    app[READINESS] = Readiness()
    app.cleanup_ctx.append(start)
    app.add_routes(
        [
            web.post("/v1/jobs", post_job),
            web.get("/v1/jobs/{id}", get_job),
            callback_route(correlator, tokens=tokens, max_body=options.max_body, router=router),
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/stats", stats),
        ]
    )
    if metrics is not None:
        app[METRICS] = metrics
        app.router.add_get("/metrics", show_metrics)
    app.add_subapp("/inspector", inspector(correlator, replicas=_others(options.broker)))
    return app


def _others(broker: str | None) -> Callable[[Correlator[str, Message]], Transport[Message]] | None:
    """Return what links the inspector to those of other replicas, where there are any."""
    return None if broker is None else partial(connect, broker, replica="inspector")


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with a problem document: aiohttp's own, ours, and those of handlers."""
    try:
        return await handler(request)
    except CorrelationError as error:
        return error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return problem_response(error.status, _detail(error.status), headers=headers)
    except Exception:
        structlog.get_logger("gateway").exception("handler_crashed")
        return problem_response(500, "The gateway failed. This is a bug.")


def _detail(status: int) -> str:
    details = {
        404: "There is nothing here. Jobs are POSTed to /v1/jobs.",
        405: "That method is not for this resource.",
    }
    return details.get(status, HTTPStatus(status).description or HTTPStatus(status).phrase)


async def post_job(request: web.Request) -> web.StreamResponse:
    """Forward a job, and answer with its result, or with where to ask for it."""
    options = request.app[OPTIONS]
    preferences = parse_prefer(request.headers.getall("Prefer", ()))
    try:
        body = await _read_job(request, options)
    except _BadJobError as error:
        problem = problem_response(error.status, str(error))
        if error.is_unread:
            problem.force_close()  # aiohttp closes the connection, and the client should know
        return problem

    async def work(request_id: str | None = None) -> CallbackReply:
        return await request.app[CLIENT].request(
            "POST",
            request.app[UPSTREAM],
            request_id=request_id,
            data=io.BytesIO(body),
            headers={"Content-Type": "application/json"},
            timeout=options.timeout,
            label=request.app[UPSTREAM].authority,
        )

    if preferences.patience is None:
        return _result_response(await work())
    job = request.app[JOBS].start(work)
    # The client's own deadline is for the answer, which may be a 202; the job has its own.
    deadline = remaining_time()
    patience = preferences.patience
    result = await job.wait(patience if deadline is None else min(patience, deadline))
    if result is None:
        response = _pending_response(job.id)
    else:
        request.app[JOBS].told(job.request_id)
        response = _result_response(result)
    response.headers["Preference-Applied"] = preferences.applied
    return response


async def get_job(request: web.Request) -> web.StreamResponse:
    """Answer with the result of a job, or that it is under way, or that there is none."""
    job_id = request.match_info["id"]
    try:
        found = await request.app[JOBS].find(job_id)
    except ConnectionError:
        return problem_response(503, "The results cannot be looked up now. Try again.")
    if found is None:
        return problem_response(404, "There is no such job, or its time is up.")
    return _pending_response(job_id) if isinstance(found, str) else found


async def healthz(_request: web.Request) -> web.StreamResponse:
    """Answer that the process is alive."""
    return web.json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.StreamResponse:
    """Answer whether new jobs are taken."""
    if request.app[READINESS].ready:
        return web.json_response({"status": "ready"})
    return problem_response(503, "The gateway is shutting down.")


async def stats(request: web.Request) -> web.StreamResponse:
    """Answer with the correlator's counters, and the transport's where there is one."""
    counters: dict[str, Any] = dataclasses.asdict(get_correlator(request).stats())
    if TRANSPORT in request.app:
        counters["transport"] = dataclasses.asdict(request.app[TRANSPORT].stats())
    return web.json_response(counters)


async def show_metrics(request: web.Request) -> web.StreamResponse:
    """Answer with the metrics, as Prometheus reads them."""
    return web.Response(
        body=generate_latest(request.app[METRICS]), headers={"Content-Type": CONTENT_TYPE_LATEST}
    )


class _BadJobError(Exception):
    """A job that is not one: the status, what to tell the client, and if its body is broken."""

    def __init__(self, status: int, detail: str, *, is_unread: bool = False) -> None:
        super().__init__(detail)
        self.status = status
        self.is_unread = is_unread


async def _read_job(request: web.Request, options: Options) -> bytes:
    """Return the bytes of a job, which are forwarded as they came. Raises `_BadJobError`."""
    if request.content_type != "application/json":
        raise _BadJobError(415, "A job is JSON: send it with Content-Type: application/json.")
    if not _is_decoded(request):
        raise _BadJobError(415, "The job's Content-Encoding is none that is known here.")
    too_large = f"The job is too large: more than {options.max_body} bytes."
    if request.content_length is not None and request.content_length > options.max_body:
        raise _BadJobError(413, too_large)
    try:
        body = await read_bounded(request.content, options.max_body, options.timeout)
    except BodyTooLarge:
        raise _BadJobError(413, too_large) from None
    except TimeoutError:
        raise _BadJobError(408, "The body did not come in time.") from None
    except (web.RequestPayloadError, ClientPayloadError):
        raise _BadJobError(400, "The body could not be read.", is_unread=True) from None
    if not isinstance(_parsed(body), dict):
        raise _BadJobError(422, "A job is a JSON object.")
    return body


def _parsed(body: bytes) -> object:
    """Return what a body is as JSON. Raises `_BadJobError`, which says what is wrong with it."""
    if not body.strip():
        raise _BadJobError(400, "The body is empty.")
    try:
        return json.loads(body.decode(), parse_constant=_no_number, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise _BadJobError(400, f"The body is not UTF-8 at byte {error.start}.") from None
    except json.JSONDecodeError as error:
        raise _BadJobError(400, f"The body is not JSON: {error}.") from None
    except RecursionError:
        raise _BadJobError(400, "The body is nested too deep.") from None
    except ValueError:  # of `int`, which takes so many digits and no more
        raise _BadJobError(400, "A number in the body is too large.") from None


def _is_decoded(request: web.Request) -> bool:
    """Tell whether aiohttp decodes the body of a request, or it has no coding.

    A body whose ``Content-Encoding`` it does not know comes as it was sent: that is to be answered
    with a 415 (RFC 9110, section 15.5.16), as its bytes mean something else than they seem to.
    """
    codings = request.headers.getall("Content-Encoding", ())
    return not codings or (len(codings) == 1 and codings[0].strip().lower() in _CODINGS)


def _no_number(name: str) -> NoReturn:
    # RFC 8259, section 6
    raise _BadJobError(400, f"The body has the number {name}, which JSON has not.")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _BadJobError(400, "A number in the body is too large.")
    return number


def _result_response(result: Result) -> web.Response:
    if isinstance(result, CorrelationError):
        return error_response(result)
    return web.Response(
        body=result.body,
        headers={
            "Content-Type": result.headers.get("Content-Type", "application/octet-stream"),
            "X-Content-Type-Options": "nosniff",
        },
    )


def _pending_response(job_id: str) -> web.Response:
    return web.json_response(
        {"id": job_id, "status": "pending"},
        status=202,
        headers={"Location": f"/v1/jobs/{job_id}", "Retry-After": str(RETRY_AFTER)},
    )
