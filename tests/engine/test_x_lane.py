"""The lane that keeps X: the same devices, a file, a budget and a queue of its own."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from engine_oracle import append, bits, fill, int32, normal

from nspjax import _engine
from nspjax.errors import (
    InvalidArgumentError,
    StorageIOError,
    StoreBusyError,
    StoreClosedError,
    StoreDamagedError,
    StoreFullError,
)
from nspjax.runtime.trace import TraceKind, trace_events

HEADS, D, TILE, CAPACITY, ROWS = 2, 32, 16, 400, 3
X_HEADS, X_DIM = 4, 24
LENGTHS = [400, 77, 16]
FIRST_X_CACHE = 1 << 30


def main_cache(store, dtype="f32"):
    (cache,) = store.create_caches(1, ROWS, CAPACITY, HEADS, D, dtype, TILE)
    return cache


def x_tokens(seed=0, dtype="f32"):
    rng = np.random.default_rng(seed)
    return [normal(rng, (ROWS, CAPACITY, X_HEADS, X_DIM), dtype) for _ in "kv"]


def fill_x(store, x_cache):
    k, v = x_tokens()
    return fill(store, x_cache, k, v, LENGTHS)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("n_directories", [0, 1, 2])
def test_x_comes_back_to_the_bit(open_store, dtype, n_directories):
    store = open_store(n_directories)
    cache = main_cache(store, dtype)
    x_cache, version = store.x_cache(cache, X_HEADS, X_DIM)
    assert x_cache >= FIRST_X_CACHE
    assert version == 0
    k, v = x_tokens(dtype=dtype)
    fill(store, x_cache, k, v, LENGTHS)
    assert store.x_cache(cache, X_HEADS, X_DIM) == (x_cache, 1)
    got = store.fetch(x_cache, 1, int32(range(ROWS)), 0, int32(LENGTHS), CAPACITY)
    for row, n in enumerate(LENGTHS):
        np.testing.assert_array_equal(got[0][row, :n], bits(k[row, :n]))
        np.testing.assert_array_equal(got[1][row, :n], bits(v[row, :n]))
    for device in store.devices():
        if device["path"]:
            assert Path(device["path"]).with_name("nspjax.x.kv").stat().st_size > 4096


def test_one_for_each_cache(open_store):
    """Of its cache's batch and capacity; dropped with it, and its number is not used again."""
    store = open_store(1)
    first, second = (main_cache(store) for _ in range(2))
    x_first, _ = store.x_cache(first, X_HEADS, X_DIM)
    x_second, _ = store.x_cache(second, X_HEADS + 1, X_DIM)
    assert x_first != x_second
    assert len(store.lengths(x_first)) == ROWS
    k, v = x_tokens()
    version = fill(store, x_first, k, v, LENGTHS)
    with pytest.raises(InvalidArgumentError, match=f"capacity of {CAPACITY}"):
        append(store, x_first, version, k[:1], v[:1], [0], [CAPACITY], [1])
    with pytest.raises(InvalidArgumentError, match="5 heads x 24: cache 0 has one of 4 x 24"):
        store.x_cache(first, X_HEADS + 1, X_DIM)
    store.drop_cache(first)
    with pytest.raises(StoreClosedError, match="no cache"):
        store.lengths(x_first)
    with pytest.raises(StoreClosedError, match="no cache"):
        store.x_cache(first, X_HEADS, X_DIM)
    third = main_cache(store)
    assert store.x_cache(third, 1, 8)[0] not in (x_first, x_second)
    with pytest.raises(InvalidArgumentError, match="no X-cache of its own"):
        store.x_cache(x_second, X_HEADS, X_DIM)
    with pytest.raises(InvalidArgumentError, match="keeps X for another"):
        store.drop_cache(x_second)


def test_closed_together(open_store, tmp_path):
    store = open_store(1)
    x_cache, _ = store.x_cache(main_cache(store), X_HEADS, X_DIM)
    path = Path(store.devices()[0]["path"]).with_name("nspjax.x.kv")
    with pytest.raises(StoreBusyError, match="this process already"):
        _engine.Store([str(path.parent)], 8 << 20)
    fill_x(store, x_cache)
    store.close()
    with pytest.raises(StoreClosedError):
        store.lengths(x_cache)
    assert path.stat().st_size == 4096
    assert store.stats()["bytes_written"] > 0  # what it counted stays
    again = _engine.Store([str(path.parent)], 8 << 20)
    again.x_cache(main_cache(again), X_HEADS, X_DIM)
    again.close()


def test_its_file_is_locked_and_checked_too(open_store, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "nspjax.x.kv").write_bytes(b"not ours")
    store = _engine.Store([str(tmp_path / "other")], 8 << 20)
    with pytest.raises(StoreDamagedError, match=r"nspjax\.x\.kv is not an nspjax store"):
        store.x_cache(main_cache(store), X_HEADS, X_DIM)
    assert (tmp_path / "other" / "nspjax.x.kv").read_bytes() == b"not ours"
    (tmp_path / "other" / "nspjax.x.kv").unlink()
    store.x_cache(0, X_HEADS, X_DIM)  # the store goes on
    store.close()


