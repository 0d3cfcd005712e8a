"""An answer depends on the row's tokens and the query, not on where, when or beside what."""

import numpy as np
import pytest
from engine_oracle import append, fill, int32, normal

ROWS, TOKENS, HEADS, GROUP, D = 3, 900, 4, 2, 64
LENGTHS = [900, 333, 512]


def contents(seed=0, rows=ROWS):
    rng = np.random.default_rng(seed)
    k, v = (normal(rng, (rows, TOKENS, HEADS, D), "bf16") for _ in "kv")
    return k, v, normal(rng, (rows, 5, HEADS * GROUP, D))


def filled(store, k, v, lengths, rows=ROWS, capacity=TOKENS):
    (cache,) = store.create_caches(1, rows, capacity, HEADS, D, "bf16", 16)
    return cache, fill(store, cache, k, v, lengths)


def attend(store, cache, version, q, rows, lengths, **options):
    position = int32(lengths) - q.shape[1]
    return store.attend(cache, version, q, int32(rows), position, int32(lengths), 0.125, **options)


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("options", [{}, {"window": 100}, {"softcap": 2.0}])
def test_memory_files_io_and_threads(open_store, options):
    """One device: memory, io_uring, pread, 1 to 4 threads, one short read after another."""
    k, v, q = contents()
    results = []
    for setting in [
        {"n_directories": 0, "threads": 1},
        {"n_directories": 0, "threads": 4},
        {"n_directories": 1, "io": "uring", "threads": 2},
        {"n_directories": 1, "io": "pread", "threads": 1},
        {"n_directories": 1, "fault": "read:short", "threads": 3},
        {"n_directories": 1, "fault": "write:short", "threads": 2},
    ]:
        # little host memory: a segment is many reads
        store = open_store(**setting, host_memory=2 << 20)
        cache, version = filled(store, k, v, LENGTHS)
        results.append(attend(store, cache, version, q, range(ROWS), LENGTHS, **options))
        if setting["n_directories"] and "window" not in options:
            assert store.stats()["n_reads"] >= ROWS * 3
    for other in results[1:]:
        assert_same(results[0], other)


def test_segments_are_added_in_token_order(open_store):
    """Four of 1 MiB and a tail, of which some are in host memory and so are there first."""
    tokens = 4 * 1024 + 10
    rng = np.random.default_rng(0)
    k, v = (normal(rng, (1, tokens, HEADS, D), "bf16") for _ in "kv")
    q = normal(rng, (1, 1, HEADS * GROUP, D))
    results = []
    for setting in [{"n_directories": 0}] + [
        {"n_directories": 1, "pinned_bytes": n << 20} for n in (0, 1, 2, 3)
    ]:
        store = open_store(**setting, threads=1, host_memory=32 << 20)
        cache, version = filled(store, k, v, [tokens], rows=1, capacity=tokens)
        assert store.stats()["pinned_bytes"] == setting.get("pinned_bytes", 0)
        results.append(attend(store, cache, version, q, [0], [tokens]))
    for other in results[1:]:
        assert_same(results[0], other)


@pytest.mark.parametrize("options", [{}, {"window": 300}])
def test_host_memory_is_not_seen(open_store, options):
    """Where it is short, a segment of 1 MiB comes in reads of one tile, or of two."""
    k, v, q = contents()
    results, n_reads = [], []
    for n_directories, host_memory, pinned in [
        (0, 64 << 20, 0), (1, 64 << 20, 0), (1, 4 << 20, 0), (1, 9 << 20, 0), (1, 6 << 20, 500_000),
    ]:  # fmt: skip
        store = open_store(n_directories, host_memory=host_memory, pinned_bytes=pinned)
        (cache,) = store.create_caches(1, ROWS, TOKENS, HEADS, D, "bf16")
        version = fill(store, cache, k, v, LENGTHS)
        results.append(attend(store, cache, version, q, range(ROWS), LENGTHS, **options))
        n_reads.append(store.stats()["n_reads"])
    for other in results[1:]:
        assert_same(results[0], other)
    assert n_reads[2] > n_reads[3] > n_reads[1]


def test_several_devices_agree(open_store):
    """Their segments differ, so the same numbers but for rounding."""
    k, v, q = contents()
    results = []
    for n in (1, 2, 3):
        store = open_store(n)
        cache, version = filled(store, k, v, LENGTHS)
        results.append(attend(store, cache, version, q, range(ROWS), LENGTHS))
    for other in results[1:]:
        np.testing.assert_allclose(results[0][0], other[0], atol=1e-5)


