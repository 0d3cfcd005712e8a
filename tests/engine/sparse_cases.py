"""Caches with sketches, and what is asked of them."""

import numpy as np
from engine_oracle import fill, int32, normal

STORES = [
    {"n_directories": 0},
    {"n_directories": 1},
    {"n_directories": 1, "pinned_bytes": -1},
    {"n_directories": 2},
]
MEMORY = 64 << 20


def peaked(rng, rows, tokens, heads, dim, dtype="f32"):
    """Keys of which some are much like any query's first channels, as heavy hitters are."""
    k = normal(rng, (rows, tokens, heads, dim))
    heavy = rng.random((rows, tokens, heads)) < 0.05
    k[..., 0] += 6 * heavy
    v = normal(rng, (rows, tokens, heads, dim)) + 0.5
    return k.astype(normal(rng, (1,), dtype).dtype), v.astype(normal(rng, (1,), dtype).dtype)


def sketched(store, *, rows=2, capacity=1024, heads=2, dim=64, dtype="bf16", tile=128, kv_dtype=""):
    (cache,) = store.create_caches(
        1, rows, capacity, heads, dim, dtype, tile, kv_dtype, sketch=True
    )
    k, v = peaked(np.random.default_rng(1), rows, capacity, heads, dim, dtype)
    return cache, fill(store, cache, k, v, [capacity] * rows)


def ask(store, cache, version, rows=2, heads=2, dim=64, seed=2, length=1024, **how):
    q = normal(np.random.default_rng(seed), (rows, 1, heads, dim))
    q[..., 0] += 2
    at = int32([length] * rows)
    return store.attend(cache, version, q, int32(range(rows)), at - 1, at, dim**-0.5, **how)
