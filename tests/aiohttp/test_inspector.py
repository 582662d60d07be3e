"""The inspector's server: who may look, what is told, and that nothing is left when nobody does."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import socket
import weakref
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import ClassVar

import pytest
from aiohttp import ClientSession, web

from correlator import Correlator, DuplicateRequest
from correlator.aiohttp import inspecting, inspector
from correlator.aiohttp.replicas import Replicas
from correlator.inspection import Inspection
from correlator.transports import connect

from ..clock import elapse
from .serving import exchange, header_of, inspected, serving, status_of, until

REQUEST = b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def get(served, path="/inspector/snapshot", **headers):
    async with ClientSession() as session:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with session.get(served.url(path), headers=named) as response:
            return response.status, response.headers, await response.text()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Seconds are for people."""
    monkeypatch.setattr(inspecting, "_TICK", 0.05)


@pytest.fixture
async def served(correlator):
    async with serving(inspected(correlator)) as served:
        yield served


# -- who may look --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/inspector/", "/inspector/inspector.js", "/inspector/snapshot"])
async def test_a_client_on_this_machine_may_look_and_every_answer_is_guarded(served, path):
    status, headers, _ = await get(served, path)
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Forwarded_For": "10.0.0.1"},
        {"Forwarded": "for=10.0.0.1"},
        {"Via": "1.1 proxy"},
        {"X_Forwarded_Proto": "https"},
        {"x_forwarded_host": "localhost"},
        {"X_Real_IP": "10.0.0.1"},
        {"CF_Connecting_IP": "10.0.0.1"},
        {"Fastly_Client_IP": "10.0.0.1"},
        {"True_Client_IP": "10.0.0.1"},
        {"X_Original_Forwarded_For": "10.0.0.1"},
        {"X_Envoy_External_Address": "10.0.0.1"},
        {"Host": "evil.example"},
        {"Host": "evil.example:8080"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "10.1.2.3"},
    ],
)
async def test_whoever_comes_by_a_proxy_or_by_another_name_is_refused(served, headers):
    for path in ("/inspector/", "/inspector/snapshot", "/inspector/events"):
        status, got, text = await get(served, path, **headers)
        assert status == 403
        assert got["Content-Type"].startswith("application/problem+json")
        assert "authorize=" in json.loads(text)["detail"]


async def test_what_is_older_than_http_1_1_is_taken_for_a_proxy(served):
    """As nginx sends it on, by default, with nothing that tells where it is from."""
    request = b"GET /inspector/snapshot HTTP/1.0\r\nHost: localhost:8080\r\n\r\n"
    assert status_of(await exchange(served.port, request)) == 403


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:80", "127.9.9.9", "[::1]:80", "LOCALHOST"]
)
async def test_the_names_of_this_machine_are_taken(served, host):
    assert (await get(served, "/inspector/", Host=host))[0] == 200


