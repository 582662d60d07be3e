"""An RPC server as RabbitMQ's tutorial six teaches it, in plain pika: it knows nothing of us.

Usage: ``python pika_server.py URL QUEUE``. It answers with the body in upper case.
"""

from __future__ import annotations

import sys

import pika


def main(url: str, queue: str) -> None:
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.queue_declare(queue=queue)
    channel.basic_qos(prefetch_count=1)

    def on_request(channel, method, properties, body):
        channel.basic_publish(
            exchange="",
            routing_key=properties.reply_to,
            properties=pika.BasicProperties(correlation_id=properties.correlation_id),
            body=body.upper(),
        )
        channel.basic_ack(delivery_tag=method.delivery_tag)

    channel.basic_consume(queue=queue, on_message_callback=on_request)
    print("ready", flush=True)  # noqa: T201  # whoever started it waits for this
    channel.start_consuming()


if __name__ == "__main__":
    main(*sys.argv[1:])
