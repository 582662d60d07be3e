"""The web hooks: correlation for aiohttp's server and client, and replies by callback."""

from ..tokens import CallbackTokens, VerifiedToken

try:
    from .bodies import BodyTooLarge, read_bounded
    from .callbacks import (
        CallbackClient,
        CallbackReply,
        ReplyRouter,
        callback_middleware,
        callback_route,
    )
    from .client import propagation_middleware
    from .inspecting import inspector
    from .problems import error_response, problem_response
    from .server import correlation_middleware, get_correlator, setup
except ModuleNotFoundError as error:
    if (error.name or "").startswith("correlator"):
        raise
    raise ImportError(
        "correlator.aiohttp needs the extra 'aiohttp', as in aiocorrelator[aiohttp]"
    ) from error

__all__ = [
    "BodyTooLarge",
    "CallbackClient",
    "CallbackReply",
    "CallbackTokens",
    "ReplyRouter",
    "VerifiedToken",
    "callback_middleware",
    "callback_route",
    "correlation_middleware",
    "error_response",
    "get_correlator",
    "inspector",
    "problem_response",
    "propagation_middleware",
    "read_bounded",
    "setup",
]
