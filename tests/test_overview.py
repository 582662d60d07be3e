"""What there is to see: labels, origins, the oldest, and observers that come and go."""

import asyncio
import logging

import pytest

from correlator import CapacityExceeded, Correlator, LabelStats, RequestTimeout

from .clock import elapse, turns
from .conftest import Recorder, balanced

virtual_time = pytest.mark.virtual_time


# -- labels ------------------------------------------------------------------------------------


@virtual_time
async def test_each_end_is_counted_under_its_label(correlator):
    group = correlator.group("g")
    with pytest.raises(RequestTimeout):
        await correlator.correlate(timeout=1.0, label="bank")
    correlator.register("a", label="bank")
    correlator.resolve("a", 1)
    correlator.register("b", label="bank")
    correlator.reject("b", ValueError())
    correlator.register("c", label="bank").cancel()
    pending = group.register("d", label="bank")
    group.close()
    assert pending.label == "bank"
    correlator.register("e", label="post")
    correlator.register("f")
    assert correlator.stats_by_label() == {
        "post": LabelStats(1, 0, 0, 0, 0, 0, pending=1),
        "bank": LabelStats(5, 1, 1, 1, 1, 1, pending=0),
    }
    assert list(correlator.stats_by_label()) == ["post", "bank"]
    assert [info.label for info in correlator.pending()] == ["post", None]
    correlator.resolve("e", 1)
    correlator.resolve("f", 1)


async def test_a_refused_request_is_counted_under_no_label():
    async with Correlator(max_pending=1) as correlator:
        with correlator.register("a", label="x"), pytest.raises(CapacityExceeded):
            correlator.register("b", label="y")
        assert list(correlator.stats_by_label()) == ["x"]


async def test_who_waited_for_a_place_keeps_his_label_and_origin():
    async def asks():
        return await correlator.correlate("b", label="patient")

    async with Correlator(max_pending=1, when_full="wait", track_origin=True) as correlator:
        first = correlator.register("a")
        waiting = asyncio.ensure_future(asks())
        await turns(2)
        first.cancel()
        (info,) = correlator.pending()
        assert info.label == "patient"
        assert (
            info.origin == f"{__file__}:{asks.__code__.co_firstlineno + 1} in {asks.__qualname__}"
        )
        correlator.resolve("b", "x")
        assert await waiting == "x"
        assert correlator.stats_by_label()["patient"].resolved == 1


async def test_labels_without_end_go_together():
    """A label that is an id must not become the leak that this library is against."""
    async with Correlator() as correlator:
        for number in range(3_000):
            correlator.register(number, label=f"id {number}").cancel()
        with correlator.register("one more", label="id 2999"):
            labels = correlator.stats_by_label()
            assert len(labels) == 1_001
            assert labels["(other)"] == LabelStats(2_001, 0, 0, 0, 2_000, 0, pending=1)
            assert labels["id 0"].cancelled == 1


@pytest.mark.parametrize("label", ["", "a\nb", "x" * 256, "\u2028"])
async def test_what_is_no_label_is_refused(correlator, label):
    with pytest.raises(ValueError, match="label must be 1 to 255 printable characters"):
        correlator.register(label=label)
    with pytest.raises(TypeError, match="label must be a string, not 7"):
        await correlator.correlate(label=7)
    assert balanced(correlator).registered == 0


# -- origins -----------------------------------------------------------------------------------


async def registers(correlator):
    return correlator.register()


async def test_a_pending_knows_the_line_that_registered_it():
    async with Correlator(track_origin=True) as correlator:
        with await registers(correlator) as pending:
            line = registers.__code__.co_firstlineno + 1
            assert pending.origin == f"{__file__}:{line} in registers"
            assert correlator.pending()[0].origin == pending.origin


async def test_it_is_the_line_that_awaits_correlate_and_not_one_of_ours():
    async def asks():
        await correlator.group("g").correlate("a", send=send)

    async def send(_request_id):
        (info,) = correlator.pending()
        line = asks.__code__.co_firstlineno + 1
        assert info.origin == f"{__file__}:{line} in {asks.__qualname__}"
        correlator.resolve("a", None)

    async with Correlator(track_origin=True) as correlator:
        await asks()


async def test_where_correlate_is_the_task_itself_there_is_no_line_to_blame():
    """Not the one that runs the loop, which would be the same for all."""
    async with Correlator(track_origin=True) as correlator:
        task = asyncio.create_task(correlator.correlate())
        await turns(2)
        assert [info.origin for info in correlator.pending()] == [None]
        task.cancel()
        await turns(2)


async def test_code_without_a_name_can_register():
    async with Correlator(track_origin=True) as correlator:
        code = compile("pending = correlator.register()", "made up", "exec")
        exec(code, space := {"__name__": None, "correlator": correlator})  # noqa: S102  # our own
        assert space["pending"].origin == "made up:1 in <module>"
        space["pending"].cancel()
        balanced(correlator)


@pytest.mark.parametrize("track_origin", [False, 0.0])
async def test_untracked_there_is_none(track_origin):
    async with Correlator(track_origin=track_origin) as correlator:
        with correlator.register() as pending:
            assert pending.origin is None
            assert correlator.pending()[0].origin is None


