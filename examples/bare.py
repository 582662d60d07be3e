"""The smallest use: ask, and let another task answer.

Run: python -m examples.bare
"""

from __future__ import annotations

import asyncio

from correlator import Correlator, RequestTimeout


async def main() -> None:
    """Ask three questions of a worker that forgets one of them."""
    questions: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    async with Correlator[str, int](timeout=0.5) as correlator, asyncio.TaskGroup() as tasks:

        async def worker() -> None:
            while True:
                request_id, number = await questions.get()
                if number != 2:
                    correlator.resolve(request_id, number * number)

        async def square(number: int) -> int:
            async def send(request_id: str) -> None:
                await questions.put((request_id, number))

            return await correlator.correlate(send=send)

        working = tasks.create_task(worker())
        for number in (1, 2, 3):
            try:
                print(f"{number} squared is {await square(number)}")
            except RequestTimeout as error:
                print(f"{number} squared: {error}")
        working.cancel()
        print(f"left behind: {len(correlator)}")


if __name__ == "__main__":
    asyncio.run(main())
