"""`CallbackTokens`: only what one of the keys signed, and only until it expires."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from correlator.aiohttp import CallbackTokens
from correlator.ids import new_request_id

KEY = b"0123456789abcdef"
OTHER = b"fedcba9876543210"
ALPHABET = string.ascii_letters + string.digits + "-_"


class Clock:
    def __init__(self, now: float = 1_700_000_000.25) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tokens(clock):
    return CallbackTokens([KEY], clock=clock)


def _mac(key: bytes, text: str) -> str:
    digest = hmac.new(key, b"correlator callback\n" + text.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _signed(
    encoded: str, expiry: object, *, version: str = "v1", owner: str = "", key: bytes = KEY
) -> str:
    """A token as somebody who has the key could make it."""
    text = f"{version}.{owner}.{encoded}.{expiry}"
    return f"{text}.{_mac(key, text)}"


def _encoded(request_id: str) -> str:
    return base64.urlsafe_b64encode(request_id.encode()).decode().rstrip("=")


# -- what is ours --------------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=96))
@example("\0")
@example("\u2028\r\n")
@example("../../etc/passwd")
@example("a.b.c")
@example("\U0010ffff" * 96)
def test_any_text_of_up_to_384_bytes_comes_back_out_of_its_token(request_id):
    tokens = CallbackTokens([KEY])
    token = tokens.issue(request_id, 10.0)
    assert set(token) <= set(ALPHABET + "."), "it goes into a URL as it is"
    assert tokens.verify(token).request_id == request_id


def test_an_id_of_384_bytes_fits_and_one_more_does_not(tokens):
    assert tokens.verify(tokens.issue("x" * 384, 1.0)).request_id == "x" * 384
    with pytest.raises(ValueError, match="1 to 384 bytes, not 385"):
        tokens.issue("x" * 385, 1.0)
    with pytest.raises(ValueError, match="1 to 384 bytes, not 0"):
        tokens.issue("", 1.0)


def test_an_id_that_is_no_unicode_is_refused_and_not_signed(tokens):
    with pytest.raises(ValueError):
        tokens.issue("half a pair: \ud800", 1.0)


@pytest.mark.parametrize("request_id", [None, 7, b"bytes", ("a",)])
def test_an_id_that_is_no_text_is_refused(tokens, request_id):
    with pytest.raises(TypeError, match="must be a string"):
        tokens.issue(request_id, 1.0)


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 1e10])
def test_a_time_to_live_out_of_range_is_refused(tokens, ttl):
    with pytest.raises(ValueError, match="ttl"):
        tokens.issue("id", ttl)


def test_a_token_is_good_for_its_time_to_live_and_less_than_a_second_longer(tokens, clock):
    token = tokens.issue("id", 10.0)
    clock.now += 10.0
    assert tokens.verify(token).request_id == "id"
    clock.now += 0.75
    assert tokens.verify(token) is None


def test_the_same_id_at_the_same_time_gives_the_same_token(tokens):
    assert tokens.issue("id", 1.0) == tokens.issue("id", 1.0)


# -- owners --------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["a", "replica-0123abcd", "A_z-9" * 12 + "abcd"])
def test_the_owner_comes_back_out_of_its_token(tokens, owner):
    assert tokens.verify(tokens.issue("id", 9.0, owner)) == ("id", owner)
    assert tokens.verify(tokens.issue("id", 9.0)) == ("id", None)


@pytest.mark.parametrize("owner", ["", "a.b", "a/b", "a*", "a b", "a\n", "x" * 65, "\u0661"])
def test_an_owner_that_could_be_another_address_is_refused_and_not_signed(tokens, owner):
    with pytest.raises(ValueError, match="owner"):
        tokens.issue("id", 9.0, owner)
    if owner:  # none at all is a token without one
        assert tokens.verify(_signed("aWQ", 9_999_999_999, owner=owner)) is None


@pytest.mark.parametrize("owner", [7, b"a", ("a",)])
def test_an_owner_that_is_no_text_is_refused(tokens, owner):
    with pytest.raises(TypeError, match="owner"):
        tokens.issue("id", 9.0, owner)


def test_a_token_of_one_owner_is_none_of_another(tokens):
    one, other = tokens.issue("id", 60.0, "one"), tokens.issue("id", 60.0, "two")
    assert tokens.verify(one.replace(".one.", ".two.")) is None
    assert tokens.verify(one.replace(".one.", "..")) is None
    assert tokens.verify(other) == ("id", "two")


# -- keys ----------------------------------------------------------------------------------------


def test_the_newest_key_signs_and_older_ones_are_still_taken(clock):
    old = CallbackTokens([KEY], clock=clock)
    both = CallbackTokens([OTHER, KEY], clock=clock)
    new = CallbackTokens([OTHER], clock=clock)
    assert both.verify(old.issue("id", 9.0)).request_id == "id"
    assert new.verify(both.issue("id", 9.0)).request_id == "id"
    assert old.verify(both.issue("id", 9.0)) is None
    assert new.verify(old.issue("id", 9.0)) is None, "a key that was removed is taken no more"


def test_a_key_may_be_text_or_bytes():
    token = CallbackTokens(["schl\u00fcssel, lang genug"]).issue("id", 9.0)
    assert CallbackTokens(["schl\u00fcssel, lang genug".encode()]).verify(token).request_id == "id"


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ([], ValueError),
        ([b"x" * 15], ValueError),
        ([KEY, "short"], ValueError),
        ([None], TypeError),
        ([bytearray(KEY)], TypeError),
        (KEY, TypeError),
        (KEY.decode(), TypeError),
    ],
)
def test_keys_that_are_none_are_refused_without_being_shown(keys, error):
    with pytest.raises(error) as failure:
        CallbackTokens(keys)
    assert "keys" in str(failure.value)
    assert "short" not in str(failure.value).replace("too short", "")
    assert KEY.decode() not in str(failure.value)


def test_a_change_to_the_list_of_keys_afterwards_changes_nothing(clock):
    keys = [KEY]
    tokens = CallbackTokens(keys, clock=clock)
    keys[0] = OTHER
    assert CallbackTokens([KEY], clock=clock).verify(tokens.issue("id", 9.0)).request_id == "id"


def test_the_repr_shows_how_many_keys_there_are_and_none_of_them(tokens):
    assert repr(CallbackTokens([KEY, OTHER])) == "<CallbackTokens with 2 keys>"


# -- what is not ours ----------------------------------------------------------------------------


def test_a_token_with_any_one_character_changed_is_refused(tokens):
    token = tokens.issue(new_request_id(), 60.0)
    for at, was in enumerate(token):
        for other in {"A", "B", "0", "1", ".", "=", was.swapcase()} - {was}:
            assert tokens.verify(token[:at] + other + token[at + 1 :]) is None


@given(st.data())
def test_a_token_cut_stretched_or_spliced_is_refused(data):
    tokens = CallbackTokens([KEY])
    token = tokens.issue("one id", 60.0)
    start = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(start, len(token)))
    changed = token[:start] + data.draw(st.text(max_size=4)) + token[end:]
    assert tokens.verify(changed) == (("one id", None) if changed == token else None)


def test_parts_of_two_tokens_make_no_third(tokens):
    one, two = tokens.issue("one", 60.0).split("."), tokens.issue("two", 90.0).split(".")
    for mask in range(1, 31):
        mixed = [two[at] if mask >> at & 1 else one[at] for at in range(5)]
        if mixed not in (one, two):
            assert tokens.verify(".".join(mixed)) is None


@given(st.text())
@example("")
@example("v1....")
@example("v1..aWQ.9999999999." + "A" * 43)
@example("\ud800")
def test_no_text_is_a_token_by_chance_and_none_raises(text):
    assert CallbackTokens([KEY]).verify(text) is None


@pytest.mark.parametrize(
    ("encoded", "expiry", "version"),
    [
        ("aWQ", 9_999_999_999, "v2"),
        ("aWQ", 9_999_999_999, "V1"),
        ("aWQ", 9_999_999_999, ""),
        ("aWQ", "9999999999.0", "v1"),
        ("aWQ", "9999999999999", "v1"),
        ("aWQ", "-1", "v1"),
        ("aWQ", "1e12", "v1"),
        ("aWQ", "\u0669" * 10, "v1"),
        ("aWQ", "", "v1"),
        ("aWQ=", 9_999_999_999, "v1"),
        ("aW Q", 9_999_999_999, "v1"),
        ("", 9_999_999_999, "v1"),
        ("A" * 513, 9_999_999_999, "v1"),
        ("A", 9_999_999_999, "v1"),  # no base64 has this length
        ("_w", 9_999_999_999, "v1"),  # a byte that is no UTF-8
    ],
)
def test_another_form_is_refused_even_with_a_good_mac(tokens, encoded, expiry, version):
    assert tokens.verify(_signed("aWQ", 9_999_999_999)).request_id == "id"
    assert tokens.verify(_signed(encoded, expiry, version=version)) is None


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\0", " ", ".", "=", "\u2028"])
def test_what_follows_a_token_makes_it_none(tokens, ending):
    token = tokens.issue("id", 60.0)
    assert tokens.verify(token + ending) is None
    assert tokens.verify(ending + token) is None


def test_another_writing_of_the_same_mac_is_refused(tokens):
    token = tokens.issue("id", 60.0)
    # 43 characters hold 258 bits and the MAC has 256: four texts decode to the same bytes.
    decoded = base64.urlsafe_b64decode(token[-43:] + "=")
    same = [
        token[:-1] + letter
        for letter in ALPHABET
        if base64.urlsafe_b64decode(token[-43:-1] + letter + "=") == decoded
    ]
    assert len(same) == 4
    assert [each for each in same if tokens.verify(each)] == [token]


def test_a_mac_of_the_same_key_for_another_purpose_is_refused(tokens):
    token = tokens.issue("id", 60.0)
    signed = token.rpartition(".")[0]
    assert tokens.verify(token).request_id == "id"
    plain = base64.urlsafe_b64encode(hmac.digest(KEY, signed.encode(), hashlib.sha256))
    assert tokens.verify(f"{signed}.{plain.decode().rstrip('=')}") is None


def test_of_a_million_random_tokens_none_is_good(tokens):
    # Every 43 characters that follow each other in a random text are a MAC of random bits.
    text = base64.urlsafe_b64encode(os.urandom(750_075)).decode()
    start = f"v1..{_encoded(new_request_id())}.9999999999."
    verify = tokens.verify
    good = [at for at in range(1_000_000) if verify(start + text[at : at + 43]) is not None]
    assert good == []
    assert verify(start + _mac(KEY, start[:-1])) is not None