async def test_an_address_that_is_not_loopback_is_refused(correlator):
    """As when the server is bound to all interfaces, and somebody comes by one of the others."""
    app = inspected(correlator)
    own = await asyncio.to_thread(_own_address)
    if own is None:
        pytest.skip("this machine has no address but loopback")
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "0.0.0.0", 0)  # noqa: S104  # that is the point
    await site.start()
    port = runner.addresses[0][1]
    reader, writer = await asyncio.open_connection(own, port)
    writer.write(
        b"GET /inspector/snapshot HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    assert status_of(await reader.read()) == 403
    writer.close()
    await runner.cleanup()


async def test_a_socket_of_no_address_is_refused(correlator, tmp_path):
    """Who may talk to it is what a proxy's configuration says, or the file's permissions."""
    runner = web.AppRunner(inspected(correlator))
    await runner.setup()
    path = str(tmp_path / "socket")
    await web.UnixSite(runner, path).start()
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(REQUEST % b"/inspector/snapshot")
    assert status_of(await reader.read()) == 403
    writer.close()
    await runner.cleanup()


def _own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        address = probe.getsockname()[0]
    return None if address.startswith("127.") else address


async def test_pages_of_other_sites_cannot_read_it(served):
    for site in ("cross-site", "same-site"):
        status, *_ = await get(served, Sec_Fetch_Site=site, Sec_Fetch_Dest="empty")
        assert status == 403
        status, *_ = await get(served, "/inspector/", Sec_Fetch_Site=site, Sec_Fetch_Dest="iframe")
        assert status == 403
    status, *_ = await get(
        served, "/inspector/", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="document"
    )
    assert status == 200  # a link that was followed


@pytest.mark.parametrize("is_async", [False, True])
async def test_authorize_is_asked_each_time_and_decides_alone(correlator, is_async):
    def may(request):
        return request.headers.get("Authorization") == "Bearer canary"

    async def may_later(request):
        return may(request)

    async with serving(inspected(correlator, authorize=may_later if is_async else may)) as served:
        for path in ("/inspector/", "/inspector/inspector.css", "/inspector/snapshot"):
            status, _, text = await get(served, path)
            assert status == 403
            assert "canary" not in text
            status, *_ = await get(
                served, path, Authorization="Bearer canary", X_Forwarded_For="10.0.0.1"
            )
            assert status == 200


async def test_authorize_may_answer_itself(correlator):
    def may(_request):
        raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Basic"})

    async with serving(inspected(correlator, authorize=may)) as served:
        status, headers, _ = await get(served)
        assert (status, headers["WWW-Authenticate"]) == (401, "Basic")
        assert headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("answer", ["no", 1, None, object()])
async def test_an_authorize_that_answers_neither_yes_nor_no_lets_nobody_in(
    correlator, caplog, answer
):
    async with serving(inspected(correlator, authorize=lambda _request: answer)) as served:
        assert (await get(served))[0] == 500
    assert "authorize must return a bool, not one of" in caplog.text


@pytest.mark.parametrize("refusal", [False, web.HTTPUnauthorized()])
async def test_a_stream_ends_when_its_client_may_look_no_longer(correlator, monkeypatch, refusal):
    monkeypatch.setattr(inspecting, "_CHECK_AGAIN", 0.0)
    answers = [True, True, refusal]

    def may(_request):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with (
        serving(inspected(correlator, authorize=may)) as served,
        ClientSession() as session,
        session.get(served.url("/inspector/events")) as stream,
    ):
        text = await stream.text()  # to its end
    assert text.count("event: snapshot") == 1
    assert not answers
    assert not correlator._observers


async def test_of_a_stream_it_is_asked_once_in_a_while(correlator, monkeypatch):
    monkeypatch.setattr(inspecting, "_CHECK_AGAIN", 0.0)
    asked = []

    def may(request):
        asked.append(request.path)
        if len(asked) == 2:
            monkeypatch.setattr(inspecting, "_CHECK_AGAIN", 1e6)
        return True

    async with (
        serving(inspected(correlator, authorize=may)) as served,
        ClientSession() as session,
        session.get(served.url("/inspector/events")) as stream,
    ):
        seen = 0
        while seen < 5:
            seen += (await stream.content.readline()).startswith(b"event: snapshot")
    assert len(asked) == 2


async def test_it_only_reads(served):
    for method in (b"POST", b"PUT", b"DELETE", b"PATCH"):
        request = (REQUEST % b"/inspector/snapshot").replace(b"GET", method, 1)
        assert status_of(await exchange(served.port, request)) == 405


async def test_without_a_slash_it_leads_to_the_page(served):
    answer = await exchange(served.port, REQUEST % b"/inspector")
    assert status_of(answer) == 308
    assert header_of(answer, "Location") == ["/inspector/"]


@pytest.mark.parametrize("name", ["authorize", "replicas"])
def test_an_argument_that_is_no_good_is_named(name):
    with pytest.raises(TypeError, match=f"{name} must be callable"):
        inspector(Correlator(), **{name: "yes"})
    with pytest.raises(TypeError, match="correlator must be an instance of Correlator"):
        inspector(None)


# -- what is told --------------------------------------------------------------------------------


async def test_a_snapshot_tells_what_stats_does_and_no_payload(correlator, served):
    correlator.register("order-42", label="bank", context="canary", size=3)
    correlator.register("order-43")
    correlator.resolve("order-43", "canary")
    correlator.resolve("order-43", "canary")
    _, headers, text = await get(served)
    assert headers["Content-Type"].startswith("application/json")
    assert "canary" not in text
    seen = json.loads(text)
    stats = correlator.stats()
    assert seen["name"] == "tested"
    told = seen["stats"]
    assert {name: told[name] for name in told if name != "oldest_age"} == {
        name: getattr(stats, name) for name in told if name != "oldest_age"
    }
    (oldest,) = seen["oldest"]
    assert (oldest["request_id"], oldest["label"], oldest["size"]) == ("order-42", "bank", 3)
    assert [row["label"] for row in seen["labels"]] == ["bank", None]
    assert seen["labels"][1]["resolved"] == 1
    assert (seen["owner"], seen["replicas"]) == (None, [])
    correlator.resolve("order-42", None)


async def test_the_stream_tells_a_snapshot_a_second_and_what_happens_meanwhile(
    correlator, served, monkeypatch
):
    monkeypatch.setattr(inspecting, "_TICK", 1.0)  # really: the client has no other clock
    async with ClientSession() as session, session.get(served.url("/inspector/events")) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        seen = []
        while len(seen) < 2:
            line = (await response.content.readline()).decode()
            if line.startswith("data: "):
                seen.append(json.loads(line[6:]))
                for number in range(3):
                    correlator.register(f"r{number}", label="x", reuse=True)
                    correlator.resolve(f"r{number}", 1)
                correlator.resolve("stranger", 1)
            else:
                assert line.strip() in ("", "event: snapshot") or line.startswith(":")
    first, second = seen
    assert second["time"] - first["time"] == pytest.approx(1.0, abs=0.5)
    assert second["stats"]["resolved"] == 3
    assert second["rates"]["resolved"] == pytest.approx(3.0, rel=0.5)
    assert second["latency"]["count"] == 3
    assert second["unmatched"][0]["disposition"] == "unknown"
    assert second["unmatched"][0]["request_id"] == "stranger"


async def test_when_nobody_looks_any_more_nothing_is_left(correlator, served):
    tasks, connections = asyncio.all_tasks(), set(transports())
    for _ in range(2):
        async with ClientSession() as session:
            streams = [await session.get(served.url("/inspector/events")) for _ in range(3)]
            await streams[0].content.readline()
            assert len(correlator._observers) == 1
            for stream in streams:
                stream.close()
        await until(lambda: not correlator._observers)
        await until(lambda: not asyncio.all_tasks() - tasks)
    await until(lambda: not set(transports()) - connections)


def transports():
    """Return the connections that anybody still holds."""
    gc.collect()
    names = ("_SelectorSocketTransport", "TCPTransport")
    return [each for each in gc.get_objects() if type(each).__name__ in names]


async def test_a_client_that_has_left_before_its_stream_begins_is_no_crash(correlator, caplog):
    statuses = []

    @web.middleware
    async def late(request, handler):
        # As after the loop has hung.
        await until(lambda: request.transport is None or request.transport.is_closing())
        response = await handler(request)
        statuses.append(response.status)
        return response

    app = inspected(correlator, authorize=lambda _request: True)  # it has no address any more
    app.middlewares.append(late)
    async with serving(app, handler_cancellation=False) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(REQUEST % b"/inspector/events")
        await writer.drain()
        writer.transport.abort()
        await until(lambda: statuses)
    assert statuses == [499]
    assert not caplog.records


async def test_who_asks_while_it_shuts_down_is_told_so(served):
    await served.runner.shutdown()
    for path in ("snapshot", "events", ""):
        status, _, text = await get(served, f"/inspector/{path}")
        assert status == 503
        assert json.loads(text)["detail"] == "There is nothing to see any more."


async def test_one_who_leaves_takes_nothing_from_the_others(served):
    async with ClientSession() as session, session.get(served.url("/inspector/events")) as stays:
        for _ in range(3):
            async with session.get(served.url("/inspector/events")) as leaves:
                await leaves.content.readline()
        seen = 0
        async with asyncio.timeout(10):
            while seen < 10:
                seen += (await stays.content.readline()).startswith(b"event: snapshot")


async def test_what_the_first_to_look_had_about_him_is_not_kept_for_the_others(correlator):
    class Thing:
        pass

    variable, things = contextvars.ContextVar("variable"), []

    def may(request):
        if request.query:
            variable.set(thing := Thing())
            things.append(weakref.ref(thing))
        return True

    async with (
        serving(inspected(correlator, authorize=may)) as served,
        ClientSession() as session,
    ):
        first = await session.get(served.url("/inspector/events").with_query("first=1"))
        async with session.get(served.url("/inspector/events")) as second:
            await second.content.readline()
            first.close()
            await until(lambda: gc.collect() >= 0 and things[0]() is None)
            await second.content.readline()


async def test_so_many_may_look_at_once(served):
    async with ClientSession() as session:
        streams = [await session.get(served.url("/inspector/events")) for _ in range(16)]
        assert {stream.status for stream in streams} == {200}
        for path in ("events", "snapshot"):
            async with session.get(served.url(f"/inspector/{path}")) as refused:
                assert refused.status == 503
                assert refused.headers["Retry-After"] == "10"
        for stream in streams:
            stream.close()


async def test_a_shutdown_ends_the_streams_at_once(correlator):
    loop = asyncio.get_running_loop()
    async with ClientSession() as session:
        async with serving(inspected(correlator), shutdown_timeout=30.0) as served:
            stream = await session.get(served.url("/inspector/events"))
            await stream.content.readline()
            began = loop.time()
        assert loop.time() - began < 5.0
        await stream.content.read()  # to its end
    assert not correlator._observers


@pytest.mark.parametrize("end", ["shutdown", "patience"])
async def test_a_client_that_takes_nothing_holds_nothing_up(correlator, monkeypatch, end):
    if end == "patience":
        monkeypatch.setattr(inspecting, "_SEND_TIMEOUT", 0.3)
    for number in range(50):
        correlator.register(number, label=f"{'x' * 100}{number}")
    loop = asyncio.get_running_loop()
    app = inspected(correlator)
    transports = []

    async def shrink(request, _response):
        """Make the buffers on its way small."""
        sock = request.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        request.transport.set_write_buffer_limits(high=1_000)
        transports.append(request.transport)

    app.on_response_prepare.append(shrink)
    monkeypatch.setattr(inspecting, "_TICK", 0.01)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.setblocking(False)
        async with serving(app, shutdown_timeout=30.0) as served:
            await loop.sock_connect(client, ("127.0.0.1", served.port))
            await loop.sock_sendall(client, REQUEST % b"/inspector/events")
            await until(lambda: transports and transports[0].get_write_buffer_size() > 1_000)
            if end == "patience":
                await until(lambda: not correlator._observers)
            began = loop.time()
        assert loop.time() - began < 5.0
    assert not correlator._observers
    await correlator.aclose()


async def test_replicas_stand_side_by_side():
    async with Correlator(name="gateway") as one, Correlator(name="gateway") as two:
        one.register("a")
        two.register("b")
        two.register("c")

        def replicas_of(name):
            return lambda own: connect("memory:inspected", own, replica=name)

        async with (
            serving(inspected(one, replicas=replicas_of("web_1"))) as served,
            serving(inspected(two, replicas=replicas_of("web_2"))),
            ClientSession() as session,
            session.get(served.url("/inspector/events")) as response,
        ):
            async with asyncio.timeout(20):
                while True:
                    line = (await response.content.readline()).decode()
                    if line.startswith("data: "):
                        seen = json.loads(line[6:])
                        if len(seen["replicas"]) == 2:
                            break
        own, other = seen["replicas"]
        assert own["owner"] == seen["owner"]
        assert own["owner"].startswith("web_1-")
        assert (own["stats"]["pending"], own["seen_ago"]) == (1, 0.0)
        assert other["owner"].startswith("web_2-")
        assert other["stats"]["pending"] == 2
        assert one.stats().registered == 1  # looking counts for nothing


def told_by(owner="web_2-x", **stats):
    return json.dumps({"owner": owner, "stats": {**asdict(Correlator().stats()), **stats}}).encode()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no JSON: canary",
        b"[]",
        b"{}",
        told_by(owner=""),
        told_by(owner="<script>"),
        told_by(owner=7),
        told_by(pending="many"),
        told_by(pending=True),
        told_by(pending=None),
        told_by(oldest_age=float("nan")),
        told_by(late=float("inf")),
        json.dumps({"owner": "web", "stats": "none"}).encode(),
        told_by() + b" " * 5_000,
        b"[" * 4_000,
    ],
)
@pytest.mark.virtual_time
async def test_a_replica_that_tells_nonsense_is_not_shown_and_the_next_is(answer, caplog):
    answers = [answer, told_by()]

    async def tell(_message):
        return answers.pop(0) if answers else told_by()

    replicas = Replicas(Correlator(name="odd"), lambda own: connect("memory:odd", own))
    async with (
        Correlator() as other,
        connect("memory:odd", other) as link,
        replicas.linked(),
        link.serve("correlator.inspector.odd", tell),
    ):
        asking = asyncio.ensure_future(replicas.ask())
        await until(lambda: len(replicas.rows({})) == 2)
        asking.cancel()
    assert caplog.text.count("the inspector got no answer") == 1
    assert "canary" not in caplog.text


