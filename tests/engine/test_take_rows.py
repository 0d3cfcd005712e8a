"""Rows that go on from one another, as beams do: what is copied, read, and where it lies."""

import numpy as np
import pytest
from engine_oracle import PlainCache, append, int32, normal

from nspjax.errors import InvalidArgumentError, StaleHandleError, StoreFullError

ROWS, CAPACITY, HEADS, GROUP, D, TILE = 4, 2000, 2, 2, 32, 16
TOKEN_BYTES = 2 * HEADS * D * 4
TAIL_BYTES = TILE * TOKEN_BYTES


class Beams:
    """A cache in a store, and the same in arrays."""

    def __init__(self, store, rows=ROWS, seed=0):
        self.store = store
        (self.cache,) = store.create_caches(1, rows, CAPACITY, HEADS, D, "f32", TILE)
        self.model = PlainCache.empty(rows, CAPACITY, HEADS, D, "f32")
        self.version = 0
        self.rng = np.random.default_rng(seed)

    def append(self, rows, n_new, **options):
        start = self.model.lengths[rows]
        k, v = (normal(self.rng, (len(rows), max(n_new), HEADS, D)) for _ in "kv")
        self.model.append(k, v, rows, start, n_new)
        args = (k, v, int32(rows), int32(start), int32(n_new))
        self.version = self.store.append(self.cache, self.version, *args, **options)

    def take(self, order, lengths=None):
        lengths = self.model.lengths if lengths is None else lengths
        args = (int32(order), int32(lengths))
        self.version = self.store.take_rows(self.cache, self.version, *args)
        self.model.take_rows(np.array(order), lengths)

    def attend(self):
        rows = len(self.model.lengths)
        q = normal(self.rng, (rows, 1, HEADS * GROUP, D))
        at, length = int32(range(rows)), int32(self.model.lengths)
        args = (q, at, length - 1, length, 0.2)
        got = self.store.attend(self.cache, self.version, *args)
        for a, b in zip(got, self.model.attend(*args), strict=True):
            np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-5)

    def stat(self, name):
        return self.store.stats()[name]


@pytest.fixture(params=[0, 1, 2], ids=["memory", "file", "two_files"])
def beams(request, open_store):
    return Beams(open_store(request.param))


def test_only_tails_are_copied(beams):
    """One for each row beyond the first that goes on from another; of what is full, nothing."""
    beams.append([0], [3 * TILE + 5])
    beams.take([0, 0, 0, 0])
    assert beams.stat("bytes_copied") == 3 * TAIL_BYTES
    beams.append([0, 1, 2, 3], [1, 1, 1, 1])
    beams.attend()
    beams.take([2, 1, 0, 3])  # places change, and nothing else
    assert beams.stat("bytes_copied") == 3 * TAIL_BYTES
    beams.take([1, 1, 3, 3])
    assert beams.stat("bytes_copied") == 5 * TAIL_BYTES
    beams.attend()
    beams.append([0, 1, 2, 3], [10, 10, 10, 10])  # 4 tiles each, to the last token
    beams.take([3, 3, 3, 3])
    assert beams.stat("bytes_copied") == 5 * TAIL_BYTES
    beams.attend()


def test_what_all_have_is_read_and_written_once(open_store):
    beams = Beams(open_store(1))
    beams.append([0], [6 * TILE])
    beams.take([0, 0, 0, 0])
    beams.store.flush()
    before = beams.stat("bytes_read")
    beams.attend()
    assert beams.stat("bytes_read") - before == 6 * TAIL_BYTES
    assert beams.stat("bytes_written") == 6 * TAIL_BYTES
    assert beams.stat("kv_bytes_stored") == ROWS * 6 * TAIL_BYTES


@pytest.mark.parametrize("hold", [False, True])
def test_thousands_of_steps_take_no_more_room(open_store, hold):
    """Beams that end and become several at every step keep to the room that the rows had from the
    beginning, and what all have is read once."""
    beams = Beams(open_store(1))
    reserved = beams.store.devices()[0]["reserved_bytes"]
    beams.append([0], [TILE - 3])
    beams.take([0, 0, 0, 0])
    for step in range(CAPACITY - TILE):
        beams.append([0, 1, 2, 3], [1, 1, 1, 1], hold=hold)
        order = beams.rng.integers(0, ROWS, ROWS)
        beams.take(np.sort(order) if step % 3 else order)
        if step % 97 == 0:
            beams.attend()
    assert beams.store.devices()[0]["reserved_bytes"] == reserved
    before = beams.stat("bytes_read")
    beams.attend()
    assert beams.stat("bytes_read") - before < 1.1 * CAPACITY * TOKEN_BYTES
    beams.take([1, 1, 1, 1])
    beams.store.flush()
    for row in range(ROWS):
        k, v = beams.store.read(beams.cache, row, 0, int(beams.model.lengths[row]))
        np.testing.assert_array_equal(k, beams.model.k[row, : len(k)])
        np.testing.assert_array_equal(v, beams.model.v[row, : len(v)])


def test_what_was_taken_tile_by_tile_is_read_in_one(open_store):
    """Not in a read for each time that rows were taken."""
    beams = Beams(open_store(1))
    beams.append([0], [1])
    for _ in range(40):
        beams.take([0, 0, 0, 0])
        beams.append([0, 1, 2, 3], [TILE] * 4)
    beams.take([0, 0, 0, 0])
    beams.store.flush()
    before = beams.stat("n_reads")
    beams.attend()
    assert beams.stat("n_reads") - before <= 2


