"""Resolving from a thread, as blocking client libraries need it.

Run: python -m examples.from_thread
"""

from __future__ import annotations

import asyncio
import queue
import threading

from correlator import Correlator, Disposition


def blocking_client(
    correlator: Correlator[str, str], requests: queue.Queue[tuple[str, str] | None]
) -> None:
    """Answer requests as a blocking library would: in a thread of its own."""
    while (request := requests.get()) is not None:
        request_id, text = request
        answered = correlator.resolve_threadsafe(request_id, text.upper())
        # The future tells what became of the reply. Wait for it here, never on the loop's thread.
        disposition = answered.result(timeout=5)
        assert disposition is Disposition.MATCHED


async def main() -> None:
    """Ask a thread for three words in capitals."""
    requests: queue.Queue[tuple[str, str] | None] = queue.Queue()
    async with Correlator[str, str](timeout=2.0) as correlator:
        thread = threading.Thread(target=blocking_client, args=(correlator, requests))
        thread.start()
        try:
            for word in ("ship", "pay", "refund"):
                with correlator.register() as pending:
                    requests.put((pending.request_id, word))
                    print(f"{word} -> {await pending}, {pending.outcome} by the thread")
        finally:
            requests.put(None)
            await asyncio.to_thread(thread.join)


if __name__ == "__main__":
    asyncio.run(main())
