"""What lies where, how it is read and written, and what is counted."""

import os

import numpy as np
import pytest
from engine_oracle import append, bits, fill, int32, normal

from nspjax import _engine
from nspjax.errors import InvalidArgumentError, StoreFullError

PAGE = 4096


def one_row(store, tokens, heads=4, head_dim=64, dtype="bf16", tile_tokens=16, capacity=4096):
    rng = np.random.default_rng(0)
    (cache,) = store.create_caches(1, 1, capacity, heads, head_dim, dtype, tile_tokens)
    k, v = (normal(rng, (1, tokens, heads, head_dim), dtype) for _ in "kv")
    version = fill(store, cache, k, v, [tokens])
    store.flush()  # writes go on after the append, and are counted when they have ended
    return cache, version, bits(k), bits(v)


def test_a_tile_on_disk_is_head_by_head(open_store):
    store = open_store(1)
    _, _, k, v = one_row(store, 40, heads=3, head_dim=24)
    with open(store.devices()[0]["path"], "rb") as file:
        file.seek(PAGE)
        data = np.frombuffer(file.read(4 * PAGE), np.uint16)
    tile_elements = 2 * PAGE // 2  # 3 heads x 2 x 16 x 24 x 2 bytes = 4608, padded to two pages
    for tile in (0, 1):
        tokens = slice(16 * tile, 16 * tile + 16)
        empty = np.zeros(_engine.head_tile_bytes("bf16", 24, 16), np.uint8)
        head_by_head = np.concatenate([
            _engine.pack_head(
                "bf16", 16, k[0, tokens, h].copy(), v[0, tokens, h].copy(), 0, empty
            )
            for h in range(3)
        ]).view(np.uint16)  # fmt: skip
        stored = data[tile * tile_elements :][:tile_elements]
        np.testing.assert_array_equal(stored[: head_by_head.size], head_by_head)
        assert not stored[head_by_head.size :].any()


