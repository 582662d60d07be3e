"""What the brokers themselves count: messages that came in and went out, and what lies there."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from contextlib import closing

from tests.transports.server import HOST, free_ports
from tests.transports.servers import NatsServer, RabbitmqServer, ValkeyServer

from .broker_peers import WRONG_TYPE
from .broker_responder import SILENT

_PUBLISHES = ("xadd", "publish", "rpush", "lpush")


class Nats(NatsServer):
    def __init__(self, directory):
        (self._monitor,) = free_ports(1)
        super().__init__(directory, config=f'http: "{HOST}:{self._monitor}"')

    def messages(self):
        """Return how many messages came in, and how many went out."""
        found = self._ask("varz")
        return {"in": found["in_msgs"], "out": found["out_msgs"]}

    def lying(self):
        """Return what is left there of requests."""
        return {"subscriptions": self._ask("varz")["subscriptions"]}

    def _ask(self, what):
        with urllib.request.urlopen(f"http://{HOST}:{self._monitor}/{what}") as answer:
            return json.load(answer)


class Valkey(ValkeyServer):
    """Valkey counts commands: those that publish, and all. What is read it does not count."""

    def start(self):
        super().start()
        self._ask(f"SET {WRONG_TYPE} x")

    def messages(self):
        calls = dict(re.findall(r"cmdstat_(\S+?):calls=(\d+)", self._ask("INFO commandstats")))
        published = sum(int(calls.get(name, 0)) for name in _PUBLISHES)
        # `info` is this question.
        commands = sum(int(count) for name, count in calls.items() if name != "info")
        return {"in": published, "commands": commands}

    def lying(self):
        return {
            "in the stream": int(self._ask(f"XLEN {SILENT}")),
            "channels": self._ask("PUBSUB CHANNELS").count("$"),
            "connections": self._ask("CLIENT LIST").count("id=") - 1,
        }

    def _ask(self, command):
        with closing(socket.create_connection((HOST, self.port), 5)) as connection:
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            with connection.makefile("rb") as received:
                answer = received.read().decode().removesuffix("+OK\r\n")
        return answer.removeprefix(":").strip()


class Rabbitmq(RabbitmqServer):
    def messages(self):
        found = self.evaluate("rabbit_global_counters:overview()")

        def count(name):
            return sum(map(int, re.findall(rf"\b{name}_total\s*=>\s*(\d+)", found)))

        return {
            "in": count("messages_received"),
            "out": count("messages_delivered"),
            "confirms": count("messages_confirmed"),
        }

    def lying(self):
        listed = "[rabbit_amqqueue:info(Q, [messages, consumers]) || Q <- rabbit_amqqueue:list()]"
        found = self.evaluate(listed)
        return {
            name: sum(map(int, re.findall(rf"{{{name},(\d+)}}", found)))
            for name in ("messages", "consumers")
        }


SERVERS = {"nats": Nats, "valkey": Valkey, "rabbitmq": Rabbitmq}
