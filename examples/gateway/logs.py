"""Logging for the gateway: one JSON line for each thing that happens, to standard error."""

from __future__ import annotations

import asyncio
import logging
import sys
import time

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

__all__ = ["access_log", "configure_logging"]


def configure_logging(level: str) -> None:
    """Configure structlog and the standard library's logging. An application does this once."""
    number = getattr(logging, level.upper())
    first: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]
    structlog.configure(
        processors=first + last,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # What comes by the standard library (a library's warnings) is a line of JSON too.
    handler = logging.StreamHandler(sys.stderr)
    meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=first, processors=[meta, *last])
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler])
    # What a hostile client sends is answered with a 4xx, which the access log shows; aiohttp's
    # own account of it, a traceback for each, would let him fill the disk.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


@web.middleware
async def access_log(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log each request with its id, its route, its status and its time.

    The route is logged as it was declared: the path of a callback or of a job holds a secret.
    """
    started = time.perf_counter()
    status = 500
    try:
        response = await handler(request)
        status = response.status
        return response
    except web.HTTPException as error:
        status = error.status
        raise
    except asyncio.CancelledError:
        status = 499  # the client has left; what nginx writes for it
        raise
    finally:
        resource = request.match_info.route.resource
        structlog.get_logger("gateway").info(
            "request",
            method=request.method if request.method.isalpha() else "?",
            route=resource.canonical if resource is not None else "none",
            status=status,
            ms=round((time.perf_counter() - started) * 1000, 2),
        )
