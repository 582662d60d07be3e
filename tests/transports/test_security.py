"""What others cannot do, and what nobody gets to see."""

from __future__ import annotations

import ast
import asyncio
import logging
import pickle
from pathlib import Path

import pytest
from nats.aio.client import Client
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from correlator import Correlator, NoResponder, RequestRejected, RequestTimeout
from correlator.transports import Message, connect, reply_store

from ..conftest import balanced
from .faults import through
from .proxy import Proxy
from .servers import RabbitmqUser

PACKAGE = Path(__file__).parents[2] / "correlator"
PATIENCE = 20.0
SECRET = "canary-5f2b"  # noqa: S105  # one that is looked for, and opens nothing

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])


async def echo(message):
    return message.body


async def asked(url, name="security-echo", **options):
    """Ask over a link with that URL, and return the answer."""
    async with (
        Correlator(timeout=PATIENCE) as correlator,
        connect(url, correlator, **options) as transport,
        transport.serve(name, echo),
    ):
        return (await transport.request(name, b"hello")).body


def as_user(url, user, password):
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{user}:{password}@{rest.rpartition('@')[2]}"


# -- a foreign inbox cannot be read --------------------------------------------------------------

NATS_USERS = """
authorization {
  users = [
    {user: one, password: one, permissions: {
      subscribe: ["_INBOX.one.>", "security-echo"], publish: ["_INBOX.>", "security-echo"]}}
    {user: two, password: two, permissions: {
      subscribe: ["_INBOX.two.>", "security-echo"], publish: ["_INBOX.>", "security-echo"]}}
  ]
}
"""


async def test_on_nats_a_replica_cannot_subscribe_to_anothers_replies(start_nats_server):
    server = start_nats_server(config=NATS_USERS)
    assert await asked(as_user(server.url, "one", "one"), replica="one") == b"hello"
    refused = asyncio.Event()

    async def on_error(error):
        if "permissions violation" in str(error).lower():
            refused.set()

    client = Client()
    await client.connect(as_user(server.url, "two", "two"), error_cb=on_error)
    await client.subscribe("_INBOX.one.>")
    await asyncio.wait_for(refused.wait(), PATIENCE)
    await client.close()
    # Nor can a replica that calls itself by another's name.
    async with Correlator() as correlator:
        with pytest.raises(ConnectionError):
            await connect(as_user(server.url, "two", "two"), correlator, replica="one").__aenter__()


async def test_on_redis_a_replica_can_write_to_anothers_replies_and_not_read_them(
    start_valkey_server,
):
    def user(name):
        return (
            f"user {name} on >{name} %RW~correlator:replies:{name}-* %W~correlator:replies:* "
            f"~security-echo* -@all +@connection +@stream +time +expire +pexpire +del +exists +info"
        )

    server = start_valkey_server(users=[user("one"), user("two")])
    one_url, two_url = (as_user(server.url, name, name) for name in ("one", "two"))
    assert await asked(one_url, replica="one") == b"hello"
    async with (
        Correlator(timeout=PATIENCE) as correlator,
        Correlator(timeout=PATIENCE) as others,
        connect(one_url, correlator, replica="one") as one,
        connect(two_url, others, replica="two") as two,
        Redis.from_url(two_url.replace("valkey", "redis")) as client,
    ):
        key = f"correlator:replies:{one.owner}"
        with pytest.raises(NoPermissionError):
            await client.xread({key: "0"})
        with correlator.register() as pending:
            assert await two.forward(one.owner, pending.request_id, Message(b"forwarded"))
            assert (await pending).body == b"forwarded"


async def test_on_rabbitmq_a_replica_cannot_take_anothers_replies(start_rabbitmq_server):
    def user(name):
        own = rf"^(correlator\.replies\.{name}-.*|security-echo)$"
        return RabbitmqUser(name, name, configure=own, write=r"^(amq\.default|)$", read=own)

    server = start_rabbitmq_server(users=[user("one"), user("two")])
    one_url, two_url = (as_user(server.url, name, name) for name in ("one", "two"))
    assert await asked(one_url, replica="one") == b"hello"
    async with Correlator() as correlator:
        with pytest.raises(ConnectionError):
            await connect(two_url, correlator, replica="one").__aenter__()


# -- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(params=["nats", "rabbitmq", "valkey"])
async def over_tls(request, certificates):
    """The URL of a broker that speaks TLS with a certificate of a private authority."""
    if request.param != "valkey":
        yield request.getfixturevalue(f"start_{request.param}_server")(tls=certificates).url
        return
    server = request.getfixturevalue("valkey_server")  # it has none of its own
    async with Proxy(server.port, ssl=certificates.server()) as proxy:
        yield through(proxy, server).replace("valkey:", "valkeys:")


async def test_tls_with_a_private_authority_works(over_tls, certificates):
    assert await asked(over_tls, ssl=certificates.client()) == b"hello"


async def test_a_certificate_of_another_authority_is_refused(over_tls, other_certificates):
    async with Correlator() as correlator:
        with pytest.raises(ConnectionError):
            await connect(over_tls, correlator, ssl=other_certificates.client()).__aenter__()
        with pytest.raises(ConnectionError):
            await connect(over_tls, correlator).__aenter__()
        assert balanced(correlator).registered == 0