@pytest.mark.parametrize("n_directories", [0, 1, 3])
def test_neighbours_slots_and_history(open_store, n_directories):
    """The same row alone, in another slot of a larger cache beside others, written token by
    token, or cut back from something longer; and each of its queries in a call of its own."""
    k, v, q = contents()
    length = LENGTHS[1]
    store = open_store(n_directories, host_memory=2 << 20)

    cache, version = filled(store, k[1:2], v[1:2], [length], rows=1)
    alone = attend(store, cache, version, q[1:2], [0], [length])

    k8, v8, q8 = contents(seed=1, rows=8)
    k8[6], v8[6], q8[6] = k[1], v[1], q[1]
    lengths = [900, 1, 0, 44, 500, 16, length, 128]
    cache, version = filled(store, k8, v8, lengths, rows=8, capacity=2000)
    position = np.maximum(int32(lengths) - 5, 0).astype(np.int32)
    beside = store.attend(cache, version, q8, int32(range(8)), position, int32(lengths), 0.125)
    assert_same(alone, [x[6:7] for x in beside])

    (cache,) = store.create_caches(1, 2, TOKENS, HEADS, D, "bf16", 16)
    version = 0
    for token in range(length):
        step = slice(token, token + 1)
        version = append(store, cache, version, k[1:2, step], v[1:2, step], [1], [token], [1])
    assert_same(alone, attend(store, cache, version, q[1:2], [1], [length]))

    version = append(store, cache, version, k[:1], v[:1], [1], [0], [TOKENS])
    tail = slice(300, length)
    version = append(store, cache, version, k[1:2, :300], v[1:2, :300], [1], [0], [300])
    version = append(store, cache, version, k[1:2, tail], v[1:2, tail], [1], [300], [length - 300])
    assert_same(alone, attend(store, cache, version, q[1:2], [1], [length]))

    for t in range(5):
        one = store.attend(
            cache, version, np.ascontiguousarray(q[1:2, t : t + 1]), int32([1]),
            int32([length - 5 + t]), int32([length]), 0.125,
        )  # fmt: skip
        assert_same([x[:, t : t + 1] for x in alone], one)


def test_length_below_what_is_stored(open_store):
    """The tokens beyond `length` do not matter, wherever they are."""
    k, v, q = contents()
    store = open_store(1)
    cache, version = filled(store, k[:1], v[:1], [900], rows=1)
    longer = attend(store, cache, version, q[:1], [0], [333])
    cache, version = filled(store, k[:1], v[:1], [333], rows=1)
    assert_same(longer, attend(store, cache, version, q[:1], [0], [333]))


@pytest.mark.parametrize("window", [0, 400])
def test_many_queries_are_cut_into_passes(open_store, window):
    """300 query tokens take several passes; each is what it is alone, whatever others see."""
    rng = np.random.default_rng(4)
    k, v, _ = contents()
    store = open_store(1)
    cache, version = filled(store, k[:1], v[:1], [900], rows=1)
    q = normal(rng, (1, 300, HEADS * GROUP, D))
    reads = store.stats()["n_reads"]
    ends = int32([600]), int32([900])
    together = store.attend(cache, version, q, int32([0]), *ends, 0.125, window)
    assert store.stats()["n_reads"] > reads + 1
    for t in (0, 100, 255, 256, 299):
        one = np.ascontiguousarray(q[:, t : t + 1])
        ends = int32([600 + t]), int32([900])
        alone = store.attend(cache, version, one, int32([0]), *ends, 0.125, window)
        assert_same([x[:, t : t + 1] for x in together], alone)


def test_synthetic_contents_are_finite_and_reproducible(open_store):
    read = []
    for n, dtype in [(0, "bf16"), (1, "bf16"), (1, "f16"), (1, "f32")]:
        store = open_store(n)
        (cache,) = store.create_caches(1, 2, 3000, 2, 16, dtype)
        assert store.fill_synthetic(cache, 2500) == 1
        assert store.lengths(cache) == [2500, 2500]
        read.append(store.read(cache, 1, 0, 2500))
        k = read[-1][0]
        k = k.view({"f16": np.float16}.get(dtype, k.dtype))
        k = (k.astype(np.uint32) << 16).view(np.float32) if dtype == "bf16" else k
        assert np.all(np.abs(k) <= 2)
        assert 0.1 < np.std(k.astype(np.float64)) < 1
    assert_same(read[0], read[1])