@pytest.mark.virtual_time
async def test_of_replicas_a_bounded_number_and_no_field_of_strangers_is_kept():
    replicas = Replicas(Correlator(), lambda own: connect("memory:", own, replica="web"))
    async with replicas.linked():
        for number in range(1_000):
            replicas._hear(told_by(f"web-{number}", surprise=1, pending=3))
        rows = replicas.rows({})
        assert len(rows) == 101
        assert rows[1]["stats"]["pending"] == 3
        assert "surprise" not in rows[1]["stats"]
        await elapse(31.0)
        assert [row["owner"] for row in replicas.rows({})] == [replicas.owner]


class Uncopied:
    """An id that is no plain value."""

    def __deepcopy__(self, _memo):
        raise TypeError("canary")


async def test_ids_of_any_kind_are_shown(correlator, served):
    with correlator.register(Uncopied()):
        status, _, text = await get(served)
    assert status == 200
    assert "Uncopied" in text


async def test_a_correlator_that_cannot_be_shown_ends_what_shows_it_and_says_so(
    correlator, served, caplog, monkeypatch
):
    monkeypatch.setattr(correlator, "pending", None)
    status, _, text = await get(served)
    assert status == 500
    assert json.loads(text)["detail"] == "The inspector failed: the server's log says why."
    assert "cannot show correlator 'tested'" in caplog.text
    monkeypatch.undo()
    assert (await get(served))[0] == 200