async def test_a_server_that_offers_no_tls_gets_no_password():
    """Whoever is in the way can say so for it."""
    seen = []

    async def pretend(reader, writer):
        writer.write(b'INFO {"server_id":"x","version":"2.11.0","max_payload":1048576}\r\n')
        seen.append(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(pretend, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"tls://teller:{SECRET}@127.0.0.1:{port}"
    async with server, Correlator() as correlator:
        with pytest.raises(ConnectionError, match="no TLS"):
            await connect(url, correlator).__aenter__()
        with pytest.raises(ConnectionError, match="no TLS"):
            async with reply_store(url):
                pass
        async with asyncio.timeout(PATIENCE):
            while len(seen) < 2:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)  # really: until the connections have gone
    assert SECRET.encode() not in b"".join(seen)


@pytest.mark.parametrize("scheme", ["nats", "redis", "amqp"])
async def test_a_context_for_a_link_that_is_not_secret_is_refused(scheme, certificates):
    async with Correlator() as correlator:
        with pytest.raises(ValueError, match="ssl"):
            connect(f"{scheme}://127.0.0.1", correlator, ssl=certificates.client())


@pytest.mark.parametrize("scheme", ["tls", "valkeys", "amqps"])
async def test_a_context_that_is_none_is_refused(scheme):
    async with Correlator() as correlator:
        with pytest.raises(TypeError, match="ssl"):
            connect(f"{scheme}://127.0.0.1", correlator, ssl="yes")


# -- no secret is seen ---------------------------------------------------------------------------


@pytest.fixture(params=["nats", "valkey", "rabbitmq"])
def guarded(request):
    """A broker with a user whose password is the canary."""
    start = request.getfixturevalue(f"start_{request.param}_server")
    if request.param == "nats":
        return start(config=f"authorization {{ users = [{{user: teller, password: {SECRET}}}] }}")
    if request.param == "valkey":
        return start(users=[f"user teller on >{SECRET} ~* &* +@all"])
    return start(users=[RabbitmqUser("teller", SECRET)])


async def test_no_secret_is_in_any_line_that_is_logged_or_raised(guarded, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    seen = []
    async with Proxy(guarded.port) as proxy:
        url = as_user(through(proxy, guarded), "teller", SECRET)
        async with (
            Correlator(timeout=2.0) as correlator,
            connect(url, correlator) as transport,
            transport.serve("canary-echo", echo),
        ):
            payload = f"payload {SECRET}".encode()
            headers = {"Authorization": SECRET}
            await transport.request("canary-echo", payload, headers=headers)
            proxy.cut()
            with pytest.raises((RequestTimeout, NoResponder, RequestRejected)) as caught:
                await transport.request("canary-nobody", payload, headers=headers, timeout=0.5)
            seen += [repr(transport), str(transport.stats()), repr(caught.value)]
            proxy.refuse()
            proxy.cut()
            await asyncio.sleep(0.3)  # really: so that it tries to come back and fails
            proxy.accept()
            async with asyncio.timeout(PATIENCE):
                while not transport.stats().connected:  # noqa: ASYNC110  # no event tells
                    await asyncio.sleep(0.05)
        wrong = as_user(through(proxy, guarded), "teller", f"{SECRET}-wrong")
        async with Correlator() as correlator:
            with pytest.raises(ConnectionError) as refused:
                await connect(wrong, correlator).__aenter__()
            chain = refused.value
            while chain is not None:
                seen += [str(chain), repr(chain)]
                context = None if chain.__suppress_context__ else chain.__context__
                chain = chain.__cause__ or context
    ours = [record for record in caplog.records if record.name.startswith("correlator")]
    seen += [record.getMessage() for record in ours] + [str(record.exc_info) for record in ours]
    seen += [capfd.readouterr().err]
    assert SECRET not in "\n".join(seen)


# -- nothing is unpickled ------------------------------------------------------------------------


async def test_no_module_can_unpickle_or_evaluate_anything():
    bad = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}
    modules = list(PACKAGE.rglob("*.py"))
    assert len(modules) > 30
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Import):
                assert not {each.name.split(".")[0] for each in node.names} & bad, module
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in bad, module
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile"), module


class Bomb:
    """Made anew from a pickle, it would tell."""

    went_off = False

    def __reduce__(self):
        return setattr, (Bomb, "went_off", True)


@pytest.mark.parametrize("content_type", ["application/python-pickle", "application/x-python"])
async def test_a_pickle_is_but_bytes(nats_server, content_type):
    payload = pickle.dumps(Bomb())

    async def answer(message):
        assert message.body == payload
        return Message(payload, content_type=content_type)

    async with (
        Correlator(timeout=PATIENCE) as correlator,
        connect(nats_server.url, correlator) as transport,
        transport.serve("security-pickle", answer),
    ):
        reply = await transport.request("security-pickle", payload, content_type=content_type)
    assert reply.body == payload
    assert not Bomb.went_off
