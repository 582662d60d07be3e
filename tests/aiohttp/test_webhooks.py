"""Callbacks that must carry a Standard Webhooks signature: anything less than a good one is 401."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from standardwebhooks import Webhook

from correlator import Correlator
from correlator.aiohttp import CallbackTokens, callback_route
from correlator.aiohttp.callbacks import _signed

from ..conftest import balanced
from .conftest import KEY, gateway_of

SECRET = "whsec_" + base64.b64encode(b"the webhooks' own secret").decode()
OTHER = "whsec_" + base64.b64encode(b"another webhooks' secret").decode()
BODY = '{"result": "gr\u00fcn"}'


def now() -> datetime:
    return datetime.now(UTC)


def signed(body: str = BODY, *, secret: str = SECRET, at: datetime | None = None, name="msg_1"):
    """The headers of a body that is signed by the book."""
    at = at or now()
    return {
        "webhook-id": name,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(name, at, body),
    }


@pytest.fixture
async def hooked():
    async with gateway_of(webhook=Webhook(SECRET)) as it:
        yield it


async def send(gateway, headers, body: bytes = BODY.encode()):
    """Call back with these headers; return the status, and the reply if it settled."""
    with gateway.correlator.register() as pending:
        url = gateway.callback(pending.request_id)
        async with gateway.session.post(url, data=body, headers=headers) as answer:
            status = answer.status
            text = await answer.text()
        settled = pending.outcome is not None
        assert settled == (status == 204)
        assert settled or "signature is missing or wrong" in text
        return status, (await pending).body if settled else None


async def test_a_good_signature_settles(hooked):
    assert await send(hooked, signed()) == (204, BODY.encode())


async def test_the_names_of_the_headers_may_be_written_in_any_case(hooked):
    headers = {name.title(): value for name, value in signed().items()}
    assert (await send(hooked, headers))[0] == 204


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
async def test_a_header_that_is_missing_twice_or_empty_is_401(hooked, missing):
    headers = signed()
    value = headers.pop(missing)
    assert (await send(hooked, headers))[0] == 401
    assert (await send(hooked, {**headers, missing: ""}))[0] == 401
    twice = CIMultiDict(headers)
    twice.add(missing, value)
    twice.add(missing, value)
    assert (await send(hooked, twice))[0] == 401


@pytest.mark.parametrize("body", [b"", b"{}", BODY.encode() + b" ", BODY.encode()[:-1], b"\xff"])
async def test_a_body_that_was_tampered_with_is_401(hooked, body):
    assert (await send(hooked, signed(), body))[0] == 401


async def test_another_id_or_timestamp_than_was_signed_is_401(hooked):
    headers = signed(at=now() - timedelta(seconds=10))
    later = str(int(headers["webhook-timestamp"]) + 1)
    assert (await send(hooked, {**headers, "webhook-id": "msg_2"}))[0] == 401
    assert (await send(hooked, {**headers, "webhook-timestamp": later}))[0] == 401


async def test_a_signature_by_another_key_is_401(hooked):
    assert (await send(hooked, signed(secret=OTHER)))[0] == 401


@pytest.mark.parametrize(
    ("seconds", "status"), [(-3600, 401), (-302, 401), (-290, 204), (290, 204), (310, 401)]
)
async def test_five_minutes_are_the_tolerance_both_ways(hooked, seconds, status):
    headers = signed(at=now() + timedelta(seconds=seconds))
    assert (await send(hooked, headers))[0] == status


@pytest.mark.parametrize(
    "form",
    [
        "{}.9",
        "{}.0",
        "{}e0",
        "+{}",
        "-{}",
        "{}_0",
        "0x{}",
        " \u00a0{}",
        "inf",
        "nan",
        "",
        "9" * 400,
    ],
)
async def test_a_timestamp_that_is_no_whole_number_is_401(hooked, form):
    headers = signed()
    headers["webhook-timestamp"] = form.format(headers["webhook-timestamp"])
    assert (await send(hooked, headers))[0] == 401


async def test_a_timestamp_in_other_digits_or_with_leading_zeros_is_401(hooked):
    headers = signed()
    timestamp = headers["webhook-timestamp"]
    arabic = timestamp.translate({ord("0") + n: 0x660 + n for n in range(10)})
    assert (await send(hooked, {**headers, "webhook-timestamp": arabic}))[0] == 401
    # What was signed is "<id>.<timestamp>.<body>": with zeros before it, that is another text.
    assert (await send(hooked, {**headers, "webhook-timestamp": f"00{timestamp}"}))[0] == 401


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", bytes(range(256))])
async def test_a_binary_body_with_no_good_signature_is_401(hooked, body):
    assert (await send(hooked, signed(), body))[0] == 401


async def test_a_binary_body_is_401_even_where_its_bytes_are_signed(hooked):
    # The package can only sign text: better to refuse than to read bytes as some text.
    body = b"\xff\xfe\x00"
    headers = signed()
    text = f"msg_1.{headers['webhook-timestamp']}.".encode() + body
    mac = hmac.digest(b"the webhooks' own secret", text, hashlib.sha256)
    headers["webhook-signature"] = "v1," + base64.b64encode(mac).decode()
    assert (await send(hooked, headers, body))[0] == 401


async def test_one_good_signature_of_several_is_enough(hooked):
    good = signed()
    other = signed(secret=OTHER)["webhook-signature"]
    for both in (f"{good['webhook-signature']} {other}", f"{other} {good['webhook-signature']}"):
        assert (await send(hooked, {**good, "webhook-signature": both}))[0] == 204
    asymmetric = f"v1a,{'A' * 86}== {good['webhook-signature']}"
    assert (await send(hooked, {**good, "webhook-signature": asymmetric}))[0] == 204


@pytest.mark.parametrize("version", ["v0", "v2", "v1a", "V1", ""])
async def test_a_good_mac_under_another_version_is_401(hooked, version):
    headers = signed()
    headers["webhook-signature"] = headers["webhook-signature"].replace("v1", version, 1)
    assert (await send(hooked, headers))[0] == 401


async def test_either_of_two_keys_is_taken_and_a_third_is_not():
    async with gateway_of(webhook=[Webhook(OTHER), Webhook(SECRET)]) as gateway:
        assert (await send(gateway, signed()))[0] == 204
        assert (await send(gateway, signed(secret=OTHER)))[0] == 204
        third = "whsec_" + base64.b64encode(b"neither the one nor the other").decode()
        assert (await send(gateway, signed(secret=third)))[0] == 401


def test_an_empty_list_of_keys_is_refused_rather_than_taken_for_no_need_of_a_signature():
    with pytest.raises(ValueError, match="webhook"):
        callback_route(Correlator(), tokens=CallbackTokens([KEY]), webhook=[])


async def test_a_good_signature_with_a_bad_token_is_404_and_the_other_way_round_401(hooked):
    url = hooked.served.url("/callbacks/v1.nonsense")
    async with hooked.session.post(url, data=BODY.encode(), headers=signed()) as answer:
        assert answer.status == 404
    async with hooked.session.post(hooked.callback("unknown"), data=BODY.encode()) as answer:
        assert answer.status == 401


async def test_a_replay_is_told_204_and_has_no_effect(hooked):
    with hooked.correlator.register() as pending:
        url, headers = hooked.callback(pending.request_id), signed()
        for _ in range(3):
            async with hooked.session.post(url, data=BODY.encode(), headers=headers) as answer:
                assert answer.status == 204
        assert (await pending).body == BODY.encode()
    stats = balanced(hooked.correlator)
    assert (stats.resolved, stats.duplicate) == (1, 2)


async def test_a_replay_on_another_request_needs_a_token_for_that_one(hooked):
    with hooked.correlator.register() as one, hooked.correlator.register() as other:
        headers = signed()
        url = hooked.callback(one.request_id)
        async with hooked.session.post(url, data=BODY.encode(), headers=headers):
            pass
        assert other.outcome is None


async def test_without_a_webhook_key_no_signature_is_asked_for(gateway):
    with gateway.correlator.register() as pending:
        async with gateway.session.post(gateway.callback(pending.request_id)) as answer:
            assert answer.status == 204
        assert (await pending).body == b""


@given(
    st.dictionaries(
        st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]),
        st.one_of(
            st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")),
            st.integers(0, 10**12).map(str),
            st.binary(max_size=40).map(lambda raw: f"v1,{base64.b64encode(raw).decode()}"),
            st.text(alphabet="v1, =A\u0661", max_size=30),
            st.just(str(int(now().timestamp()))),
        ),
    ),
    st.binary(max_size=20),
)
def test_headers_of_any_kind_are_no_signature_and_raise_nothing(headers, body):
    assert _signed(Webhook(SECRET), body, CIMultiDict(headers)) is False


async def test_a_route_with_a_key_reads_no_more_of_a_body_than_its_bound():
    async with gateway_of(webhook=Webhook(SECRET), max_body=10) as gateway:
        url = gateway.callback("unknown")
        async with gateway.session.post(url, data=b"x" * 11) as answer:
            assert answer.status == web.HTTPRequestEntityTooLarge.status_code