async def test_a_replica_answers_from_before_it_asks_until_after():
    """A broker may hand it a question as soon as it serves, and until it does no more."""

    class Link:
        owner = "web-1"
        answers: ClassVar[list[bytes]] = []

        @asynccontextmanager
        async def serve(self, _destination, handler):
            self.answers.append(await handler(None))
            yield
            self.answers.append(await handler(None))

    @asynccontextmanager
    async def link_of(_own):
        yield Link()

    replicas = Replicas(Correlator(), link_of)
    async with replicas.linked():
        assert replicas.owner == "web-1"
    assert [json.loads(answer)["owner"] for answer in Link.answers] == ["web-1"] * 2
    assert replicas.owner is None


# -- the inspection, without a server --------------------------------------------------------------


@pytest.mark.virtual_time
async def test_percentiles_are_within_a_bucket_of_the_truth(correlator):
    inspection = Inspection(correlator)
    inspection.open()
    for number in range(100):
        pending = correlator.register()
        await elapse(0.001 * (number + 1))
        correlator.resolve(pending.request_id, 1)
    latency = inspection.snapshot()["latency"]
    inspection.close()
    assert latency["count"] == 100
    assert latency["p50"] == pytest.approx(0.050, rel=0.05)
    assert latency["p90"] == pytest.approx(0.090, rel=0.05)
    assert latency["p99"] == pytest.approx(0.099, rel=0.05)
    assert latency["max"] == pytest.approx(0.100, rel=0.05)