async def test_a_share_of_them_is_tracked():
    async with Correlator(track_origin=0.25, max_pending=2_000) as correlator:
        for _ in range(2_000):
            correlator.register()
        tracked = sum(info.origin is not None for info in correlator.pending())
        assert 350 < tracked < 650


def test_what_is_no_share_is_refused():
    for value in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="track_origin must be from 0 to 1"):
            Correlator(track_origin=value)
    with pytest.raises(TypeError, match="track_origin must be a bool or a number"):
        Correlator(track_origin="on")


# -- the oldest --------------------------------------------------------------------------------


@virtual_time
async def test_the_oldest_is_named_when_it_is_too_old(caplog):
    async with Correlator(
        timeout=100.0, warn_after=10.0, track_origin=True, name="orders"
    ) as correlator:
        with correlator.register("order-42", label="bank", context="canary"):
            await elapse(1.0)
            with correlator.register("order-43"):
                await elapse(8.9)
                assert not caplog.records
                await elapse(0.2)
                (record,) = caplog.records
                assert record.levelno == logging.WARNING
                assert record.getMessage().startswith(
                    "the oldest of 2 pending of correlator 'orders' is 10 s old: 'order-42', "
                    "labelled 'bank', registered at "
                )
                assert "canary" not in caplog.text
                await elapse(10.0)
                assert len(caplog.records) == 2  # once in a while
        with correlator.register():
            await elapse(9.8)
        await elapse(30.0)
        assert len(caplog.records) == 2


@virtual_time
async def test_whoever_is_the_next_oldest_is_warned_of_in_time(caplog):
    async with Correlator(timeout=100.0, warn_after=10.0) as correlator:
        first = correlator.register("a")
        await elapse(9.0)
        with correlator.register("b"):
            first.cancel()
            await elapse(9.9)
            assert not caplog.records
            await elapse(0.2)
            assert "'b'" in caplog.text


@virtual_time
async def test_nobody_is_warned_of_before_his_time(caplog):
    async with Correlator(timeout=20_000.0, warn_after=3_600.0) as correlator:
        correlator.register("a").cancel()
        await elapse(30.0)
        with correlator.register("b"):
            await elapse(3_580.0)  # the timer of the first has rung
            assert not caplog.records
            await elapse(25.0)
            assert len(caplog.records) == 1


@virtual_time
async def test_a_log_that_fails_does_not_end_the_watch(caplog, monkeypatch):
    def fail(*_args):
        raise OSError("the disk is full")

    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    async with Correlator(timeout=100.0, warn_after=10.0) as correlator:
        with correlator.register("a"):
            with monkeypatch.context() as patch:
                patch.setattr(logging.getLogger("correlator"), "warning", fail)
                await elapse(11.0)
            await elapse(10.0)
            assert "is 20 s old" in caplog.text


@virtual_time
async def test_with_nothing_pending_the_watch_does_not_wake(caplog):
    loop = asyncio.get_running_loop()
    async with Correlator(warn_after=10.0) as correlator:
        correlator.register("a").cancel()
        await elapse(11.0)
        before = loop.leaps
        await elapse(1_000.0)
        assert loop.leaps == before + 1
        correlator.register("b")
    assert not [handle for handle in loop._scheduled if not handle.cancelled()]
    assert not caplog.records


def test_what_is_no_time_to_warn_after_is_refused():
    with pytest.raises(ValueError, match="warn_after must be above 0"):
        Correlator(warn_after=0)


# -- observers that come and go ------------------------------------------------------------------


async def test_an_observer_may_come_and_go(correlator):
    recorder, other = Recorder(), Recorder()
    correlator.register("a")
    correlator.add_observer(recorder)
    correlator.add_observer(other)
    correlator.resolve("a", 1)
    correlator.remove_observer(recorder)
    correlator.remove_observer(recorder)
    correlator.resolve("b", 1)
    assert recorder.events == [("resolved", "a")]
    assert other.events == [("resolved", "a"), ("unknown", "b")]
    with pytest.raises(TypeError, match="observer must have a method registered"):
        correlator.add_observer(object())


async def test_an_observer_that_wants_to_know_is_told_what_it_was_added_to(correlator, caplog):
    class Curious(Recorder):
        def attached(self, correlator):
            self.events.append(correlator)
            raise LookupError("canary")

    correlator.add_observer(curious := Curious())
    correlator.register("a")
    correlator.resolve("a", 1)
    assert curious.events == [correlator, ("registered", "a"), ("resolved", "a")]
    assert "observer Curious raised LookupError in attached" in caplog.text
    assert "canary" not in caplog.text


async def test_who_is_given_at_the_start_is_attached_too_and_who_is_removed_is_detached():
    class Curious(Recorder):
        def attached(self, correlator):
            self.events.append(("attached", correlator.name))

        def detached(self, correlator):
            self.events.append(("detached", correlator.name))

    curious = Curious()
    correlator = Correlator(observers=[curious], name="orders")
    correlator.remove_observer(curious)
    correlator.remove_observer(curious)
    assert curious.events == [("attached", "orders"), ("detached", "orders")]


async def test_a_pending_tells_its_correlator(correlator):
    with correlator.register() as pending:
        assert pending.correlator is correlator