@pytest.mark.parametrize(("rows", "heads"), [(16, 8), (5, 3), (7, 1), (1, 7), (4, 2)])
@pytest.mark.parametrize("n_devices", [2, 3])
def test_units_are_balanced(open_store, rows, heads, n_devices):
    """(row, head) units over devices: shares differ by one unit at most."""
    store = open_store(n_devices)
    (cache,) = store.create_caches(1, rows, 256, heads, 64, "bf16", 16)
    store.fill_synthetic(cache, 128)
    store.flush()
    unit = 128 * 2 * 64 * 2  # a multiple of a page, so nothing is padded
    shares = [device["bytes_written"] // unit for device in store.stats()["devices"]]
    assert sum(shares) == rows * heads
    assert max(shares) - min(shares) <= 1


def test_prefill_is_written_in_large_pieces(open_store):
    store = open_store(1, host_memory=64 << 20)
    one_row(store, 4096)
    stats = store.stats()
    assert stats["bytes_written"] == 4096 * 4 * 2 * 64 * 2
    assert stats["bytes_written"] / stats["n_writes"] >= 2 << 20


def test_a_spill_is_one_write(open_store):
    """Token by token: a tile goes out when it is full, once."""
    store = open_store(1)
    cache, version, k, v = one_row(store, 40)
    before = store.stats()
    assert before["n_writes"] == 1
    for token in range(40, 48):
        assert store.stats()["n_writes"] == 1
        version = append(store, cache, version, k[:, :1], v[:, :1], [0], [token], [1])
    store.flush()
    after = store.stats()
    assert after["n_writes"] == 2
    assert after["bytes_written"] - before["bytes_written"] == 16 * 4 * 2 * 64 * 2


def test_a_window_reads_only_what_it_sees(open_store):
    store = open_store(1)
    cache, version, *_ = one_row(store, 4000)
    q = np.ones((1, 1, 4, 64), np.float32)
    for window, tiles in [(0, 250), (1, 1), (16, 1), (17, 2), (100, 7)]:
        before = store.stats()["bytes_read"]
        store.attend(cache, version, q, int32([0]), int32([3999]), int32([4000]), 1.0, window)
        assert store.stats()["bytes_read"] - before == tiles * 16 * 4 * 2 * 64 * 2


def test_room_is_reserved_and_given_back(open_store):
    store = open_store(1)
    path = store.devices()[0]["path"]
    cache_bytes = 4 * (1 << 13) * 8 * 2 * 128 * 2
    caches = store.create_caches(3, 4, 1 << 13, 8, 128, "bf16")
    for cache in caches:
        store.fill_synthetic(cache, 256)
    store.flush()
    assert os.stat(path).st_size >= 3 * cache_bytes
    assert os.stat(path).st_blocks * 512 >= 3 * cache_bytes
    store.drop_cache(caches[1])
    assert os.stat(path).st_blocks * 512 <= 2.1 * cache_bytes
    (again,) = store.create_caches(1, 4, 1 << 13, 8, 128, "bf16")
    assert again not in caches
    assert os.stat(path).st_blocks * 512 >= 3 * cache_bytes
    store.close()
    assert os.stat(path).st_size == PAGE
    assert os.stat(path).st_blocks * 512 <= 4 * PAGE


def test_counters(open_store):
    store = open_store(2)
    cache, version, k, v = one_row(store, 100)
    stats = store.stats()
    assert stats["bytes_appended"] == stats["kv_bytes_stored"] == k.nbytes + v.nbytes
    assert stats["bytes_written"] == 96 / 100 * (k.nbytes + v.nbytes)
    tail = 16 * 4 * 2 * 64 * 2
    with_tail = stats["host_bytes"]
    q = np.ones((1, 1, 4, 64), np.float32)
    store.attend(cache, version, q, int32([0]), int32([99]), int32([100]), 1.0)
    after = store.stats()
    assert after["bytes_read"] == after["bytes_written"]
    assert after["attend_ns"] > 0
    assert [d["bytes_read"] for d in after["devices"]] == [after["bytes_read"] // 2] * 2
    append(store, cache, version, k[:, :10], v[:, :10], [0], [0], [10])  # starts over
    assert store.stats()["kv_bytes_stored"] == (k.nbytes + v.nbytes) // 10
    store.drop_cache(cache)
    assert store.stats()["kv_bytes_stored"] == 0
    assert store.stats()["host_bytes"] == with_tail - tail


def test_tile_size_is_chosen(open_store):
    """Large enough for 128 KiB, at most a quarter of the capacity, whatever memory there is."""
    store = open_store(1, host_memory=64 << 20)
    sizes = {
        (1, 1, 1 << 20, 8, 128): 32,
        (1, 1, 1 << 20, 1, 64): 256,
        (1, 1, 1 << 20, 32, 128): 16,
        (1, 1, 100, 8, 128): 16,
        (1, 1, 1 << 20, 2, 128): 128,
    }
    for (layers, *shape), tokens in sizes.items():
        caches = store.create_caches(layers, *shape, "bf16")
        assert [store.tile_tokens(cache) for cache in caches] == [tokens] * layers
        for cache in caches:
            store.drop_cache(cache)
    with pytest.raises(StoreFullError, match="fewer rows, or interval_tokens of less than 128;"):
        store.create_caches(8, 64, 1 << 12, 2, 128, "bf16")
    store.create_caches(8, 64, 1 << 12, 2, 128, "bf16", 64)
    with pytest.raises(InvalidArgumentError, match="power of two"):
        store.create_caches(1, 1, 64, 1, 16, "f32", 24)


def test_host_memory_stays_in_its_budget(open_store):
    """Tails of every row of every layer, and the staging buffers."""
    budget = 8 << 20
    store = open_store(1, host_memory=budget)
    caches = store.create_caches(4, 4, 1000, 4, 64, "bf16")
    for cache in caches:
        store.fill_synthetic(cache, 999)
    assert budget / 4 < store.stats()["host_bytes"] <= budget