def test_rows_that_end_together_need_no_room(open_store):
    """Rows that share what they begin with, all cut back in one call; each alone would leave its
    tiles to the others, and write elsewhere."""
    beams = Beams(open_store(1))
    reserved = beams.store.devices()[0]["reserved_bytes"]
    beams.append([0], [5 * TILE])
    beams.take([0, 0, 0, 0])
    beams.append([0, 1, 2, 3], [TILE + 1] * 4)
    beams.take([3, 3, 1, 1])
    beams.model.lengths[:] = 0
    beams.append([0, 1, 2, 3], [3 * TILE + 1] * 4)
    assert beams.store.devices()[0]["reserved_bytes"] == reserved
    beams.attend()


def test_rows_of_several_lengths(open_store):
    """Two groups of beams, and a row beside them that goes on as it is."""
    beams = Beams(open_store(2), rows=6)
    beams.append([0, 3, 5], [90, 20, 33])
    beams.take([0, 0, 0, 3, 3, 5])
    for step in range(80):
        beams.append(list(range(6)), [1] * 6)
        one, other = beams.rng.integers(0, 3, 3), 3 + beams.rng.integers(0, 2, 2)
        beams.take([*one, *other, 5])
        if step % 16 == 0:
            beams.attend()
    beams.take([4, 5, 0, 1, 1, 5])  # a short one in the place of a long one, and so on
    beams.append(list(range(6)), [70] * 6)
    beams.attend()


def test_an_attention_sees_the_rows_as_they_were(beams):
    beams.append([0, 1, 2, 3], [40, 50, 37, 1])
    q = normal(beams.rng, (ROWS, 1, HEADS * GROUP, D))
    length = int32(beams.model.lengths)
    args = (q, int32(range(ROWS)), length - 1, length, 0.2)
    ticket = beams.store.attend_start(beams.cache, beams.version, *args)
    expected = beams.model.attend(*args)
    beams.take([3, 3, 0, 2])
    beams.append([0, 1, 2, 3], [20] * 4)
    for a, b in zip(beams.store.attend_wait(ticket), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-5)
    beams.attend()


def test_what_is_cut_is_not_taken(beams):
    beams.append([0, 1, 2, 3], [40, 50, 37, 1])
    beams.take([1, 1, 1, 0], [40, 33, 37, 1])
    assert beams.store.lengths(beams.cache) == [33, 33, 33, 40]
    beams.append([0, 1, 2, 3], [20] * 4)
    beams.attend()


def test_what_cannot_be_taken(open_store):
    beams = Beams(open_store(1))
    beams.append([0, 1], [40, 30])
    store, cache, version = beams.store, beams.cache, beams.version
    lengths = int32([40, 30, 0, 0])
    for order, length, message in [
        ([0, 1, 2, 4], lengths, "take_rows of row 4: .*rows 0 to 3"),
        ([0, -1, 2, 3], lengths, "take_rows of row -1: .*rows 0 to 3"),
        ([1, 1, 2, 3], lengths + 1, "row 1 with 31 tokens: it has 30; rows that keep X"),
        ([1, 1, 2, 3], lengths - 31, "row 1 with -1 tokens"),
        ([0, 1, 2], lengths, r"order is \[3\], it must be \[S = 4\]"),
        ([0, 1, 2, 3], lengths[:3], r"length is \[3\], it must be \[S = 4\]"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            store.take_rows(cache, version, int32(order), int32(length))
    with pytest.raises(StaleHandleError):
        store.take_rows(cache, version - 1, int32([0, 1, 2, 3]), lengths)
    assert store.version(cache) == version
    two = open_store(2)
    (odd,) = two.create_caches(1, 2, 64, 3, D, "f32", TILE)
    with pytest.raises(InvalidArgumentError, match=r"row 1 as row 0: .*3 KV heads on 2 devices"):
        two.take_rows(odd, 0, int32([1, 1]), int32([0, 0]))


def test_no_room_for_a_short_row_in_a_long_one(open_store):
    """Where rows are not equally long, one may need room beside what others have; it is asked for
    before anything changes."""
    store = open_store(1)
    free = store.devices()[0]["free_bytes"]
    capacity = free // (2 * D * 4) // 7 * 2 // TILE * TILE  # three rows fit, a fourth does not
    if capacity >= 1 << 30:
        pytest.skip("the disk is too large for this")
    (cache,) = store.create_caches(1, 3, capacity, 1, D, "f32", TILE)
    k = np.zeros((2, 4 * TILE, 1, D), np.float32)
    version = append(store, cache, 0, k, k, [0, 2], [0, 0], [4 * TILE, TILE])
    version = store.take_rows(cache, version, int32([0, 0, 2]), int32([4 * TILE, 0, TILE]))
    # row 0's region is the one that comes free, but row 1 has tiles there
    with pytest.raises(StoreFullError, match="other rows share"):
        store.take_rows(cache, version, int32([2, 1, 2]), int32([4 * TILE, 4 * TILE, TILE]))
    assert store.version(cache) == version
    assert store.lengths(cache) == [4 * TILE, 4 * TILE, TILE]
