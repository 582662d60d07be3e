"""A request that cannot be begun leaves nothing behind."""

import asyncio

import pytest

from correlator import Correlator, Outcome

from .conftest import balanced


class Strikes:
    """An observer in which Ctrl-C strikes."""

    def __init__(self):
        self.ended = []

    def registered(self, pending):
        raise KeyboardInterrupt

    def settled(self, pending):
        self.ended.append(pending.outcome)

    def unmatched(self, request_id, disposition): ...
    def refused(self, error): ...


async def test_ctrl_c_in_an_observer_of_a_registration_leaves_no_entry():
    observer = Strikes()
    async with Correlator(observers=[observer]) as correlator:
        with pytest.raises(KeyboardInterrupt):
            correlator.register("a")
        assert len(correlator) == 0
        assert observer.ended == [Outcome.CANCELLED]
        assert balanced(correlator).cancelled == 1


def test_a_request_on_a_loop_that_is_closed_is_refused_and_leaves_no_entry():
    loop = asyncio.new_event_loop()
    correlator = Correlator()
    loop.run_until_complete(correlator.__aenter__())
    loop.run_until_complete(asyncio.sleep(0))
    correlator._reaper._task.remove_done_callback(correlator._reaper._died)
    correlator._reaper._task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        correlator.register("a")
    assert len(correlator) == 0
    assert correlator.stats().cancelled == 1


async def test_a_send_outside_of_a_task_is_refused_and_leaves_no_entry(correlator):
    async def send(request_id):
        raise AssertionError("nothing is sent")

    failed = asyncio.get_running_loop().create_future()

    def step():
        try:
            correlator.correlate("a", send=send).send(None)
        except RuntimeError as error:
            failed.set_result(str(error))

    asyncio.get_running_loop().call_soon(step)
    assert "must run in a task of the loop" in await failed
    assert balanced(correlator).cancelled == 1
    assert len(correlator) == 0


def test_a_send_in_a_task_of_another_loop_is_refused_and_leaves_no_entry():
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        correlator = Correlator()
        first.run_until_complete(correlator.__aenter__())

        async def send(request_id):
            raise AssertionError("nothing is sent")

        with pytest.raises(RuntimeError, match="must run in a task of the loop"):
            second.run_until_complete(correlator.correlate("a", send=send))
        assert len(correlator) == 0
        first.run_until_complete(correlator.aclose())
    finally:
        first.close()
        second.close()


async def test_a_task_written_in_python_can_be_interrupted(correlator):
    """As debuggers make them: it is no instance of the C implementation's `asyncio.Task`."""

    async def send(request_id):
        correlator.resolve(request_id, "reply")
        await asyncio.sleep(0)

    loop = asyncio.get_running_loop()
    task = asyncio.tasks._PyTask(correlator.correlate("a", send=send), loop=loop)
    assert await task == "reply"
    assert balanced(correlator).resolved == 1