@pytest.mark.virtual_time
async def test_percentiles_are_of_the_last_ten_to_twenty_seconds(correlator):
    inspection = Inspection(correlator)
    inspection.open()
    with correlator.register() as pending:
        correlator.resolve(pending.request_id, 1)
    counts = []
    for _ in range(4):
        await elapse(5.0)
        counts.append(inspection.snapshot()["latency"]["count"])
    assert counts == [1, 1, 1, 0]
    assert inspection.snapshot()["latency"]["max"] is None
    with correlator.register() as pending:
        correlator.resolve(pending.request_id, 1)
    await elapse(25.0)  # nobody asked meanwhile
    assert inspection.snapshot()["latency"]["count"] == 0
    inspection.close()


async def test_nothing_is_recorded_while_nobody_looks(correlator):
    inspection = Inspection(correlator)
    assert not correlator._observers
    inspection.open()
    inspection.open()
    assert correlator._observers == (inspection,)
    inspection.close()
    assert correlator._observers == (inspection,)
    correlator.register("a")
    for _ in range(2):
        correlator.resolve("a", 1)
    with pytest.raises(DuplicateRequest):
        correlator.register("a")
    inspection.close()
    assert not correlator._observers
    inspection.open()
    seen = inspection.snapshot()
    assert (seen["unmatched"], seen["refusals"], seen["latency"]["count"]) == ([], {}, 0)
    inspection.close()


async def test_what_is_told_is_bounded(correlator):
    inspection = Inspection(correlator)
    inspection.open()
    group = correlator.group("g" * 5_000)
    for number in range(200):
        group.register(("a tuple", number), label=f"label {number}")
        correlator.resolve("x" * 5_000 + str(number), 1)
    seen = inspection.snapshot()
    assert (len(seen["oldest"]), len(seen["labels"]), len(seen["unmatched"])) == (20, 50, 50)
    assert len(json.dumps(seen)) < 50_000
    inspection.close()
    await correlator.aclose()
