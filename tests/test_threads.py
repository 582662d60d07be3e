"""Replies from other threads, and plain verbs that tell where they belong."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading

import pytest

from correlator import Correlator, CorrelatorClosed, Disposition

from .clock import turns
from .conftest import balanced

# Real threads on real loops. Nothing here sleeps: each waits for what the other does.


async def in_thread(call, *args):
    """Call it in another thread, and return its result or what it raised."""
    try:
        return await asyncio.to_thread(call, *args)
    except Exception as error:
        return error


async def test_another_thread_may_resolve(correlator):
    waiting = asyncio.create_task(correlator.correlate("a"))
    await turns(2)

    def thread():
        future = correlator.resolve_threadsafe("a", "reply")
        assert isinstance(future, concurrent.futures.Future)
        return future.result(timeout=30)

    assert await in_thread(thread) is Disposition.MATCHED
    assert await waiting == "reply"


async def test_another_thread_may_reject(correlator):
    waiting = asyncio.create_task(correlator.correlate("a"))
    await turns(2)

    def thread():
        return correlator.reject_threadsafe("a", LookupError("gone")).result(timeout=30)

    assert await in_thread(thread) is Disposition.MATCHED
    with pytest.raises(LookupError, match="gone"):
        await waiting


async def test_the_future_tells_every_disposition(correlator):
    correlator.register("late").cancel()
    correlator.register("answered")
    correlator.resolve("answered", 1)
    correlator.register("pending")

    def thread():
        for name in ("late", "answered", "pending", "unknown"):
            yield correlator.resolve_threadsafe(name, 1).result(timeout=30)

    assert await in_thread(lambda: list(thread())) == [
        Disposition.LATE,
        Disposition.DUPLICATE,
        Disposition.MATCHED,
        Disposition.UNKNOWN,
    ]


async def test_on_the_loops_own_thread_they_answer_in_the_next_turn(correlator):
    pending = correlator.register("a")
    future = correlator.resolve_threadsafe("a", 1)
    assert not future.done()
    assert pending.outcome is None
    assert await asyncio.wrap_future(future) is Disposition.MATCHED


async def test_a_future_that_is_cancelled_before_its_turn_settles_nothing(correlator):
    with correlator.register("a") as pending:
        assert correlator.resolve_threadsafe("a", 1).cancel()
        await turns(3)
        assert pending.outcome is None


async def test_what_goes_wrong_in_the_loop_stands_in_the_future(correlator):
    error = await in_thread(lambda: correlator.resolve_threadsafe([], 1).exception(timeout=30))
    assert isinstance(error, TypeError)
    assert "request_id must be hashable" in str(error)


async def test_whoever_waits_in_a_thread_hears_also_of_ctrl_c():
    class Struck:
        def settled(self, _):
            raise KeyboardInterrupt

        def registered(self, _): ...
        def unmatched(self, *_): ...
        def refused(self, _): ...

    caught = []

    async def life():
        async with Correlator(observers=[Struck()]) as correlator:
            correlator.register("a")
            caught.append(correlator.resolve_threadsafe("a", 1))
            await asyncio.get_running_loop().create_future()  # for ever

    with pytest.raises(KeyboardInterrupt):
        await asyncio.to_thread(asyncio.run, life())
    assert isinstance(caught[0].exception(timeout=0), KeyboardInterrupt)


async def test_once_the_loop_is_closed_a_thread_is_told_so():
    kept = []

    async def life():
        kept.append(await Correlator(name="kept").__aenter__())

    await asyncio.to_thread(asyncio.run, life())
    with pytest.raises(CorrelatorClosed, match="the event loop of correlator 'kept' was closed"):
        kept[0].resolve_threadsafe("a", 1)


async def test_the_caller_gets_a_bad_error_back_at_once(correlator):
    error = await in_thread(correlator.reject_threadsafe, "a", "no error")
    assert isinstance(error, TypeError)


@pytest.mark.parametrize(
    ("verb", "names"),
    [
        ("resolve", "resolve_threadsafe"),
        ("reject", "reject_threadsafe"),
        ("register", "run_coroutine_threadsafe"),
        ("group", "run_coroutine_threadsafe"),
        ("cancel", "run_coroutine_threadsafe"),
        ("group.register", "run_coroutine_threadsafe"),
        ("group.close", "run_coroutine_threadsafe"),
    ],
)
async def test_a_plain_verb_off_the_thread_names_the_right_one_and_does_nothing(
    correlator, verb, names
):
    group = correlator.group("g")
    pending = group.register("a")
    calls = {
        "resolve": lambda: correlator.resolve("a", 1),
        "reject": lambda: correlator.reject("a", ValueError()),
        "register": correlator.register,
        "group": lambda: correlator.group("h"),
        "cancel": pending.cancel,
        "group.register": group.register,
        "group.close": group.close,
    }
    error = await in_thread(calls[verb])
    assert type(error) is RuntimeError
    assert names in str(error)
    assert "another thread" in str(error)
    assert pending.outcome is None
    assert not group.closed
    assert len(correlator) == 1
    pending.cancel()


@pytest.mark.parametrize("verb", ["correlate", "drain", "aclose", "await", "group.correlate"])
async def test_a_coroutine_off_the_thread_says_so_and_does_nothing(correlator, verb):
    group = correlator.group("g")
    pending = group.register("a")

    async def wait():
        await pending

    calls = {
        "correlate": correlator.correlate,
        "drain": lambda: correlator.drain(1.0),
        "aclose": correlator.aclose,
        "await": wait,
        "group.correlate": group.correlate,
    }
    error = await in_thread(lambda: asyncio.run(calls[verb]()))
    assert type(error) is RuntimeError
    assert "run_coroutine_threadsafe" in str(error)
    assert pending.outcome is None
    correlator.register("still open").cancel()
    pending.cancel()


async def test_what_only_looks_may_be_asked_from_any_thread(correlator):
    with correlator.register("a"):
        assert await in_thread(len, correlator) == 1
        assert await in_thread(correlator.__contains__, "a") is True
        stats = await in_thread(correlator.stats)
        assert (stats.registered, stats.pending) == (1, 1)
        (info,) = await in_thread(correlator.pending)
        assert info.request_id == "a"
        assert "'tested' 1 of" in await in_thread(repr, correlator)


async def test_what_is_posted_before_a_close_is_answered_after_it():
    async with Correlator() as correlator:
        correlator.register("a")
        futures = [correlator.resolve_threadsafe("a", 1) for _ in range(10)]
        await correlator.aclose()
        assert all(future.done() for future in futures)
        for future in futures:
            assert isinstance(future.exception(), CorrelatorClosed)
        with pytest.raises(CorrelatorClosed):
            correlator.resolve_threadsafe("a", 1)


async def test_what_is_posted_before_a_close_is_answered_also_if_the_reaper_is_dead(caplog):
    async with Correlator() as correlator:
        await turns(2)
        for task in asyncio.all_tasks():
            if task.get_name().startswith("correlator-reaper"):
                task.cancel()
        await turns(2)
        future = correlator.resolve_threadsafe("a", 1)
        await correlator.aclose()
        assert future.done()


async def test_a_close_lets_whoever_is_posting_finish_first():
    """It really waits, two hundredths of a second: for a thread that stands in the middle."""
    async with Correlator() as correlator:
        loop, posted = asyncio.get_running_loop(), []
        in_the_middle, go_on = threading.Event(), threading.Event()

        class Slow:
            def call_soon_threadsafe(self, *args, **kwargs):
                in_the_middle.set()
                go_on.wait(30)
                posted.append(args)
                return loop.call_soon_threadsafe(*args, **kwargs)

        correlator._mailbox._loop = Slow()
        posting = loop.run_in_executor(None, correlator.resolve_threadsafe, "a", 1)
        await asyncio.to_thread(in_the_middle.wait, 30)
        threading.Timer(0.02, go_on.set).start()
        closing = asyncio.ensure_future(correlator.aclose())
        await turns(1)
        assert posted, "the close went past a thread that had been told that it is open"
        await closing
        assert isinstance((await posting).exception(timeout=0), CorrelatorClosed)


async def test_what_is_posted_while_it_closes_always_gets_an_answer():
    """Whichever comes first: a future is answered, or posting raises; nobody waits for ever."""
    for _ in range(20):
        correlator = await Correlator(max_pending=1_000).__aenter__()
        for number in range(50):
            correlator.register(number)
        posted, stop, started = [], threading.Event(), threading.Event()

        def post(correlator=correlator, posted=posted, stop=stop, started=started):
            with contextlib.suppress(CorrelatorClosed):
                while not stop.is_set() and len(posted) < 500:
                    posted.append(correlator.resolve_threadsafe(len(posted), 1))
                    started.set()

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            threads = [pool.submit(post) for _ in range(2)]
            await asyncio.to_thread(started.wait, 30)
            await correlator.aclose()
            stop.set()
            for thread in threads:
                thread.result(timeout=30)
        # `aclose` has returned: not one turn of the loop later, everybody has his answer.
        assert all(future.done() for future in posted)
        for future in posted:
            error = future.exception()
            assert error is None or isinstance(error, CorrelatorClosed)
        balanced(correlator)


async def test_many_threads_may_post_at_once():
    async with Correlator(max_pending=4_000) as correlator:
        waiting = [asyncio.create_task(correlator.correlate(number)) for number in range(4_000)]
        await turns(2)

        def post(start):
            return [correlator.resolve_threadsafe(n, n) for n in range(start, 4_000, 4)]

        batches = await asyncio.gather(*(asyncio.to_thread(post, start) for start in range(4)))
        for batch in batches:
            for future in batch:
                assert await asyncio.wrap_future(future) is Disposition.MATCHED
        assert await asyncio.gather(*waiting) == list(range(4_000))
        assert balanced(correlator).resolved == 4_000


async def test_what_is_posted_does_not_carry_the_posters_context(correlator):
    variable = contextvars.ContextVar("variable", default="clean")
    seen = []

    class Looking:
        def __hash__(self):
            seen.append(variable.get())
            return 1

    def thread():
        variable.set("the poster's")
        return correlator.resolve_threadsafe(Looking(), 1).result(timeout=30)

    assert await in_thread(thread) is Disposition.UNKNOWN
    assert seen
    assert set(seen) == {"clean"}
