"""Wrong calls on a good store: each is its own clear error, and changes nothing."""

import numpy as np
import pytest
from engine_oracle import append, bits, int32

from nspjax.errors import InvalidArgumentError, StaleHandleError, StoreClosedError

ROWS, CAPACITY, HEADS, D = 3, 64, 2, 16


@pytest.fixture
def cached(open_store):
    """A store and a cache at version 1 whose rows have 20, 0 and 64 tokens."""
    store = open_store(1)
    (cache,) = store.create_caches(1, ROWS, CAPACITY, HEADS, D, "f32", 16)
    k = np.ones((ROWS, 64, HEADS, D), np.float32)
    assert append(store, cache, 0, k, k, range(ROWS), [0, 0, 0], [20, 0, 64]) == 1
    return store, cache


def kv(rows, tokens=1, dtype=np.float32, shape=(HEADS, D)):
    return np.ones((rows, tokens, *shape), dtype)


def attend(store, cache, version, rows, position, length, q=None, **options):
    q = kv(len(rows)) if q is None else q
    return store.attend(
        cache, version, q, int32(rows), int32(position), int32(length), 1.0, **options
    )


def test_stale_handles(cached):
    store, cache = cached
    for version in (0, 2):
        message = f"used twice: cache {cache} is at version 1, the handle is from version {version}"
        with pytest.raises(StaleHandleError, match=message):
            append(store, cache, version, kv(1), kv(1), [0], [20], [1])
        with pytest.raises(StaleHandleError, match=message):
            attend(store, cache, version, [0], [19], [20])
    attend(store, cache, 1, [0], [19], [20])


@pytest.mark.parametrize(
    ("rows", "start", "n_new", "message"),
    [
        ([0], [21], [1], "append to row 0 .*start is 21, but the row has 20"),
        ([0], [-1], [1], "start is -1"),
        ([2], [64], [1], "row 2 .*64 \\+ 1 tokens do not fit its capacity of 64"),
        ([3], [0], [1], "row 3 .*rows 0 to 2"),
        ([-1], [0], [1], "rows 0 to 2"),
        ([0, 0], [20, 20], [1, 1], "row 0 .*given twice"),
        ([0], [20], [3], "n_new is 3, with 2 tokens given"),
        ([0], [20], [-1], "n_new is -1"),
        ([1, 0], [0, 21], [1, 1], "batch row 1"),
    ],
)
def test_bad_appends_change_nothing(cached, rows, start, n_new, message):
    store, cache = cached
    before = store.stats()["kv_bytes_stored"]
    with pytest.raises(InvalidArgumentError, match=message):
        append(store, cache, 1, kv(len(rows), 2), kv(len(rows), 2), rows, start, n_new)
    assert store.lengths(cache) == [20, 0, 64]
    assert store.version(cache) == 1
    assert store.stats()["kv_bytes_stored"] == before


def test_idle_rows_need_not_be_valid(cached):
    """n_new 0 leaves a row alone, whatever row and start say; it is not cut either."""
    store, cache = cached
    rows, start = [0, 0, 99, 1], [3, 20, 0, 0]
    assert append(store, cache, 1, kv(4), kv(4), rows, start, [0, 0, 0, 1]) == 2
    assert store.lengths(cache) == [20, 1, 64]


@pytest.mark.parametrize(
    ("rows", "position", "length", "options", "message"),
    [
        ([0], [20], [21], {}, "attend over row 0 .*length is 21, but the row has 20"),
        ([0], [20], [-1], {}, "length is -1"),
        ([3], [0], [1], {}, "rows 0 to 2"),
        ([0], [-1], [1], {}, "position is -1"),
        ([0], [0], [1], {"window": -1}, "window -1"),
        ([0], [0], [1], {"softcap": -1.0}, "softcap -1"),
        ([0], [0], [1], {"softcap": float("nan")}, "softcap nan"),
    ],
)
def test_bad_attends(cached, rows, position, length, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        attend(*cached, 1, rows, position, length, **options)


def test_rows_without_length_give_zero(cached):
    """Idle rows may repeat, and need not exist."""
    out, lse = attend(*cached, 1, [99, 0, 0], [0, 19, 5], [0, 20, 0])
    assert np.all(out[[0, 2]] == 0)
    assert np.all(lse[[0, 2]] == -np.inf)
    np.testing.assert_allclose(out[1], 1, rtol=1e-6)


def test_wrong_arrays(cached):
    store, cache = cached
    rows, one = int32([0]), kv(1)
    wrong = [
        (kv(1, shape=(3, D)), one, r"k is \[1, 1, 3, 16\], it must be \[.*H = 2, D = 16\]"),
        (one, kv(1, 2), r"v is \[1, 2, 2, 16\], it must be \[B = 1, T = 1, H = 2, D = 16\]"),
        (one[0], one[0], r"k is \[1, 2, 16\], it must be \[B, T, H = 2, D = 16\]"),
        (one.view(np.uint32), one, "k must be float32, float16, or uint16"),
        (
            bits(one.astype(np.float16)),
            bits(one.astype(np.float16)),
            "k must be float32, float16, or uint16",
        ),
    ]
    for k, v, message in wrong:
        with pytest.raises(InvalidArgumentError, match=message):
            store.append(cache, 1, k, v, rows, int32([20]), rows + 1)
    with pytest.raises(InvalidArgumentError, match=r"start is \[2\], it must be \[B = 1\]"):
        store.append(cache, 1, one, one, rows, int32([20, 1]), rows + 1)
    with pytest.raises(InvalidArgumentError, match="3 query heads"):
        attend(store, cache, 1, [0], [0], [1], q=kv(1, shape=(3, D)))
    with pytest.raises(
        InvalidArgumentError, match=r"q is \[1, 1, 2, 17\], it must be \[.*Q = 2, D = 16\]"
    ):
        attend(store, cache, 1, [0], [0], [1], q=kv(1, shape=(2, D + 1)))
    with pytest.raises(InvalidArgumentError, match="q must be float32, float16, or uint16"):
        attend(store, cache, 1, [0], [0], [1], q=bits(one.astype(np.float16)))


def test_bad_reads(cached):
    store, cache = cached
    for row, begin, end, message in [
        (3, 0, 0, "read of row 3: .* rows 0 to 2"),
        (0, 0, 21, "read of tokens 0 to 21 of row 0, which has 20"),
        (0, 3, 2, "read of tokens 3 to 2 of"),
        (0, -1, 2, "read of tokens -1 to 2 of"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            store.read(cache, row, begin, end)


def test_dropped_caches_and_closed_stores(cached):
    store, cache = cached
    store.drop_cache(cache)
    with pytest.raises(StoreClosedError, match=f"no cache {cache}: it was dropped"):
        attend(store, cache, 1, [0], [19], [20])
    with pytest.raises(StoreClosedError):
        store.drop_cache(cache)
    assert not store.closed
    store.close()
    store.close()
    assert store.closed
    calls = [
        lambda: attend(store, cache, 1, [0], [19], [20]),
        lambda: store.create_caches(1, 1, 64, 1, 16, "f32"),
        store.devices,
        store.flush,
    ]
    for call in calls:
        with pytest.raises(StoreClosedError, match="is closed"):
            call()
    assert store.stats()["kv_bytes_stored"] == 0