# ---- host memory -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"pinned_bytes": -1}, {"x_share": 0.25}])
def test_both_stay_within_the_budget(open_store, options):
    host_memory = 4 << 20
    store = open_store(1, host_memory=host_memory, **options)
    cache = main_cache(store)
    before = store.stats()["host_bytes"]
    store.fill_synthetic(cache, CAPACITY)
    without = store.stats()
    x_cache, _ = store.x_cache(cache, X_HEADS, X_DIM)
    store.fill_synthetic(x_cache, CAPACITY)
    both = store.stats()
    assert before < both["host_bytes"] <= host_memory
    assert both["pinned_bytes"] == without["pinned_bytes"]
    of_x = both["host_bytes"] - without["host_bytes"]
    room = host_memory * (0.25 if "x_share" in options else 0.75 / 8)
    assert room / 10 < of_x <= room


def test_later_caches_have_what_it_left(open_store):
    """A part of it is lent: what is asked for then is refused where it does not fit."""
    sizes = (1, 4, 400, HEADS, D, "f32", TILE)

    def rows_that_fit(store):
        return store.cache_needs(1, 10_000, *sizes[2:])["rows_that_fit"]

    store = open_store(1, host_memory=2 << 20)
    before = rows_that_fit(store)
    store.x_cache(main_cache(store), 1, 8)
    assert rows_that_fit(store) < before - 5


def test_too_little_memory_for_it(open_store):
    store = open_store(1, host_memory=2 << 20)
    cache = main_cache(store)
    with pytest.raises(StoreFullError, match=r"for the X of cache 0.*x_share.*host_memory"):
        store.x_cache(cache, 64, 512)
    with pytest.raises(InvalidArgumentError, match=r"x_share is 1.*0 to 0\.9"):
        open_store(1, x_share=1.0)
    with pytest.raises(InvalidArgumentError, match="x_share is nan"):
        open_store(1, x_share=float("nan"))


# ---- counters, the trace, faults ----------------------------------------------------------------


def test_stats_and_trace_are_of_both(open_store):
    store = open_store(1)
    cache = main_cache(store)
    version = store.fill_synthetic(cache, CAPACITY)
    store.flush()
    own = store.stats()
    x_cache, _ = store.x_cache(cache, X_HEADS, X_DIM)
    x_version = fill_x(store, x_cache)
    store.flush()  # its writes too
    filled = store.stats()
    store.fetch(x_cache, x_version, int32([0, 1]), 0, int32(LENGTHS[:2]), 100)
    fetched = store.stats()
    q = np.ones((1, 1, HEADS, D), np.float32)
    store.attend(cache, version, q, int32([0]), int32([99]), int32([100]), 0.1)
    total = store.stats()
    token_bytes = 2 * X_HEADS * X_DIM * 4
    appended = sum(LENGTHS) * token_bytes
    assert filled["bytes_appended"] == own["bytes_appended"] + appended
    assert filled["kv_bytes_stored"] == own["kv_bytes_stored"] + appended
    tile = store.tile_tokens(x_cache)
    full_tokens = sum(n // tile * tile for n in LENGTHS)
    assert filled["bytes_written"] >= own["bytes_written"] + full_tokens * token_bytes > 0
    assert fetched["bytes_read"] > filled["bytes_read"]
    assert fetched["link_bytes"] > filled["link_bytes"]
    assert total["bytes_read"] > fetched["bytes_read"]
    events = trace_events(store.trace())
    assert np.all(np.diff(events["begin_ns"]) >= 0)
    (call,) = events[events["kind"] == TraceKind.fetch]
    assert call["cache"] == x_cache
    (call,) = events[events["kind"] == TraceKind.attend]
    assert call["cache"] == cache
    writes = events[events["kind"] == TraceKind.write]
    assert writes["bytes"].sum() == total["bytes_written"]
    store.record_events(False)
    store.fetch(x_cache, x_version, int32([0]), 0, int32([16]), 16)
    assert len(trace_events(store.trace())) == len(events)


def test_a_read_error_is_the_x_lane_s_own(open_store):
    store = open_store(1, fault="read:eio")  # one in each of the two queues
    cache = main_cache(store)
    x_cache, _ = store.x_cache(cache, X_HEADS, X_DIM)
    k, v = x_tokens()
    version = fill(store, x_cache, k, v, LENGTHS)
    store.flush()
    with pytest.raises(StorageIOError, match=r"nspjax\.x\.kv"):
        store.fetch(x_cache, version, int32([0]), 0, int32([400]), 400)
    got = store.fetch(x_cache, version, int32([0]), 0, int32([400]), 400)
    np.testing.assert_array_equal(got[0][0], k[0])


def test_two_lanes_on_one_drive_are_no_faster_than_it(open_store):
    """Fetches of both at once: they share the drive's time, and take turns."""
    rate, n_tokens = 20e6, 2048
    # equal shares of memory, so equal reads: of 32 KiB
    store = open_store(0, host_memory=2 << 20, x_share=0.5, read_bytes_per_s=rate)
    (cache,) = store.create_caches(1, 1, n_tokens, HEADS, D, "f32", 64)
    x_cache, _ = store.x_cache(cache, HEADS, D)
    versions = [store.fill_synthetic(c, n_tokens) for c in (cache, x_cache)]
    took_s = [0.0, 0.0]
    rows, lengths = int32([0]), int32([n_tokens])

    def scan(index, number):
        begin = time.monotonic()
        store.fetch(number, versions[index], rows, 0, lengths, n_tokens)
        took_s[index] = time.monotonic() - begin

    threads = [threading.Thread(target=scan, args=args) for args in enumerate((cache, x_cache))]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole_s = time.monotonic() - begin
    one_s = n_tokens * 2 * HEADS * D * 4 / rate
    assert whole_s >= 2 * one_s
    assert min(took_s) > 1.3 * one_s, "neither had the drive for itself"
