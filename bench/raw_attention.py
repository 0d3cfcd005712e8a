"""Attention and appends called on the engine itself, layer after layer, with no model between.

What is attended is synthetic: pseudo-random tiles or tokens.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from nspjax import Store


@dataclasses.dataclass(frozen=True)
class Heads:
    """Attention of one layer; the defaults are Llama 3.2 1B's. K and V are bfloat16."""

    n_q_heads: int = 32
    n_kv_heads: int = 8
    head_dim: int = 64

    @property
    def kv_token_bytes(self) -> int:
        """K and V of one token, one layer, before any quantisation."""
        return self.n_kv_heads * self.head_dim * 2 * 2


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass over all layers."""

    seconds: float
    kv_bytes: int
    """bfloat16 bytes of the tokens attended, whatever they are stored as"""
    bytes_read: int
    """from the devices"""

    @property
    def kv_gb_per_second(self) -> float:
        return self.kv_bytes / self.seconds / 1e9

    @property
    def read_gb_per_second(self) -> float:
        return self.bytes_read / self.seconds / 1e9


@dataclasses.dataclass(frozen=True)
class Layers:
    """The caches of several layers of one store."""

    store: Store
    cache_ids: tuple[int, ...]
    heads: Heads
    batch: int


def make_layers(
    store: Store, n_layers: int, batch: int, capacity_tokens: int, heads: Heads, **options: Any
) -> Layers:
    """Empty caches. options: further ones of Store.kv_caches."""
    caches = store.kv_caches(
        n_layers,
        batch=batch,
        capacity_tokens=capacity_tokens,
        n_kv_heads=heads.n_kv_heads,
        head_dim=heads.head_dim,
        dtype=jnp.bfloat16,
        **options,
    )
    return Layers(store, tuple(int(cache.k[1]) for cache in caches), heads, batch)


def filled_layers(
    store: Store,
    n_layers: int,
    batch: int,
    n_tokens: int,
    heads: Heads,
    spare_tokens: int = 0,
    **options: Any,
) -> Layers:
    """Caches with n_tokens synthetic tokens in every row, written out, and room for more."""
    layers = make_layers(store, n_layers, batch, n_tokens + spare_tokens, heads, **options)
    for cache_id in layers.cache_ids:
        store._engine.fill_synthetic(cache_id, n_tokens)
    store.flush()
    return layers


def random_bits(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Normal bfloat16 values as the engine takes them: uint16, their bits."""
    values = np.random.default_rng(seed).standard_normal(tuple(shape), np.float32)
    return values.astype(ml_dtypes.bfloat16).view(np.uint16)


def attend(layers: Layers, rows: Sequence[int] | None = None, *, lead_in: bool = True) -> Pass:
    """One query token of each row (of `rows`; None: all) over all that the row holds."""
    chosen = np.arange(layers.batch) if rows is None else np.asarray(rows)
    return _timed(layers, chosen.astype(np.int32), append=False, lead_in=lead_in)


def decode(layers: Layers, *, lead_in: bool = True) -> Pass:
    """What a decode step does in every layer: append one token to each row, then attend."""
    return _timed(layers, np.arange(layers.batch, dtype=np.int32), append=True, lead_in=lead_in)


def append(layers: Layers, rows: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
    """k, v: uint16 [B, T, Hkv, D]: the next T tokens of int32 rows [B], in every layer."""
    for cache_id in layers.cache_ids:
        _append(layers, cache_id, rows, k, v)


def _timed(layers: Layers, rows: np.ndarray, *, append: bool, lead_in: bool) -> Pass:
    """A pass, after another that is not measured if `lead_in`: it begins and ends with as much read
    ahead, so what was read ahead while something else was measured is not given to it for nothing.
    """
    if lead_in:
        _pass(layers, rows, append=append)
    return _pass(layers, rows, append=append)


def _pass(layers: Layers, rows: np.ndarray, *, append: bool) -> Pass:
    engine, heads = layers.store._engine, layers.heads
    q = random_bits((len(rows), 1, heads.n_q_heads, heads.head_dim))
    new = random_bits((len(rows), 1, heads.n_kv_heads, heads.head_dim), seed=1)
    before, n_tokens = engine.stats()["bytes_read"], 0
    begin = time.perf_counter()
    for cache_id in layers.cache_ids:
        if append:
            _append(layers, cache_id, rows, new, new)
        length = _lengths(layers, cache_id, rows)
        n_tokens += int(length.sum())
        engine.attend(
            cache_id, engine.version(cache_id), q, rows, length - 1, length, heads.head_dim**-0.5
        )
    seconds = time.perf_counter() - begin
    read = engine.stats()["bytes_read"] - before
    return Pass(seconds, n_tokens * heads.kv_token_bytes, read)


def _append(layers: Layers, cache_id: int, rows: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
    engine = layers.store._engine
    n_new = np.full(len(rows), k.shape[1], np.int32)
    start = _lengths(layers, cache_id, rows)
    engine.append(cache_id, engine.version(cache_id), k, v, rows, start, n_new)


def _lengths(layers: Layers, cache_id: int, rows: np.ndarray) -> np.ndarray:
    return np.asarray(layers.store._engine.lengths(cache_id), np.int32)[rows]
