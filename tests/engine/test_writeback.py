"""Tiles that are held back in host memory, and when they are written."""

import numpy as np
import pytest
from engine_oracle import bits, fill, int32, normal
from held_tokens import (
    GROUP,
    HEADS,
    KINDS,
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

from nspjax.errors import InvalidArgumentError
from nspjax.runtime.trace import TraceKind, trace_events


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("interval", [1, TILE, 4 * TILE])
def test_decoding_with_writes_behind(open_store, kind, interval, exclusive):
    """Token by token: attention is over all tokens, to the bit as if each tile had gone out when it
    was full; what was read back at the end is what was appended."""
    store, other = open_store(**KINDS[kind]), open_store(**KINDS[kind])
    cache, plain = one_cache(store), one_cache(other)
    k, v = contents(200)
    version = hold(store, cache, 0, k, v, 0, 37)
    same = fill(other, plain, k, v, [37] * ROWS)
    for length in range(37, 140):
        version = hold(store, cache, version, k, v, length, 1)
        same = other.append(
            plain, same, k[:, length : length + 1], v[:, length : length + 1],
            int32(range(ROWS)), int32([length] * ROWS), int32([1] * ROWS),
        )  # fmt: skip
        store.writeback(cache, interval, exclusive)
        assert_same(
            attend(store, cache, version, length + 1), attend(other, plain, same, length + 1)
        )
    for row in range(ROWS):
        assert_same(store.read(cache, row, 0, 140), [x[row, :140] for x in (k, v)])
        tiles = store.export_tiles(cache, version, row, 0, 8)
        np.testing.assert_array_equal(tiles, other.export_tiles(plain, same, row, 0, 8))


@pytest.mark.parametrize("kv_dtype", ["int8", "int4", "bf16"])
def test_held_tiles_are_as_appended(open_store, kv_dtype):
    """They are converted when they are written, and not before."""
    store = open_store(1)
    exact = open_store(1)
    cache, plain = one_cache(store, kv_dtype), one_cache(exact)
    k, v = contents(100)
    version = hold(store, cache, 0, k, v, 0, 100)
    same = fill(exact, plain, k, v, [100] * ROWS)
    assert_same(attend(store, cache, version, 100), attend(exact, plain, same, 100))
    assert_same(store.read(cache, 1, 0, 100), [x[1, :100] for x in (k, v)])
    store.writeback(cache, 1)
    written = open_store(1)
    at_once = one_cache(written, kv_dtype)
    of_it = fill(written, at_once, k, v, [100] * ROWS)
    assert_same(attend(store, cache, version, 100), attend(written, at_once, of_it, 100))
    assert_same(store.read(cache, 1, 0, 100), written.read(at_once, 1, 0, 100))


def test_a_pinned_tile_counts_when_it_is_full(open_store):
    """Until then it is in the tail, whatever the interval: it is neither written nor pinned."""
    store = open_store(**KINDS["pinned"])  # three tiles a row
    cache = one_cache(store)
    k, v = contents()
    version = 0
    for end in (5, TILE - 1, TILE, TILE + 1, 3 * TILE - 1, 3 * TILE):
        start = int(store.lengths(cache)[0])
        version = hold(store, cache, version, k, v, start, end - start)
        store.writeback(cache, 1)
        assert n_written(store) == 0
        assert store.stats()["pinned_bytes"] == ROWS * (end // TILE) * TILE_BYTES
    hold(store, cache, version, k, v, 3 * TILE, 1)
    store.writeback(cache, 1)
    assert n_written(store) == ROWS * TILE_BYTES


@pytest.mark.parametrize("n_directories", [0, 1])
def test_what_is_written_and_when(open_store, n_directories):
    store = open_store(n_directories)
    cache = one_cache(store)
    k, v = contents()
    version = hold(store, cache, 0, k, v, 0, 3 * TILE + 5)
    assert n_written(store) == 0
    assert store.stats()["tail_bytes"] == ROWS * 4 * TILE_BYTES
    store.writeback(cache, 4 * TILE)  # nobody has as many
    assert n_written(store) == 0
    version = hold(store, cache, version, k, v, 3 * TILE + 5, TILE, rows=[1])
    store.writeback(cache, 4 * TILE)
    assert n_written(store) == 4 * TILE_BYTES  # row 1, without its 5 tokens
    assert store.stats()["tail_bytes"] == (4 + 1 + 4) * TILE_BYTES
    store.writeback(cache, TILE)
    assert n_written(store) == 10 * TILE_BYTES
    store.writeback(cache, TILE)
    assert n_written(store) == 10 * TILE_BYTES
    store.writeback(cache, 1)  # now those 5 tokens of each, with their tile
    assert n_written(store) == 13 * TILE_BYTES
    store.writeback(cache, 1)
    assert n_written(store) == 13 * TILE_BYTES
    hold(store, cache, version, k, v, 3 * TILE + 5, 1, rows=[0])
    store.writeback(cache, 2)
    assert n_written(store) == 13 * TILE_BYTES
    store.writeback(cache, 1)
    assert n_written(store) == 14 * TILE_BYTES
    assert store.stats()["bytes_read"] == 0


def test_what_does_not_fit_is_written(open_store):
    """A row holds 1024 tokens and a tile, all rows what host memory is free; the rest goes out."""
    store = open_store(1, host_memory=64 << 20)
    cache = one_cache(store, capacity=2048)
    k, v = contents(2048)
    version = hold(store, cache, 0, k, v, 0, 1024 + TILE)
    assert n_written(store) == 0
    version = hold(store, cache, version, k, v, 1024 + TILE, TILE)
    assert n_written(store) == ROWS * (1024 // TILE + 2) * TILE_BYTES

    store = open_store(1, host_memory=2 << 20)
    cache = one_cache(store, capacity=2048)
    version = 0
    for start in range(0, 2048, 64):
        version = hold(store, cache, version, k, v, start, 64)
        assert store.stats()["host_bytes"] <= 2 << 20
    assert n_written(store) > 0
    for row in range(ROWS):
        assert_same(store.read(cache, row, 0, 2048), [x[row] for x in (k, v)])


def test_what_other_rows_hold_is_counted(open_store):
    """Row after row, in calls of their own: together they would hold more than there is."""
    budget = 2 << 20
    store = open_store(1, host_memory=budget)
    cache = one_cache(store, capacity=1024)
    k, v = contents(1024)
    version = 0
    for row in range(ROWS):
        for start in range(0, 960, 64):
            version = hold(store, cache, version, k, v, start, 64, rows=[row])
            assert store.stats()["host_bytes"] <= budget
    assert budget < ROWS * 960 // TILE * TILE_BYTES
    for row in range(ROWS):
        assert_same(store.read(cache, row, 0, 960), [x[row, :960] for x in (k, v)])


def test_an_append_without_hold_writes_what_was_held(open_store):
    store = open_store(1)
    cache = one_cache(store)
    k, v = contents()
    version = hold(store, cache, 0, k, v, 0, 3 * TILE + 5)
    rows = int32(range(ROWS))
    store.append(cache, version, k[:, 53:54], v[:, 53:54], rows, rows * 0 + 53, int32([1, 0, 1]))
    assert n_written(store) == 2 * 3 * TILE_BYTES
    for row, length in enumerate([54, 53, 54]):
        assert_same(store.read(cache, row, 0, length), [x[row, :length] for x in (k, v)])


@pytest.mark.parametrize("cut", [0, 5, TILE, 2 * TILE + 3, 3 * TILE, 4 * TILE + 1])
@pytest.mark.parametrize("written", [False, True])
def test_rows_that_hold_tiles_are_cut_and_shared(open_store, cut, written):
    store, other = open_store(1), open_store(0)
    cache, plain = one_cache(store), one_cache(other)
    k, v = contents()
    version = hold(store, cache, 0, k, v, 0, 2 * TILE)
    store.writeback(cache, TILE)
    version = hold(store, cache, version, k, v, 2 * TILE, 2 * TILE + 7)
    if written:
        store.writeback(cache, 1)
    new_k, new_v = contents(seed=1)
    version = hold(store, cache, version, new_k, new_v, cut, 20, rows=[0])
    version = store.share_prefix(cache, version, 0, int32([1, 2]), cut + 18)
    same = 0
    for start, stop, (a, b) in [(0, cut, (k, v)), (cut, cut + 20, (new_k, new_v))]:
        same = other.append(
            plain, same, a[:1, start:stop], b[:1, start:stop], int32([0]), int32([start]),
            int32([stop - start]),
        )  # fmt: skip
    same = other.share_prefix(plain, same, 0, int32([1, 2]), cut + 18)
    assert store.lengths(cache) == other.lengths(plain)
    assert_same(attend(store, cache, version, cut + 18), attend(other, plain, same, cut + 18))
    for row, length in enumerate(store.lengths(cache)):
        assert_same(store.read(cache, row, 0, length), other.read(plain, row, 0, length))


# ---- scans and writes ---------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [1, TILE, 4 * TILE])
def test_exclusive_writes_are_not_beside_a_scan(open_store, interval):
    store = open_store(1, host_memory=16 << 20)
    caches = [one_cache(store) for _ in range(3)]
    k, v = contents()
    versions = [hold(store, cache, 0, k, v, 0, 160) for cache in caches]
    q = np.ones((ROWS, 1, HEADS * GROUP, D), np.float32)
    for length in range(161, 260):
        tickets = []
        for i, cache in enumerate(caches):
            versions[i] = hold(store, cache, versions[i], k, v, length - 1, 1)
            at = int32([length] * ROWS)
            tickets.append(
                store.attend_start(cache, versions[i], q, int32(range(ROWS)), at - 1, at, 0.1)
            )
        for cache in caches:
            store.writeback(cache, interval, exclusive=True)
        for ticket in tickets:
            store.attend_wait(ticket)
    store.flush()
    events = trace_events(store.trace())
    writes = events[events["kind"] == TraceKind.write]
    attends = events[events["kind"] == TraceKind.attend]
    assert len(writes) > 10
    assert len(attends) == 99 * 3
    called = events[events["kind"] == TraceKind.writeback]
    assert called["cache"].tolist() == caches * 99
    for write in writes:
        beside = (attends["begin_ns"] < write["end_ns"]) & (write["begin_ns"] < attends["end_ns"])
        assert not beside.any()


def test_bad_intervals(open_store):
    store = open_store(0)
    cache = one_cache(store)
    for interval in (0, -1):
        with pytest.raises(InvalidArgumentError, match=f"interval of {interval} tokens"):
            store.writeback(cache, interval)


def test_sixteen_bit_tokens(open_store):
    """Pairs of tokens share a word in a tile: a cut between them, and a write of half of it."""
    store = open_store(1)
    (cache,) = store.create_caches(1, 1, 128, HEADS, D, "bf16", TILE)
    rng = np.random.default_rng(0)
    k, v = (bits(normal(rng, (1, 128, HEADS, D), "bf16")) for _ in "kv")
    version, length = 0, 0
    for n in [5, 1, 2, 7, 1, 16, 3, 1, 30, 20]:
        part = [x[:, length : length + n] for x in (k, v)]
        version = store.append(
            cache, version, *part, int32([0]), int32([length]), int32([n]), hold=True
        )
        store.writeback(cache, 1)
        length += n
        assert_same(store.read(cache, 0, 0, length), [x[0, :length] for x in (k, v)])
