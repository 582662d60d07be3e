"""ExpiringStore: a map bounded by age and size, tested with times made up."""

import math
import random
import sys
import weakref
from heapq import heapify

import pytest

from correlator import ExpiringStore, StoreFull

RES = 0.5


def make(**options):
    return ExpiringStore(resolution=RES, **options)


def filled(count, at=10.0, store=None):
    store = make() if store is None else store
    for number in range(count):
        store.add(number, str(number), at)
    return store


def all_due(store, now, limit=100):
    """Pop everything that is due, as the reaper does, and return it in that order."""
    gone = []
    while batch := store.due(now, limit):
        assert len(batch) <= limit
        for value in batch:
            gone.append(value)
            store.pop(int(value))
    return gone


def test_what_was_added_is_there_until_popped():
    store = make()
    store.add("a", 1, 10.0)
    store.add("b", 2, 10.0)
    assert len(store) == 2
    assert "a" in store
    assert store.get("a") == 1
    assert store.pop("a") == 1
    assert "a" not in store
    assert store.get("a") is None
    assert store.pop("a") is None
    assert list(store) == ["b"]
    assert list(store.values()) == [2]


def test_a_value_may_be_none_or_false():
    store = make()
    store.add("a", None, 10.0)
    store.add("b", 0, 10.0)
    assert len(store) == 2
    assert store.due(99.0, 10) == [None, 0]


def test_a_key_in_use_is_refused_and_its_entry_left_as_it_was():
    store = make(max_size=5, max_bytes=5)
    store.add("a", 1, 10.0, 3)
    with pytest.raises(KeyError, match="a"):
        store.add("a", 2, 99.0, 1)
    assert store.get("a") == 1
    assert store.bytes == 3
    assert store.leaves_at("a") < 11.0


def test_a_key_may_be_used_again_once_it_is_gone():
    store = make()
    for expires_at in (10.0, 20.0, 10.0):
        store.add("a", expires_at, expires_at)
        assert store.pop("a") == expires_at
    assert len(store) == 0
    assert store.next_due() is None


def test_what_is_added_after_the_last_has_gone_still_falls_due():
    store = make()
    store.add("a", 1, 10.5)
    store.pop("a")
    assert store.next_due() is None
    store.add("b", 2, 10.6)
    assert store.next_due() == store.leaves_at("b")
    assert store.due(99.0, 10) == [2]


def test_keys_values_and_the_oldest_come_in_the_order_they_were_added():
    store = make()
    for number, expires_at in enumerate((50.0, 10.0, 90.0, 10.0, 30.0)):
        store.add(number, str(number), expires_at)
    assert list(store) == [0, 1, 2, 3, 4]
    assert list(store.values()) == ["0", "1", "2", "3", "4"]
    assert store.oldest() == "0"
    store.pop(0)
    assert store.oldest() == "1"
    store.clear()
    assert store.oldest() is None


@pytest.mark.parametrize("expires_at", [0.0, 0.2, 9.99, 10.0, 10.01, 10.5, 1e6 + 1 / 3, 1e9])
@pytest.mark.parametrize("resolution", [0.5, 0.025, 1 / 3, 7.0])
def test_nothing_is_due_early_nor_later_than_the_resolution(expires_at, resolution):
    store = ExpiringStore(resolution=resolution)
    store.add("a", 1, expires_at)
    due_at = store.next_due()
    assert expires_at < due_at <= expires_at + resolution * 1.001
    assert store.leaves_at("a") == due_at
    assert store.due(expires_at, 10) == []
    assert store.purge(expires_at, 10) == 0
    assert store.due(due_at, 10) == [1]
    assert store.purge(due_at, 10) == 1


def test_nothing_is_due_early_at_random_times():
    random.seed(7)
    for _ in range(20_000):
        resolution = 10 ** random.uniform(-4, 1)
        expires_at = 10 ** random.uniform(-3, 9)
        store = ExpiringStore(resolution=resolution)
        store.add("a", 1, expires_at)
        assert expires_at < store.next_due() <= expires_at + resolution * 1.001


def test_nothing_is_due_early_nor_too_late_at_the_boundaries_of_the_slot_that_was_used_last():
    """Where the second goes is decided by the range of the slot that the first is in."""
    random.seed(8)
    for _ in range(4_000):
        resolution = random.choice((1 / random.randrange(1, 1_000), 10 ** random.uniform(-4, 1)))
        tick = random.randrange(2, 10 ** random.randrange(1, 7))
        first = (tick + 0.5) * resolution
        for edge in (tick - 1, tick, tick + 1, tick + 2):
            at = edge * resolution
            near = (0.00001, 0.0001, 0.0005, 0.01, 0.5)
            around = [at + part * resolution for part in (*near, *(-part for part in near))]
            for expires_at in (at, math.nextafter(at, 0), math.nextafter(at, math.inf), *around):
                store = ExpiringStore(resolution=resolution)
                store.add("first", 1, first)
                store.add("second", 2, expires_at)
                assert expires_at < store.leaves_at("second") <= expires_at + resolution * 1.001


