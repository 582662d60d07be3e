"""The propagation middleware: the id and the remaining time go out, but to nobody else's server."""

from __future__ import annotations

import asyncio
import socket
from contextvars import Context
from types import SimpleNamespace

import pytest
from aiohttp import ClientSession, TooManyRedirects, web
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from yarl import URL

from correlator import Correlator, RequestTimeout, request_scope
from correlator.aiohttp import propagation_middleware
from correlator.aiohttp.client import HeaderGuard

from .serving import http_session, origin

ID = "X-Request-ID"
DEADLINE = "X-Envoy-Expected-Rq-Timeout-Ms"


def carries(*seen) -> list[bool]:
    """For each request seen whether it has the id; the deadline must go with it."""
    for each in seen:
        assert (ID in each.headers) == (DEADLINE in each.headers)
    return [ID in each.headers for each in seen]


@pytest.fixture
async def session():
    async with http_session(middlewares=(propagation_middleware(),)) as it:
        yield it


@pytest.fixture
async def here():
    async with origin() as it:
        yield it


@pytest.fixture
async def there():
    async with origin() as it:
        yield it


@pytest.fixture
async def elsewhere():
    async with origin() as it:
        yield it


async def fetch(session: ClientSession, url, **options) -> int:
    async with session.get(url, **options) as response:
        await response.read()
        return response.status


# -- what goes out -------------------------------------------------------------------------------


async def test_the_id_and_the_milliseconds_left_go_out(session, here):
    with request_scope("mine-1", 5.0):
        await fetch(session, here.url())
    [seen] = here.seen
    assert seen.headers.getall(ID) == ["mine-1"]
    assert 3000 < int(seen.headers[DEADLINE]) <= 5000


async def test_outside_of_a_request_nothing_goes_out(session, here):
    await fetch(session, here.url())
    [seen] = here.seen
    assert carries(seen) == [False]


async def test_an_id_without_a_deadline_goes_alone(session, here):
    with request_scope("mine-1"):
        await fetch(session, here.url())
    [seen] = here.seen
    assert (ID in seen.headers, DEADLINE in seen.headers) == (True, False)


@pytest.mark.parametrize("bad", ["a b", "x\r\nX-Evil: 1", "x\u2028", "\u0663", "", "x" * 129])
async def test_an_id_that_is_not_valid_never_goes_out(session, here, bad):
    with request_scope(bad):
        await fetch(session, here.url())
    [seen] = here.seen
    assert ID not in seen.headers
    assert "X-Evil" not in seen.headers


@pytest.mark.virtual_time
@pytest.mark.parametrize(("seconds", "sent"), [(0.0005, "1"), (0.0015, "1"), (2.9999, "2999")])
async def test_the_milliseconds_are_rounded_down_but_not_to_none(seconds, sent):
    request = SimpleNamespace(url=URL("http://a"), headers=CIMultiDict())

    async def handler(_request):
        return SimpleNamespace(status=200, headers={})

    with request_scope("mine-1", seconds):
        await propagation_middleware()(request, handler)
    assert request.headers[DEADLINE] == sent


async def test_the_pendings_deadline_goes_out_inside_of_its_send(session, here):
    async with Correlator() as correlator:

        async def send(request_id):
            await fetch(session, here.url())
            correlator.resolve(request_id, "done")

        with request_scope("outer-1", 60.0):
            assert await correlator.correlate(send=send, timeout=3.0) == "done"
    [seen] = here.seen
    assert seen.headers[ID] == "outer-1", "the pairing id is not for headers"
    assert int(seen.headers[DEADLINE]) <= 3000


async def test_headers_that_the_user_set_are_kept(session, here):
    with request_scope("mine-1", 5.0):
        await fetch(session, here.url(), headers={ID.lower(): "the user's", DEADLINE: "77"})
    [seen] = here.seen
    assert seen.headers.getall(ID) == ["the user's"]
    assert seen.headers.getall(DEADLINE) == ["77"]


async def test_headers_can_have_other_names_and_the_deadline_stay_at_home(here):
    middleware = propagation_middleware(header="X-Trace", deadline_header=None)
    async with http_session(middlewares=(middleware,)) as session:
        with request_scope("mine-1", 5.0):
            await fetch(session, here.url())
    [seen] = here.seen
    assert seen.headers["X-Trace"] == "mine-1"
    assert not carries(seen)[0]


@pytest.mark.parametrize("options", [{"header": "a:b"}, {"deadline_header": "a\nb"}])
def test_a_name_that_is_none_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        propagation_middleware(**options)


