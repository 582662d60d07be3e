"""For aiohttp's server: `setup`, `get_correlator`, and the correlation middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from structlog.contextvars import bind_contextvars, reset_contextvars

from ..checks import check_callable, check_instance, check_seconds
from ..context import request_scope
from ..core import Correlator
from ..errors import CorrelationError, CorrelatorClosed
from ..headers import (
    DEADLINE_HEADER,
    REQUEST_ID_HEADER,
    check_headers,
    id_from,
    timeout_from,
)
from ..ids import new_request_id
from .problems import error_response

__all__ = ["CORRELATOR", "correlation_middleware", "get_correlator", "setup"]

CORRELATOR: web.AppKey[Correlator[Any, Any]] = web.AppKey("correlator", Correlator)

# Where a request keeps its id, for responses that are made outside of the middleware.
_REQUEST_ID: web.RequestKey[str] = web.RequestKey("correlator_request_id", str)


def setup(
    app: web.Application,
    correlator: Correlator[Any, Any],
    *,
    header: str = REQUEST_ID_HEADER,
    deadline_header: str | None = DEADLINE_HEADER,
    new_id: Callable[[], str] = new_request_id,
    drain_timeout: float = 10.0,
) -> Correlator[Any, Any]:
    """Give an application a correlator: started with it, drained and closed with it.

    Adds `correlation_middleware` as the outermost middleware, and puts the request's id on every
    response, also on errors and streams.

    Args:
        app: the application, not started yet.
        correlator: not entered yet: the application does that.
        header: where the request id stands, in requests and in responses.
        deadline_header: where callers say how many milliseconds they will wait; None to not look.
        new_id: makes the id of a request that brings none, or none that is valid.
        drain_timeout: seconds that requests under way get when the application shuts down.

    Returns:
        The correlator.

    Raises:
        TypeError, ValueError: an argument is no good, or the application has a correlator.
        RuntimeError: the application has started.
    """
    check_instance("app", app, web.Application)
    check_instance("correlator", correlator, Correlator)
    if app.frozen:
        raise RuntimeError("app has started already: call setup() before it starts")
    if CORRELATOR in app:
        raise ValueError(f"app has a correlator already: {app[CORRELATOR]!r}")
    check_seconds("drain_timeout", drain_timeout)
    middleware = _make_middleware(header, deadline_header, new_id, sets_header=False)

    async def on_prepare(request: web.Request, response: web.StreamResponse) -> None:
        # The middleware has seen to the id, unless aiohttp answers before any middleware, as it
        # does to an expectation that it does not meet.
        try:
            response.headers[header] = _request_id(request, header, new_id)
        except Exception:  # `new_id` is no good: the middleware has said so, and this is its 500
            return

    async def run(_app: web.Application) -> AsyncIterator[None]:
        async with correlator:
            yield

    async def drain(_app: web.Application) -> None:
        with suppress(CorrelatorClosed):  # the application has closed it itself
            await correlator.drain(drain_timeout)
        await correlator.aclose()

    app[CORRELATOR] = correlator
    app.middlewares.insert(0, middleware)
    app.on_response_prepare.append(on_prepare)
    app.cleanup_ctx.append(run)
    app.on_shutdown.append(drain)
    return correlator


def get_correlator(request: web.Request) -> Correlator[Any, Any]:
    """Return the correlator of the request's application, or of one that contains it.

    Raises:
        RuntimeError: there is none: `setup` was not called.
    """
    try:
        return request.config_dict[CORRELATOR]
    except KeyError:
        raise RuntimeError(
            "the application has no correlator: call correlator.aiohttp.setup(app, Correlator()) "
            "before it starts"
        ) from None


def correlation_middleware(
    *,
    header: str = REQUEST_ID_HEADER,
    deadline_header: str | None = DEADLINE_HEADER,
    new_id: Callable[[], str] = new_request_id,
) -> Middleware:
    """Return a server middleware that gives each request an id and a deadline.

    The client's id is taken if it is valid (`is_valid_request_id`), else replaced. It is for logs
    and headers only, never a key that pairs. It is bound as the ambient id, and as ``request_id``
    in structlog's context variables, for as long as the handler runs. The caller's deadline is
    the ambient one: what is below inherits what is left of it. An unhandled `CorrelationError`
    becomes a problem document with the error's status.

    Without `setup` the header is missing from streamed responses, which leave before the handler
    returns, and from the answers aiohttp itself gives to handlers that crash.

    Args:
        header: where the request id stands, in requests and in responses.
        deadline_header: where callers say how many milliseconds they will wait; None to not look.
            What is not a whole number above 0 is ignored.
        new_id: makes the id of a request that brings none, or none that is valid.

    Raises:
        TypeError, ValueError: a header's name is not one.
    """
    return _make_middleware(header, deadline_header, new_id, sets_header=True)


def _make_middleware(
    header: str, deadline_header: str | None, new_id: Callable[[], str], *, sets_header: bool
) -> Middleware:
    """Return it; with `sets_header` it puts the id on responses, as no signal of `setup` does."""
    check_headers(header, deadline_header)
    check_callable("new_id", new_id)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = _request_id(request, header, new_id)
        timeout = None if deadline_header is None else timeout_from(_sole(request, deadline_header))
        with request_scope(request_id, timeout):
            bound = bind_contextvars(request_id=request_id)
            try:
                response = await handler(request)
            except CorrelationError as error:
                if request.writer.output_size > 0:
                    raise  # a response has begun: aiohttp cuts the connection off
                response = error_response(error)
            except web.HTTPException as error:
                if sets_header:
                    error.headers[header] = request_id
                raise
            finally:
                reset_contextvars(**bound)
        if sets_header and not response.prepared:
            response.headers[header] = request_id
        return response

    return middleware


def _request_id(request: web.Request, header: str, new_id: Callable[[], str]) -> str:
    """Return the id of a request, which keeps it: the client's, if it is valid, or a fresh one."""
    # To look for a key that is not there costs an exception, and mostly there is no key at all.
    kept: str | None = request.get(_REQUEST_ID) if len(request) else None
    if kept is not None:
        return kept
    request_id = id_from(_sole(request, header), new_id)
    request[_REQUEST_ID] = request_id
    return request_id


def _sole(request: web.Request, header: str) -> str | None:
    """Return a header's value if the request has it once: of several, none is to be trusted."""
    values = request.headers.getall(header, ())
    return values[0] if len(values) == 1 else None
