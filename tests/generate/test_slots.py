from hypothesis import given
from hypothesis import strategies as st

from nspjax.generate.slots import Slots


@given(st.integers(1, 6), st.integers(0, 30), st.randoms(use_true_random=False))
def test_any_history_serves_every_item_once_and_in_order(n_rows, n_items, random):
    taken = 0

    def source():
        nonlocal taken
        for item in range(n_items):
            taken += 1
            yield item

    slots = Slots(n_rows, source())
    admitted = []
    while new := slots.admit():
        admitted += new.values()
        assert len(slots.running) == min(n_rows, n_items - len(admitted) + len(slots.running))
        assert len(set(slots.running.values())) == len(slots.running) <= n_rows
        assert taken <= len(admitted) + n_rows, "the source is read lazily"
        assert slots.n_waiting == taken - len(admitted)
        if slots.n_waiting:
            assert slots.next_waiting == len(admitted)
        done = random.sample(sorted(slots.running), random.randint(1, len(slots.running)))
        for row in done:
            assert slots.release(row) in admitted
    while slots.running:
        slots.release(next(iter(slots.running)))
    assert admitted == list(range(n_items))


def test_free_rows_are_given_from_the_lowest():
    slots = Slots(3, iter("abcd"))
    assert slots.admit() == {0: "a", 1: "b", 2: "c"}
    assert slots.release(1) == "b"
    assert slots.admit() == {1: "d"}
    assert dict(slots.running) == {0: "a", 2: "c", 1: "d"}


def test_a_withdrawn_item_is_next_and_its_row_is_gone():
    slots = Slots(3, iter("abcde"))
    assert slots.admit() == {0: "a", 1: "b", 2: "c"}
    assert slots.withdraw(2) == "c"
    assert slots.admit() == {}
    slots.release(0)
    assert slots.admit() == {0: "c"}
    slots.release(1)
    assert slots.admit() == {1: "d"}