@pytest.mark.parametrize("expires_at", [-0.1, -0.75, -1.0, -1.2, -10.0, -1e6])
def test_a_clock_may_stand_below_zero(expires_at):
    """The store takes seconds on any clock that does not go back."""
    store = make()
    store.add("a", 1, expires_at)
    due_at = store.next_due()
    assert due_at is not None
    assert expires_at < due_at <= expires_at + RES * 1.001
    assert store.due(due_at, 10) == [1]


def test_what_is_due_first_comes_first():
    store = make()
    for number in random.sample(range(200), 200):
        store.add(number, str(number), float(number))
    assert store.next_due() == store.leaves_at(0)
    assert all_due(store, 99.9) == [str(number) for number in range(100)]
    assert len(store) == 100
    assert store.next_due() == store.leaves_at(100)


def test_what_is_due_stays_until_it_is_popped():
    store = filled(3)
    assert sorted(store.due(99.0, 10)) == ["0", "1", "2"]
    assert sorted(store.due(99.0, 10)) == ["0", "1", "2"]
    assert len(store) == 3


def test_a_large_slot_is_worked_off_in_parts():
    """A batch is as long as asked, however much is due at once, and each comes exactly once."""
    store = filled(10_000)
    batch = store.due(99.0, 256)
    assert len(batch) == 256
    assert store.due(99.0, 256) == batch
    assert store.next_due() <= 10.0 + RES
    assert len(store) == 10_000
    assert all(store.get(int(value)) == value for value in batch)
    assert sorted(map(int, all_due(store, 99.0, 256))) == list(range(10_000))
    assert len(store) == 0
    assert store.next_due() is None
    assert store.due(99.0, 256) == []


def test_a_part_that_is_worked_on_can_change_meanwhile():
    store = filled(1_000)
    batch = store.due(99.0, 100)
    assert store.pop(int(batch[0])) == batch[0]
    rest = next(key for key in store if str(key) not in batch)
    assert store.pop(rest) == str(rest)
    store.add(5_000, "5000", 10.0)
    assert sorted(store.due(99.0, 100)) == sorted(batch[1:])
    gone = all_due(store, 99.0)
    assert len(gone) == len(set(gone)) == 999
    assert "5000" in gone


def test_purge_drops_what_is_due_up_to_its_limit():
    store = filled(100, at=10.0)
    store.add("late", 1, 50.0, 7)
    assert store.purge(9.0, 1_000) == 0
    assert store.purge(20.0, 30) == 30
    assert len(store) == 71
    assert store.purge(20.0, 1_000) == 70
    assert list(store) == ["late"]
    assert store.bytes == 7
    assert store.purge(60.0, 1_000) == 1
    assert store.bytes == 0


def test_purge_also_drops_the_part_that_is_worked_on():
    store = filled(1_000)
    store.due(99.0, 100)
    assert store.purge(99.0, 50) == 50
    assert store.purge(99.0, 10_000) == 950
    assert len(store) == 0
    assert store.next_due() is None


def test_a_full_store_refuses_and_changes_nothing():
    store = filled(3, store=make(max_size=3))
    assert not store.fits()
    with pytest.raises(StoreFull):
        store.add("d", 4, 99.0)
    assert list(store) == [0, 1, 2]
    store.pop(0)
    assert store.fits()
    store.add("d", 4, 99.0)
    assert list(store) == [1, 2, "d"]


def test_the_byte_bound_counts_sizes():
    store = make(max_bytes=10)
    store.add("a", 1, 10.0, 6)
    store.add("b", 2, 10.0)
    store.add("c", 3, 10.0, 4)
    assert store.bytes == 10
    assert store.fits()
    assert store.fits(0)
    assert not store.fits(1)
    with pytest.raises(StoreFull):
        store.add("d", 4, 10.0, 1)
    store.add("e", 5, 10.0, 0)
    store.pop("a")
    assert store.bytes == 4
    assert store.fits(6)
    assert not store.fits(7)
    store.clear()
    assert store.bytes == 0
    assert store.fits(10)


def test_an_evicting_store_drops_what_would_leave_soonest():
    store = make(max_size=16, evict=True)
    for number in random.sample(range(16), 16):
        store.add(number, str(number), float(number))
    store.add(99, "99", 99.0)
    assert len(store) == 16
    assert 0 not in store
    assert {*range(1, 16), 99} == set(store)


