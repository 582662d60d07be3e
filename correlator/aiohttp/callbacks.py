"""Replies by callback: the URL that goes out with a request, and the route where it comes back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import aiohttp
from aiohttp import (
    ClientHandlerType,
    ClientMiddlewareType,
    ClientRequest,
    ClientResponse,
    ClientSession,
    web,
)
from multidict import CIMultiDictProxy
from typing_extensions import Unpack
from yarl import URL

from ..checks import MAX_SECONDS, check_bound, check_instance, check_owner, check_seconds
from ..context import current_pending
from ..core import Correlator
from ..errors import CorrelationError, CorrelatorClosed, RequestRejected, shown
from ..headers import CALLBACK_HEADER, check_header
from ..pending import Disposition
from ..tokens import CallbackTokens
from .bodies import BodyTooLarge, answer_expect, read_bounded
from .client import HeaderGuard
from .problems import problem_response

if TYPE_CHECKING:
    from standardwebhooks import Webhook

__all__ = [
    "CallbackClient",
    "CallbackReply",
    "ReplyRouter",
    "callback_middleware",
    "callback_route",
]

_MAX_BODY = 1024 * 1024
_GRACE = 60.0  # seconds that a token outlives its request, so that a late reply is told it is late

_guard = HeaderGuard("correlator_callback")


@dataclass(frozen=True, slots=True)
class CallbackReply:
    """What an upstream answered, at once or by callback.

    Attributes:
        status: the HTTP status; 200 for a callback, which has none.
        headers: the headers it came with, without regard to case.
        body: the bytes of the body, decompressed. Kept out of the `repr`.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class ReplyRouter(Protocol):
    """Takes callbacks to where they belong, where a service has several replicas.

    `correlator.transports.routing.CallbackRouter` is one.

    Attributes:
        owner: this replica's name; callbacks for it are not routed.
    """

    owner: str

    async def route(self, owner: str, request_id: str, reply: CallbackReply) -> bool:
        """Take a reply to its owner, or keep it; tell whether either was done.

        Raises:
            ConnectionError: it could not be told, and may be tried again.
        """
        ...


