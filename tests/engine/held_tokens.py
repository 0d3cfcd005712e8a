"""Caches whose newest tokens are held back in host memory."""

from collections.abc import Sequence

import numpy as np
from engine_oracle import int32, normal

ROWS, CAPACITY, HEADS, GROUP, D, TILE = 3, 400, 2, 2, 64, 16
TILE_BYTES = TILE * 2 * HEADS * D * 4


def contents(n_tokens=CAPACITY, seed=0):
    rng = np.random.default_rng(seed)
    return [normal(rng, (ROWS, n_tokens, HEADS, D)) for _ in "kv"]


def one_cache(store, kv_dtype="", capacity=CAPACITY):
    return store.create_caches(1, ROWS, capacity, HEADS, D, "f32", TILE, kv_dtype)[0]


def hold(store, cache, version, k, v, start, n_new, rows: Sequence[int] = range(ROWS)):
    to = int32(rows)
    part = [x[to, start : start + n_new] for x in (k, v)]
    each = np.ones_like(to)
    return store.append(cache, version, *part, to, each * start, each * n_new, hold=True)


def attend(store, cache, version, length, **options):
    rng = np.random.default_rng(length)
    q = normal(rng, (ROWS, 1, HEADS * GROUP, D))
    lengths = int32([length] * ROWS)
    return store.attend(cache, version, q, int32(range(ROWS)), lengths - 1, lengths, 0.1, **options)


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def n_written(store):
    store.flush()
    return store.stats()["bytes_written"]


KINDS = {
    "memory": {"n_directories": 0},
    "file": {"n_directories": 1},
    "pread": {"n_directories": 1, "io": "pread"},
    "two_files": {"n_directories": 2},
    "pinned": {"n_directories": 1, "pinned_bytes": 10 * TILE_BYTES},
}
