"""CallbackTokens: signed, expiring names for pendings, to be put into callback URLs.

A token is ``v1.<owner>.<id>.<expiry>.<mac>``: the owner, which is empty where there is but one
replica; the id in base64url; the expiry in whole seconds since the epoch; and an HMAC-SHA256
(RFC 2104) over all that stands before it, in base64url too.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import math
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .checks import check_callable, check_owner, check_seconds

__all__ = ["CallbackTokens", "VerifiedToken"]

_VERSION = "v1"
_MIN_KEY = 16  # bytes, our least; RFC 2104 section 3 advises as many as the hash has, 32
_MAX_ID = 512  # characters of an encoded id
_TOKEN = re.compile(
    rf"({_VERSION}\.([A-Za-z0-9_-]{{0,64}})"
    rf"\.([A-Za-z0-9_-]{{1,{_MAX_ID}}})\.([0-9]{{1,12}}))\.([A-Za-z0-9_-]{{43}})"
)


class VerifiedToken(NamedTuple):
    """What a token says that is ours and has not expired.

    Attributes:
        request_id: the id of the pending.
        owner: the replica that holds it, or None where the token names none.
    """

    request_id: str
    owner: str | None


class CallbackTokens:
    """Makes and checks tokens.

    Keys rotate: put the new one first, keep the old ones until what they signed has expired.

    Args:
        keys: the secrets, newest first, each at least 16 bytes (text is taken as UTF-8). The
            first signs, all of them are accepted.
        clock: the time in seconds since the epoch.

    Raises:
        ValueError: there is no key, or one is too short.
        TypeError: a key is neither bytes nor text.
    """

    def __init__(
        self, keys: Sequence[bytes | str], *, clock: Callable[[], float] = time.time
    ) -> None:
        if isinstance(keys, bytes | str) or not isinstance(keys, Sequence):
            kind = type(keys).__name__  # not the value: it is a secret
            raise TypeError(f"keys must be a list of keys, newest first, not {kind}")
        if not keys:
            raise ValueError("keys must hold at least one key, not none")
        check_callable("clock", clock)
        self._macs = [
            hmac.new(_key(at, key), b"correlator callback\n", hashlib.sha256)
            for at, key in enumerate(keys)
        ]
        self._clock = clock

    def issue(self, request_id: str, ttl: float, owner: str | None = None) -> str:
        """Return a token for `request_id` that is good for `ttl` seconds.

        Args:
            request_id: the id of a pending.
            ttl: seconds until the token expires.
            owner: the replica that holds the pending, if there are several: `Transport.owner`.

        Raises:
            TypeError: `request_id` or `owner` is not a string.
            ValueError: `request_id` is too long (384 bytes in UTF-8), `ttl` is out of range, or
                `owner` has other than 1 to 64 characters out of ``A-Z a-z 0-9 _ -``.
        """
        if owner is not None:
            check_owner(owner)
        if not isinstance(request_id, str):
            raise TypeError(f"request_id must be a string to go into a token, not {request_id!r}")
        check_seconds("ttl", ttl)
        encoded = _base64url(request_id.encode())
        if not 1 <= len(encoded) <= _MAX_ID:
            raise ValueError(f"request_id must have 1 to 384 bytes, not {len(request_id.encode())}")
        signed = f"{_VERSION}.{owner or ''}.{encoded}.{math.ceil(self._clock() + ttl)}"
        return f"{signed}.{_sign(self._macs[0], signed)}"

    def verify(self, token: str) -> VerifiedToken | None:
        """Return what a token says that is ours and has not expired, else None.

        Takes the same time for every token of the right form, whatever is wrong with it.

        Raises:
            TypeError: `token` is not a string.
        """
        if not isinstance(token, str):
            raise TypeError(f"token must be a string, not {type(token).__name__}")
        form = _TOKEN.fullmatch(token)
        if form is None:
            return None
        signed, owner, encoded, expiry, mac = form.groups()
        # The text of the MAC is compared, not its bytes: two texts can decode to the same bytes.
        # And with every key, so that the time does not tell which one it was.
        good = [hmac.compare_digest(_sign(each, signed), mac) for each in self._macs]
        if not any(good) or int(expiry) <= self._clock():
            return None
        try:
            request_id = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
        except (binascii.Error, UnicodeDecodeError):  # signed by our key, but not by `issue`
            return None
        return VerifiedToken(request_id, owner or None)

    def __repr__(self) -> str:
        return f"<CallbackTokens with {len(self._macs)} keys>"


def _key(at: int, key: bytes | str) -> bytes:
    if not isinstance(key, bytes | str):
        raise TypeError(f"keys[{at}] must be bytes or text, not {type(key).__name__}")
    raw = key.encode() if isinstance(key, str) else key
    if len(raw) < _MIN_KEY:
        raise ValueError(f"keys[{at}] must have at least {_MIN_KEY} bytes, not {len(raw)}")
    return raw


def _sign(keyed: hmac.HMAC, signed: str) -> str:
    mac = keyed.copy()  # the key is worked in already
    mac.update(signed.encode())
    return _base64url(mac.digest())


def _base64url(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
