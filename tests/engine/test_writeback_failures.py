"""Writes of held tokens that fail: they lose nothing, and who waits is told."""

import numpy as np
import pytest
from engine_oracle import fill, int32, normal
from held_tokens import (
    GROUP,
    HEADS,
    ROWS,
    TILE,
    TILE_BYTES,
    D,
    assert_same,
    attend,
    contents,
    hold,
    n_written,
    one_cache,
)

from nspjax.errors import StorageIOError, StoreFullError


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("kind", ["eio", "enospc"])
@pytest.mark.parametrize("kv_dtype", ["", "int8"])
def test_a_write_that_fails_loses_nothing(open_store, kind, exclusive, kv_dtype):
    """It surfaces once, at an append or flush; what was to be written is attended over meanwhile,
    and written by the next write."""
    error = StoreFullError if kind == "enospc" else StorageIOError
    store = open_store(1, fault=f"write:{kind}:times=3", host_memory=1 << 20)
    cache = one_cache(store, kv_dtype)
    k, v = contents()
    held = open_store(1, host_memory=1 << 20)
    plain = one_cache(held)
    n = 10 * TILE + 3
    version = hold(store, cache, 0, k, v, 0, n)
    same = hold(held, plain, 0, k, v, 0, n)
    store.writeback(cache, TILE, exclusive)
    out = attend(store, cache, version, n)
    raised = 0
    for _ in range(5):
        try:
            version = hold(store, cache, version, k, v, store.lengths(cache)[0], 1)
            store.writeback(cache, 1, exclusive)
            store.flush()
        except error:
            raised += 1
        length = store.lengths(cache)[0]
        for row in range(ROWS):
            read = store.read(cache, row, 0, length)
            if not kv_dtype:
                assert_same(read, [x[row, :length] for x in (k, v)])
    assert 1 <= raised <= 3
    if not kv_dtype:
        assert_same(out, attend(held, plain, same, n))
    store.flush()
    good = open_store(1, host_memory=1 << 20)
    whole = one_cache(good, kv_dtype)
    length = store.lengths(cache)[0]
    of_whole = fill(good, whole, k, v, [length] * ROWS)
    assert_same(attend(store, cache, version, length), attend(good, whole, of_whole, length))
    assert store.stats()["tail_bytes"] == ROWS * TILE_BYTES


def test_attention_begun_behind_a_write_that_fails(open_store):
    """It was to find the tiles on the device; it finds them in host memory."""
    store = open_store(1, fault="write:eio:times=3", host_memory=1 << 20)
    cache = one_cache(store)
    k, v = contents()
    version = hold(store, cache, 0, k, v, 0, 10 * TILE + 3)
    expected = attend(store, cache, version, 10 * TILE + 3)
    q = normal(np.random.default_rng(10 * TILE + 3), (ROWS, 1, HEADS * GROUP, D))
    at = int32([10 * TILE + 3] * ROWS)
    store.writeback(cache, TILE, exclusive=True)
    tickets = [
        store.attend_start(cache, version, q, int32(range(ROWS)), at - 1, at, 0.1) for _ in range(3)
    ]
    for ticket in tickets:
        assert_same(store.attend_wait(ticket), expected)
    with pytest.raises(StorageIOError, match=r"write of \d+ bytes at offset"):
        store.flush()


def test_an_append_behind_attention_whose_write_fails(open_store):
    """It has returned by then: the next one says so, and the tiles are there."""
    k, v = contents()

    def filled(fault):
        store = open_store(1, fault=fault, read_bytes_per_s=1e6)
        cache, other = (one_cache(store) for _ in range(2))
        version = fill(store, other, k, v, [20 * TILE] * ROWS)
        store.flush()
        return store, cache, other, version

    n_writes = filled("")[0].stats()["n_writes"]
    store, cache, other, slow = filled(f"write:eio:after={n_writes}:times=5")
    q = np.ones((ROWS, 1, HEADS * GROUP, D), np.float32)
    at = int32([20 * TILE] * ROWS)
    ticket = store.attend_start(other, slow, q, int32(range(ROWS)), at, at, 0.1)
    version = fill(store, cache, k, v, [40] * ROWS)
    store.attend_wait(ticket)
    with pytest.raises(StorageIOError):
        store.flush()
    store.flush()
    assert store.stats()["bytes_written"] == ROWS * 22 * TILE_BYTES
    for row in range(ROWS):
        assert_same(store.read(cache, row, 0, 40), [x[row, :40] for x in (k, v)])
    assert store.version(cache) == version


def test_a_write_that_fails_before_one_that_does_not(open_store):
    """Both are queued after an attention. What the second wrote does not stand for the first's
    tiles: they stay in the tail, are attended over there, and the second flush writes them."""
    store, other = (
        open_store(1, fault=f"write:eio:after={ROWS}:times={2 * ROWS}", read_bytes_per_s=2e6),
        open_store(1),
    )
    k, v = contents(300)
    cache, plain = one_cache(store), one_cache(other)
    version = fill(store, cache, k, v, [256] * ROWS)
    store.flush()
    q = np.ones((ROWS, 1, HEADS * GROUP, D), np.float32)
    rows, lengths = int32(range(ROWS)), int32([256] * ROWS)
    ticket = store.attend_start(cache, version, q, rows, lengths - 1, lengths, 0.1)
    for start in (256, 256 + TILE):
        version = hold(store, cache, version, k, v, start, TILE)
        store.writeback(cache, TILE, True)
    store.attend_wait(ticket)
    with pytest.raises(StorageIOError, match="write of"):
        store.flush()
    same = fill(other, plain, k, v, [256 + 2 * TILE] * ROWS)
    expected = attend(other, plain, same, 256 + 2 * TILE)
    assert_same(attend(store, cache, version, 256 + 2 * TILE), expected)
    before = store.stats()["bytes_written"]
    assert n_written(store) - before >= ROWS * TILE_BYTES
    assert_same(attend(store, cache, version, 256 + 2 * TILE), expected)
    for row in range(ROWS):
        assert_same(store.read(cache, row, 0, 288), [x[row, :288] for x in (k, v)])
