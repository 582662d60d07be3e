"""Request ids: unguessable where they are ours, checked where they come from outside."""

import subprocess
import sys
import threading

import pytest

from correlator import Correlator, current_request_id, is_valid_request_id, new_request_id
from correlator import request_scope as scope


def test_an_id_is_128_random_bits_in_hexadecimal():
    ids = [new_request_id() for _ in range(2_000)]
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 32 and set(one) <= set("0123456789abcdef") for one in ids)
    assert all(map(is_valid_request_id, ids))
    for place in range(32):
        assert len({one[place] for one in ids}) == 16, "every digit varies"


def test_ids_made_in_several_threads_are_all_different():
    ids = []

    def make():
        ids.extend([new_request_id() for _ in range(2_000)])

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == len(ids) == 8_000


def test_a_forked_child_does_not_make_its_parents_ids():
    """In a process of its own, since this one may have threads, which do not survive a fork."""
    code = """if True:
        import os
        from correlator import new_request_id
        new_request_id()
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, new_request_id().encode())
            os._exit(0)
        theirs = os.read(read, 64).decode()
        ours = {new_request_id() for _ in range(1_000)}
        print(len(theirs) == 32 and theirs not in ours)
    """
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize("value", ["a", "0", "a.b_c-D9", "-", ".", "x" * 128])
def test_a_plain_id_from_outside_is_valid(value):
    assert is_valid_request_id(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x" * 129,
        "x" * 8_192,
        "a b",
        " a",
        "a\n",
        "a\r\nSet-Cookie: x",
        "a\x00",
        "a\u2028b",
        "٤٢",  # Arabic digits
        "é",
        "urn:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        "{6ba7b810}",
        "a/b",
        "a%0a",
        "ａ",  # a full-width letter
        b"a",
        None,
        5,
        ["a"],
        True,
    ],
    ids=ascii,
)
def test_anything_else_from_outside_is_not(value):
    assert not is_valid_request_id(value)


async def test_keys_from_outside_never_pair():
    """A thousand clients send the same id; each request has a key of its own (law 20)."""
    async with Correlator() as correlator:
        pendings = []
        for _ in range(1_000):
            with scope("0"):
                assert current_request_id() == "0"
                pendings.append(correlator.register())
        assert "0" not in correlator
        assert len({pending.request_id for pending in pendings}) == 1_000
        for number, pending in enumerate(pendings):
            correlator.resolve(pending.request_id, number)
        assert [await pending for pending in pendings] == list(range(1_000))