@pytest.mark.parametrize(("size", "most"), [(1, 1), (16, 1), (31, 1), (32, 2), (1_000, 62)])
def test_an_evicting_store_drops_a_sixteenth_at_once_at_most_and_one_at_least(size, most):
    """Also of those that are due together, of which it could drop all as easily."""
    store = filled(size, store=make(max_size=size, evict=True))
    store.add("new", "new", 10.0)
    assert "new" in store
    assert 1 <= size + 1 - len(store) <= most


def test_an_evicting_store_never_passes_its_bounds():
    random.seed(3)
    store = make(max_size=100, max_bytes=1_000, evict=True)
    for number in range(5_000):
        store.add(number, number, float(number) if number % 3 else 5_000.0, random.randrange(60))
        assert len(store) <= 100
        assert store.bytes <= 1_000
        assert store.get(number) == number, "the newest is kept"
    assert store.bytes == sum(store._sizes.values())
    assert set(store._sizes) <= set(store)


def test_an_evicting_store_of_one_keeps_the_last():
    store = make(max_size=1, evict=True)
    for number in range(1_000):
        store.add(number, number, 10.0 + number // 10)
        assert list(store) == [number]
        assert store.next_due() == store.leaves_at(number)


def test_an_evicting_store_also_refuses_what_alone_is_too_large():
    store = make(max_bytes=10, evict=True)
    store.add("a", 1, 10.0, 10)
    with pytest.raises(StoreFull):
        store.add("b", 2, 10.0, 11)
    assert list(store) == ["a"]


def test_an_evicting_store_takes_what_fills_it_alone():
    store = make(max_bytes=10, evict=True)
    store.add("a", 1, 10.0, 3)
    store.add("b", 2, 10.0, 10)
    assert list(store) == ["b"]
    assert store.bytes == 10


def test_clear_removes_everything_and_leaves_a_store_that_works():
    store = filled(1_000, store=make(max_size=1_000))
    store.due(99.0, 10)
    store.clear()
    assert len(store) == 0
    assert list(store) == list(store.values()) == []
    assert store.next_due() is None
    assert store.due(99.0, 10) == []
    filled(1_000, store=store)
    assert all_due(store, 99.0, 1_000) == [str(number) for number in range(1_000)]


def test_a_cleared_store_keeps_nothing_of_the_slots_it_had():
    store = make()
    for number in range(1_000):
        store.add(number, number, number * RES)
    assert len(store._slots) == len(store._ticks) == 1_000
    store.clear()
    assert not store._slots
    assert not store._ticks


def room(store):
    """The bytes that the slots of a store take."""
    return sum(sys.getsizeof(slot) for slot in store._slots.values()) + sys.getsizeof(store._head)


def test_a_slot_gives_back_the_room_of_what_was_removed():
    """A few long requests among many short ones must not keep the room of all of them."""
    store = filled(10_000)
    store.add("next slot", 0, 20.0)
    before = room(store)
    for number in range(10_000):
        if number % 100:
            store.pop(number)
    assert len(store) == 101
    assert room(store) < before / 20
    assert sorted(map(int, all_due(store, 15.0))) == list(range(0, 10_000, 100))


def test_a_slot_gives_back_its_room_also_when_the_one_before_was_purged():
    store = make()
    store.add("first", 0, 10.0)
    filled(10_000, at=20.0, store=store)
    before = room(store)
    assert store.purge(15.0, 10) == 1
    store.add("next slot", 0, 30.0)
    for number in range(9_900):
        store.pop(number)
    assert len(store) == 101
    assert room(store) < before / 20


def test_giving_back_room_is_not_done_at_each_removal(monkeypatch):
    shrunk = []
    shrink = ExpiringStore._shrink
    monkeypatch.setattr(
        ExpiringStore, "_shrink", lambda store, slot: shrunk.append(slot) or shrink(store, slot)
    )
    store = filled(10_000)
    store.add("next slot", 0, 20.0)
    for number in range(10_000):
        store.pop(number)
    assert 1 <= len(shrunk) <= 10


def test_a_slot_that_is_opened_again_may_run_empty_and_fill_again():
    store = make()
    store.add("a", "a", 10.0)
    store.add("b", "b", 20.0)
    store.add("c", "c", 10.0)
    store.pop("a")
    store.pop("c")
    store.add("d", "d", 10.0)
    assert store.next_due() == store.leaves_at("d")
    assert store.due(15.0, 10) == ["d"]


def test_slots_that_run_empty_leave_nothing():
    store = make()
    for number in range(50_000):
        store.add(number, number, number * RES)
        store.pop(number)
        assert len(store._slots) <= 1
        assert len(store._ticks) <= 2 * len(store._slots) + 66
    assert room(store) < 1_000
    assert store.next_due() is None
    assert not store._sizes


def test_the_heap_of_ticks_is_bounded_by_the_slots_that_live():
    """One far deadline in front of nothing: the ticks of slots long gone must not pile up."""
    store = make()
    store.add("soon", 0, 1.0)  # keeps the front of the heap from being tidied up
    for number in range(20_000):
        store.add(number, number, 1_000.0 + number * RES)
        if number >= 10:
            store.pop(number - 10)
        assert len(store._slots) <= 12
        assert len(store._ticks) <= 100
    assert store.next_due() == store.leaves_at("soon")
    store.pop("soon")
    assert store.next_due() == store.leaves_at(20_000 - 10)


def test_what_is_due_first_comes_first_also_once_the_heap_was_made_anew(monkeypatch):
    remade = []
    monkeypatch.setattr(
        "correlator.store.heapify", lambda ticks: remade.append(ticks) or heapify(ticks)
    )
    store = make()
    for number in (40, 10, 30, 20):
        store.add(number, str(number), float(number))
    for number in range(1_000, 1_200):
        store.add(number, str(number), float(number))
        store.pop(number)
    assert remade
    assert store.next_due() == store.leaves_at(10)
    assert all_due(store, 99.0) == ["10", "20", "30", "40"]


def test_a_heap_in_which_nothing_has_gone_is_not_made_anew(monkeypatch):
    """To do that for each slot would cost as much as all the slots, each time."""
    monkeypatch.setattr("correlator.store.heapify", lambda ticks: pytest.fail("it was made anew"))
    store = make()
    for number in range(1_000):
        store.add(number, str(number), float(number))
    assert len(store._ticks) == 1_000


def test_what_falls_due_together_looks_for_its_slot_once(monkeypatch):
    opened = []
    open_slot = ExpiringStore._open
    monkeypatch.setattr(
        ExpiringStore, "_open", lambda store, at: opened.append(at) or open_slot(store, at)
    )
    filled(1_000, at=10.1)
    assert opened == [10.1]


def test_a_removed_value_is_referenced_no_longer():
    class Value: ...

    store, died = make(), []
    for number in range(1_000):
        value = Value()
        weakref.finalize(value, died.append, number)
        store.add(number, value, 10.0)
        del value
    batch = store.due(99.0, 100)
    assert len(batch) == 100
    del batch
    for number in range(500):
        store.pop(number)
        assert died[-1] == number
    store.purge(99.0, 1_000)
    assert len(died) == 1_000


def test_it_behaves_as_a_dict_with_times_would():
    """Ten thousand random steps, beside a dict of (value, time, size)."""
    random.seed(11)
    store, model, now = make(max_size=60, max_bytes=400), {}, 0.0
    for step in range(10_000):
        key = random.randrange(120)
        match random.choices(("add", "pop", "due", "purge", "wait"), (50, 25, 10, 3, 12))[0]:
            case "add":
                expires_at, size = now + random.expovariate(0.1), random.choice((0, 0, 5, 20))
                used = sum(entry[2] for entry in model.values())
                if key in model:
                    with pytest.raises(KeyError):
                        store.add(key, step, expires_at, size)
                elif len(model) >= 60 or (size and used + size > 400):
                    with pytest.raises(StoreFull):
                        store.add(key, step, expires_at, size)
                else:
                    store.add(key, step, expires_at, size)
                    model[key] = (step, expires_at, size)
            case "pop":
                assert store.pop(key) == model.pop(key, (None,))[0]
            case "due":
                batch = store.due(now, limit := random.randrange(1, 20))
                assert len(batch) <= limit
                times = {value: expires_at for value, expires_at, _ in model.values()}
                assert all(times[value] < now for value in batch)
                if not batch:
                    assert all(expires_at > now - RES * 1.001 for expires_at in times.values())
            case "purge":
                count = store.purge(now, 10)
                gone = [key for key in model if key not in store]
                assert len(gone) == count
                assert all(model.pop(key)[1] < now for key in gone)
            case "wait":
                now += random.expovariate(0.5)
        assert len(store) == len(model)
        assert list(store) == list(model)
        assert list(store.values()) == [entry[0] for entry in model.values()]
        assert store.bytes == sum(entry[2] for entry in model.values())
        first = store.next_due()
        soonest = min((entry[1] for entry in model.values()), default=None)
        assert (first is None) == (soonest is None)
        assert first is None or soonest < first <= soonest + RES * 1.001
