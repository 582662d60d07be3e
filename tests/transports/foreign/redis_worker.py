"""A worker in plain redis-py: it knows nothing of us, only what stands in the wire format.

Usage: ``python redis_worker.py URL DESTINATION``. It answers with the body in upper case, or with
an error to the body ``fail``, and prints the id of each that it has answered.
"""

from __future__ import annotations

import contextlib
import sys

import redis


def main(url: str, destination: str) -> None:
    client = redis.Redis.from_url(url, protocol=2)
    while True:
        try:
            begin(client, destination)
            while True:
                answer(client, destination)
        except redis.ConnectionError:
            continue


def begin(client: redis.Redis, destination: str) -> None:
    with contextlib.suppress(redis.ResponseError):  # the group is there already
        client.xgroup_create(destination, "workers", id="0", mkstream=True)


def answer(client: redis.Redis, destination: str) -> None:
    streams = client.xreadgroup("workers", "foreign", {destination: ">"}, count=50, block=1000)
    for entry_id, request in streams[0][1] if streams else []:
        reply = {"id": request[b"id"], "body": request[b"body"].upper(), "h:Id": request[b"id"]}
        if request[b"body"] == b"fail":
            reply |= {"h:Correlator-Error": "Refused", "h:Correlator-Error-Code": "422"}
        if client.xadd(request[b"reply_to"], reply, nomkstream=True) is not None:
            print(request[b"id"].decode(), flush=True)  # noqa: T201  # how many were answered
        client.xack(destination, "workers", entry_id)
        client.xdel(destination, entry_id)


if __name__ == "__main__":
    main(*sys.argv[1:])