@pytest.mark.parametrize("deadline_header", [DEADLINE, None])
async def test_once_the_deadline_has_passed_nothing_is_sent(here, deadline_header):
    middleware = propagation_middleware(deadline_header=deadline_header)
    async with http_session(middlewares=(middleware,)) as session:
        with request_scope("mine-1", 0.001):
            await asyncio.sleep(0.005)  # really: the loop's own clock has to pass the deadline
            with pytest.raises(RequestTimeout, match="had passed"):
                await fetch(session, here.url())
    assert here.seen == []


async def test_a_websockets_handshake_carries_both(session, here):
    async def upgrade(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close()
        return socket

    here.answers["/ws"] = upgrade
    with request_scope("mine-1", 5.0):
        async with session.ws_connect(here.url("/ws")) as socket:
            await socket.receive()
    assert carries(*here.seen) == [True]


# -- redirects ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_on_the_same_origin_carries_both(session, here, status):
    here.redirect("/", "/next", status)
    here.redirect("/next", here.url("/last"), status)
    with request_scope("mine-1", 5.0):
        await fetch(session, here.url())
    assert [each.path for each in here.seen] == ["/", "/next", "/last"]
    assert carries(*here.seen) == [True, True, True]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_port_carries_neither(session, here, there, status):
    here.redirect("/", there.url("/next"), status)
    there.redirect("/next", "/last", status)
    with request_scope("mine-1", 5.0):
        await fetch(session, here.url())
    assert carries(*here.seen, *there.seen) == [True, False, False]


async def test_a_redirect_by_the_uri_header_counts_as_one(session, here, there):
    here.reply("/", status=302, headers={"URI": str(there.url())})
    with request_scope("mine-1", 5.0):
        await fetch(session, here.url())
    assert carries(*there.seen) == [False]


@pytest.mark.parametrize("requote", [True, False])
@pytest.mark.parametrize("host", ["LOCALHOST", "127.0.0.1", "user:password@127.0.0.1"])
async def test_another_origin_gets_neither_however_its_url_is_written(here, there, host, requote):
    here.redirect("/", f"http://{host}:{there.served.port}/next")
    middlewares = (propagation_middleware(),)
    async with http_session(middlewares=middlewares, requote_redirect_url=requote) as session:
        with request_scope("mine-1", 5.0):
            await fetch(session, here.url())
    assert carries(*there.seen) == [False]


@pytest.mark.parametrize("requote", [True, False])
@pytest.mark.parametrize("host", ["::ffff:127.0.0.1", "::FFFF:7F00:1", "0:0:0:0:0:ffff:7f00:1"])
async def test_another_origin_gets_neither_however_its_address_is_written(
    here, there, host, requote
):
    try:
        socket.create_connection((host, there.served.port)).close()
    except OSError:
        pytest.skip("this machine does not reach an IPv4 address by IPv6")
    here.redirect("/", f"http://[{host}]:{there.served.port}/next")
    middlewares = (propagation_middleware(),)
    async with http_session(middlewares=middlewares, requote_redirect_url=requote) as session:
        with request_scope("mine-1", 5.0):
            await fetch(session, here.url())
    assert carries(*here.seen, *there.seen) == [True, False]


async def test_another_name_for_the_same_server_is_another_origin(session, here):
    here.redirect("/", f"http://localhost:{here.served.port}/next")
    with request_scope("mine-1", 5.0):
        await fetch(session, here.url())
    assert carries(*here.seen) == [True, False]


async def test_the_way_through_another_origin_and_back_carries_nothing_there(session, here, there):
    here.redirect("/", there.url("/next"))
    there.redirect("/next", here.url("/last"))
    with request_scope("mine-1", 5.0):
        await fetch(session, here.url())
    assert carries(*there.seen) == [False]
    # Whether it goes along again, back at home, is left open: either way nobody else is told.
    assert carries(here.seen[0]) == [True]


async def test_a_third_origin_gets_neither(session, here, there, elsewhere):
    here.redirect("/", there.url("/next"))
    there.redirect("/next", elsewhere.url("/last"))
    with request_scope("mine-1", 5.0):
        await fetch(session, here.url())
    assert carries(*there.seen, *elsewhere.seen) == [False, False]


async def test_redirects_in_a_circle_leak_nothing(session, here, there):
    here.redirect("/", there.url())
    there.redirect("/", here.url())
    with request_scope("mine-1", 5.0), pytest.raises(TooManyRedirects):
        await fetch(session, here.url())
    assert len(there.seen) == 5
    assert not any(carries(*there.seen))


async def test_a_retry_of_a_hop_whose_connection_dropped_leaks_nothing(session, here, there):
    async def drop_once(request):
        if len(there.seen) == 1:
            request.transport.abort()
        return web.Response()

    here.redirect("/", there.url("/next"))
    there.answers["/next"] = drop_once
    with request_scope("mine-1", 5.0):
        assert await fetch(session, here.url()) == 200
    assert carries(*there.seen) == [False, False]


async def test_a_redirect_of_a_websockets_handshake_leaks_nothing(session, here, there):
    async def upgrade(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close()
        return socket

    here.redirect("/ws", there.url("/ws"))
    there.answers["/ws"] = upgrade
    with request_scope("mine-1", 5.0):
        async with session.ws_connect(here.url("/ws")) as socket:
            await socket.receive()
    assert carries(*here.seen, *there.seen) == [True, False]


async def test_after_a_redirect_that_was_followed_the_other_origin_is_asked_as_any(
    session, here, there
):
    here.redirect("/", there.url("/next"))
    with request_scope("mine-1", 5.0):
        await fetch(session, here.url())
        await fetch(session, there.url("/by-itself"))
    assert carries(*there.seen) == [False, True]


async def test_a_request_after_a_redirect_that_was_not_followed_leaks_nothing_on_its_own_redirects(
    session, here, there
):
    here.redirect("/", there.url("/next"))
    there.redirect("/", here.url("/from-there"))
    with request_scope("first", 5.0):
        await fetch(session, here.url(), allow_redirects=False)
    with request_scope("second", 5.0):
        await fetch(session, there.url())
    seen = {each.path: each.headers.get(ID) for each in here.seen}
    assert seen == {"/": "first", "/from-there": None}, "it was sent there first, not here"


async def test_requests_at_the_same_time_do_not_mix_up_their_redirects(session, here, there):
    here.redirect("/away", there.url("/landed"))
    with request_scope("mine-1", 5.0):
        urls = [here.url("/away"), there.url("/direct")] * 10
        await asyncio.gather(*[fetch(session, url) for url in urls])
    for each in there.seen:
        assert carries(each) == [each.path == "/direct"]


async def test_a_middleware_inside_that_runs_hops_in_tasks_of_their_own_leaks_nothing(here, there):
    async def in_a_task(request, handler):
        return await asyncio.create_task(handler(request))

    here.redirect("/", there.url("/next"))
    middlewares = (propagation_middleware(), in_a_task)
    async with http_session(middlewares=middlewares) as session:
        with request_scope("mine-1", 5.0):
            await fetch(session, here.url())
    assert carries(*here.seen, *there.seen) == [True, False]


# -- the guard by itself -------------------------------------------------------------------------

PLACES = ["http://a", "http://A:80", "https://a", "http://a:8080", "http://b", "http://B:080"]


def _walk(guard, start, locations, encoded) -> list[tuple[URL, bool]]:
    """Send a request along redirects as aiohttp does; tell where the header went along."""
    url, sent = URL(start), []
    for location in [*locations, None]:
        headers = {} if location is None else {"Location": location}
        response = SimpleNamespace(status=200 if location is None else 302, headers=headers)
        request = SimpleNamespace(url=url, headers=CIMultiDict())
        at_home = guard.put(request, {"X-Secret": "1"})
        guard.follow(request, response, at_home=at_home)
        sent.append((url, "X-Secret" in request.headers))
        if location is not None:
            there = URL(location, encoded=encoded)
            url = there if there.scheme else url.join(there)
    return sent


@pytest.mark.parametrize("encoded", [True, False])
@pytest.mark.parametrize(
    ("start", "location"),
    [
        ("https://a:8443", "http://a:8443/next"),
        ("http://a:8443", "https://a:8443/next"),
        ("https://a", "http://a:443/next"),
        ("http://a", "http://[::ffff:127.0.0.1]/next"),
        ("http://a", "http://[0:0:0:0:0:0:0:1]/next"),
    ],
)
def test_another_scheme_or_address_is_another_origin_however_it_is_written(
    start, location, encoded
):
    sent = Context().run(_walk, HeaderGuard("tested"), start, [location, "/last"], encoded)
    assert [went for _url, went in sent] == [True, False, False]


def _place(url: URL) -> tuple[str, str, int]:
    return url.scheme, url.host.lower(), url.port


@given(
    start=st.sampled_from(PLACES),
    hops=st.lists(st.sampled_from([*PLACES, "/path", "?query", "//B/x"]), max_size=6),
    encoded=st.booleans(),
)
def test_a_header_goes_to_the_first_origin_and_to_no_other(start, hops, encoded):
    left = False
    for url, went in Context().run(_walk, HeaderGuard("tested"), start, hops, encoded):
        away = _place(url) != _place(URL(start))
        left = left or away
        assert not (went and away), "another origin was told"
        assert went or left, "the first origin was not told, though it was never left"