def callback_middleware(
    callback_url: str | URL,
    tokens: CallbackTokens,
    *,
    header: str = CALLBACK_HEADER,
    grace: float = _GRACE,
    owner: str | None = None,
) -> ClientMiddlewareType:
    """Return a client middleware that tells the upstream where to call back.

    It puts a URL with a fresh token for the pending at hand (`current_pending`) on the request.
    Requests made outside a pending go as they are. A redirect to another origin does not carry
    the URL along, for whoever has it can answer.

    Args:
        callback_url: where `callback_route` is reached from the upstream. ``{token}`` in it is
            replaced; without one, the token is added as the last segment of the path.
        tokens: makes the tokens.
        header: where the URL goes.
        grace: seconds a token outlives its pending, so that a late reply is told that it is late.
        owner: this replica's name, which the tokens carry, where there are several.

    Raises:
        TypeError, ValueError: an argument is no good.
    """
    check_instance("tokens", tokens, CallbackTokens)
    check_header("header", header)
    check_seconds("grace", grace)
    if owner is not None:
        check_owner(owner)
    template = _template(callback_url)

    async def middleware(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        pending = current_pending()
        if pending is None:
            return await handler(request)
        left = max(0.0, pending.deadline - asyncio.get_running_loop().time())
        ttl = min(left + grace, MAX_SECONDS)
        token = tokens.issue(pending.request_id, ttl, owner)
        url = template.replace("{token}", token)
        at_home = _guard.put(request, {header: url})
        response = await handler(request)
        _guard.follow(request, response, at_home=at_home)
        return response

    return middleware


def _template(callback_url: str | URL) -> str:
    """Return a callback URL with ``{token}`` in it. Raises TypeError or ValueError."""
    if not isinstance(callback_url, str | URL):
        raise TypeError(f"callback_url must be a string or a URL, not {shown(callback_url)}")
    template = str(callback_url)
    bare = "{token}" not in template
    if bare:
        template = template.rstrip("/") + "/{token}"
    try:
        url = URL(template.replace("{token}", "token"))
        # A fragment is never sent; and what is added to a query is no path.
        good = url.scheme in ("http", "https") and bool(url.host) and "#" not in template
        good = good and not (bare and url.query_string)
    except ValueError:
        good = False
    if not good or template.count("{token}") > 1 or any(c <= " " or c == "\x7f" for c in template):
        raise ValueError(
            f"callback_url must be an absolute http(s) URL, with {{token}} once or nowhere, and "
            f"then without a query, not {str(callback_url)!r:.200}"
        )
    return template


class RequestOptions(TypedDict, total=False):
    """What else `CallbackClient.request` passes on to aiohttp's request."""

    params: Any
    data: Any
    json: Any
    headers: Any
    cookies: Any
    auth: aiohttp.BasicAuth
    allow_redirects: bool
    proxy: str | URL
    ssl: Any


class CallbackClient:
    """Turns an upstream that answers 202 and calls back later into one awaited call.

    Args:
        session: sends the requests. Its own middlewares run too.
        correlator: pairs the replies; the one that `callback_route` was given.
        callback_url: where `callback_route` is reached from the upstream; see
            `callback_middleware`.
        tokens: makes the tokens; the ones that `callback_route` was given.
        header: where the callback's URL goes.
        max_body: bytes an answer that comes at once may have, after decompression.
        owner: this replica's name, which the tokens carry, where there are several.

    Raises:
        TypeError, ValueError: an argument is no good.
    """

    def __init__(
        self,
        session: ClientSession,
        correlator: Correlator[str, CallbackReply],
        *,
        callback_url: str | URL,
        tokens: CallbackTokens,
        header: str = CALLBACK_HEADER,
        max_body: int = _MAX_BODY,
        owner: str | None = None,
    ) -> None:
        check_instance("session", session, ClientSession)
        check_instance("correlator", correlator, Correlator)
        self._session = session
        self._correlator = correlator
        self._max_body = check_bound("max_body", max_body)
        self._middleware = callback_middleware(callback_url, tokens, header=header, owner=owner)

    async def request(
        self,
        method: str,
        url: str | URL,
        *,
        request_id: str | None = None,
        timeout: float | None = None,
        context: Any = None,
        label: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> CallbackReply:
        """Send a request, and return the upstream's answer: at once, or when it calls back.

        Args:
            method: the HTTP method.
            url: where to send it.
            request_id: the id that pairs it with its callback; by default a fresh one. Never one
                that came from outside.
            timeout: seconds for all of it; by default the correlator's.
            context: comes back as `Pending.context`.
            label: as for `Correlator.register`: the upstream's name, say.
            **options: as for `aiohttp.ClientSession.request`.

        Raises:
            RequestRejected: the upstream refused (4xx, 5xx, or a 3xx not followed), answered too
                much, or could not be reached: its `reply` is what it answered, if it did; its cause
                is aiohttp's error, if there was one.
            RequestTimeout, CapacityExceeded, CorrelatorClosed: as `Correlator.correlate`.
        """

        async def send(request_id: str) -> None:
            # Middlewares of a request replace those of its session, so these are named again;
            # aiohttp has no public way to ask for them. Ours comes first: one that runs the rest
            # in a task would hide the guard's notes from it.
            middlewares = (self._middleware, *self._session._middlewares)
            _guard.forget()
            try:
                async with self._session.request(
                    method, url, middlewares=middlewares, **options
                ) as response:
                    if response.status == 202:
                        return  # it is to come by callback
                    body = await read_bounded(response.content, self._max_body)
                    reply = CallbackReply(response.status, response.headers, body)
            except CorrelationError:  # of a middleware; the timeouts among them are TimeoutErrors
                raise
            except (aiohttp.ClientError, TimeoutError) as error:
                reason = f"the upstream could not be reached: {type(error).__name__}"
                rejected = RequestRejected(reason, request_id=request_id)
                # Without its traceback, which holds this frame, which holds `rejected`.
                rejected.__cause__ = error.with_traceback(None)
            except BodyTooLarge as error:
                rejected = RequestRejected(
                    f"the upstream's answer is too large: {error}", request_id=request_id
                )
            else:
                if reply.status < 300:
                    self._correlator.resolve(request_id, reply)
                    return
                reason = f"the upstream answered {reply.status}"
                rejected = RequestRejected(reason, request_id=request_id, reply=reply)
            if request_id in self._correlator:  # else it has called back before it failed
                self._correlator.reject(request_id, rejected)
            del rejected  # on Python 3.12 and later an error of aiohttp's may hold this frame

        return await self._correlator.correlate(
            request_id, send=send, timeout=timeout, context=context, label=label
        )


def callback_route(
    correlator: Correlator[str, CallbackReply],
    path: str = "/callbacks/{token}",
    *,
    tokens: CallbackTokens,
    webhook: Webhook | Sequence[Webhook] | None = None,
    max_body: int = _MAX_BODY,
    body_timeout: float = 10.0,
    router: ReplyRouter | None = None,
) -> web.RouteDef:
    """Return the route where callbacks arrive: ``app.add_routes([callback_route(...)])``.

    It answers 204 when the reply settled a request, or one had done so before; 410 when the
    request had ended without; 413 when the body is too large, 408 when it does not come, 400 when
    it cannot be read, 401 when its signature is wrong; and 404 for every other token, so that a
    stranger cannot tell a live id from an unknown one.

    Args:
        correlator: gets the replies, as `CallbackReply`.
        path: with ``{token}`` in it.
        tokens: checks the tokens, before anything is looked up or read.
        webhook: where given, the body must carry a valid Standard Webhooks signature by one of
            these keys (https://www.standardwebhooks.com), at most five minutes old.
        max_body: bytes a body may have, after decompression.
        body_timeout: seconds a body may take to arrive; then the answer is 408.
        router: takes callbacks to other replicas, where there are several. Those that it has taken
            there, or keeps, are answered 204; if it cannot tell, the answer is 503.

    Raises:
        ValueError: `path` has no ``{token}``, `webhook` is empty, or a number is out of range.
        TypeError: an argument is of the wrong type.
    """
    check_instance("correlator", correlator, Correlator)
    check_instance("path", path, str)
    check_instance("tokens", tokens, CallbackTokens)
    if path.count("{token}") != 1:
        raise ValueError(f"path must contain {{token}}, once, not {path!r}")
    check_bound("max_body", max_body)
    check_seconds("body_timeout", body_timeout)
    webhooks: tuple[Webhook, ...] = ()
    if webhook is not None:
        webhooks = tuple(webhook) if isinstance(webhook, Sequence) else (webhook,)
        if not webhooks:
            raise ValueError(f"webhook must hold at least one key, not {webhook!r}")
        for each in webhooks:
            if not callable(getattr(each, "verify", None)):
                raise TypeError(
                    f"webhook must be a standardwebhooks.Webhook, or a sequence of them, "
                    f"not {type(each).__name__}"
                )

    async def handler(request: web.Request) -> web.StreamResponse:
        verified = tokens.verify(request.match_info["token"])
        if verified is None:
            return _not_found()
        request_id, owner = verified
        try:
            body = await read_bounded(request.content, max_body, body_timeout)
        except TimeoutError:
            return problem_response(408, "The body did not come in time.")
        except BodyTooLarge as error:
            return problem_response(413, f"The body is too large: {error}.")
        except (web.RequestPayloadError, aiohttp.ClientPayloadError):
            unread = problem_response(400, "The body could not be read.")
            unread.force_close()  # aiohttp closes the connection, and the client should know
            return unread
        if webhooks and not any(_signed(each, body, request.headers) for each in webhooks):
            return problem_response(401, "The body's signature is missing or wrong.")
        reply = CallbackReply(200, request.headers, body)
        if owner is not None and (router is None or owner != router.owner):
            return await _route(router, owner, request_id, reply)
        disposition = correlator.resolve(request_id, reply)
        if disposition in (Disposition.MATCHED, Disposition.DUPLICATE):
            return web.Response(status=204)
        if disposition is Disposition.LATE:
            return problem_response(410, "The request had ended before the reply came.")
        return _not_found()

    return web.post(path, handler, expect_handler=answer_expect)


async def _route(
    router: ReplyRouter | None, owner: str, request_id: str, reply: CallbackReply
) -> web.Response:
    """Answer a callback for another replica."""
    if router is None:
        return _not_found()
    try:
        taken = await router.route(owner, request_id, reply)
    except (ConnectionError, CorrelatorClosed):
        return problem_response(503, "The reply cannot be forwarded now. Try again.")
    return web.Response(status=204) if taken else _not_found()


def _not_found() -> web.Response:
    return problem_response(404, "There is no such callback.")


_TIMESTAMP = re.compile(r"[1-9][0-9]{0,11}")


def _signed(webhook: Webhook, body: bytes, headers: CIMultiDictProxy[str]) -> bool:
    """Tell whether a body carries a signature by that key, by Standard Webhooks."""
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    values = [headers.getall(name, []) for name in names]
    # The package reads the timestamp as a float, and drops the fraction before it signs; so
    # what the sender signed and what we are sent could differ.
    if any(len(value) != 1 for value in values):
        return False
    given = {name: value[0] for name, value in zip(names, values, strict=True)}
    if _TIMESTAMP.fullmatch(given["webhook-timestamp"]) is None:
        return False
    # It lets ValueError, binascii.Error and UnicodeDecodeError through, beside its own.
    with suppress(Exception):
        webhook.verify(body, given, json_parse=False)
        return True
    return False
