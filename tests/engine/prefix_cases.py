"""Stores with prefixes in them, for the tests of files of prefixes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import nspjax
from nspjax import _engine
from nspjax.runtime import StoredKVCache

MODEL = "tests/random@1"
SHAPE = {"batch": 3, "capacity_tokens": 400, "n_kv_heads": 3, "head_dim": 64}
TILE = 16
N_LAYERS = 2


@contextlib.contextmanager
def opened(path: Path, n_directories: int, **options) -> Iterator[nspjax.Store]:
    """A store on fresh directories below `path`; 0 is "memory:"."""
    directories = []
    for _ in range(n_directories):
        directories.append(path / f"device{len(list(path.glob('device*')))}")
        directories[-1].mkdir()
    options = {"host_memory": "8MiB", "pinned": 0} | options
    with nspjax.Store(*directories or ["memory:"], **options) as store:
        yield store


def new_caches(store: nspjax.Store, n_layers: int = N_LAYERS, **changes) -> list[StoredKVCache]:
    shape = {**SHAPE, "dtype": jnp.bfloat16, "interval_tokens": TILE} | changes
    return store.kv_caches(n_layers, **shape)


def elements(rng: np.random.Generator, shape: Sequence[int], dtype=jnp.bfloat16) -> np.ndarray:
    values = rng.standard_normal(shape, np.float32).astype(dtype)
    return values if values.dtype == np.float32 else values.view(np.uint16)


def append(
    store: nspjax.Store, cache: StoredKVCache, row: int, n_tokens: int, rng, start: int = 0
) -> StoredKVCache:
    """The cache with n_tokens random tokens in a row, from `start` on."""
    _, number, version, _ = np.asarray(cache.k).tolist()
    _, _, n_heads, head_dim = cache.shape
    k, v = (elements(rng, (1, n_tokens, n_heads, head_dim), cache.dtype) for _ in "kv")
    where = (np.array([n], np.int32) for n in (row, start, n_tokens))
    version = store._engine.append(number, version, k, v, *where)
    lengths = cache.lengths.at[row].set(start + n_tokens)
    return cache.with_handles(store._engine.cache_handles(number, version), lengths)


def filled(
    store: nspjax.Store, lengths: Sequence[int], seed: int = 0, **changes
) -> list[StoredKVCache]:
    """Caches whose rows have these lengths; every layer's tokens are others."""
    rng = np.random.default_rng(seed)
    caches = new_caches(store, **changes)
    for row, n_tokens in enumerate(lengths):
        if n_tokens:
            caches = [append(store, cache, row, n_tokens, rng) for cache in caches]
    return caches


def tokens(store: nspjax.Store, cache: StoredKVCache, row: int, n_tokens: int) -> np.ndarray:
    """K and V of a row's first tokens, as bits."""
    return np.stack(store._engine.read(int(cache.k[1]), row, 0, n_tokens))


def attention(store: nspjax.Store, cache: StoredKVCache, row: int) -> np.ndarray:
    """Of one fixed query over all that the row has."""
    length = int(cache.lengths[row])
    _, number, version, _ = np.asarray(cache.k).tolist()
    _, _, n_heads, head_dim = cache.shape
    q = np.random.default_rng(9).standard_normal((1, 1, 2 * n_heads, head_dim), np.float32)
    where = (np.array([n], np.int32) for n in (row, length, length))
    return store._engine.attend(number, version, q, *where, 0.1)[0]


def assert_same(
    store: nspjax.Store, caches: Sequence[StoredKVCache], row: int,
    other: nspjax.Store, others: Sequence[StoredKVCache], other_row: int, n_tokens: int,
) -> None:  # fmt: skip
    """Bit for bit, as tokens and as tiles."""
    for cache, another in zip(caches, others, strict=True):
        assert int(cache.lengths[row]) == int(another.lengths[other_row]) == n_tokens
        np.testing.assert_array_equal(
            tokens(store, cache, row, n_tokens), tokens(other, another, other_row, n_tokens)
        )
        n_tiles = n_tokens // store._engine.tile_tokens(int(cache.k[1]))
        np.testing.assert_array_equal(
            stored_tiles(store, cache, row, n_tiles),
            stored_tiles(other, another, other_row, n_tiles),
        )


def stored_tiles(store: nspjax.Store, cache: StoredKVCache, row: int, n_tiles: int) -> np.ndarray:
    _, number, version, _ = np.asarray(cache.k).tolist()
    return store._engine.export_tiles(number, version, row, 0, n_tiles)


def has_kv_dtype(kv_dtype: str | None) -> bool:
    """Whether this engine stores tiles so."""
    store = _engine.Store(["memory:"], 8 << 20)
    try:
        store.create_caches(1, 1, 64, 1, 64, "bf16", kv_dtype=kv_dtype or "")
    except nspjax.errors.InvalidArgumentError:
        return False
    finally:
        store.close()
    return True
