"""Logits of given tokens while attention reads a KV cache as it is stored.

A text's first tokens, the prefix, are computed once, in float32 with the cache in memory, so that
all settings begin with the same K and V. Then each of the tokens that are scored goes through one
decode step, as in generation, and what a setting changes is what these steps read. A chunk of
prefill would not do: its tokens see each other's K and V before they are stored.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nspjax import Store, near_storage
from nspjax.models import Decoder
from nspjax.ops import KVCache, cached_attention

CHUNK_TOKENS = 512


@dataclasses.dataclass(frozen=True)
class Setting:
    """How decode keeps its cache, and reads it.

    cache: options of `Store.kv_caches`; None: float32 arrays in memory, by plain JAX. pipeline: of
    `near_storage`; None: its own. host_memory: the store's.
    """

    cache: Mapping[str, Any] | None = None
    pipeline: str | None = None
    host_memory: str = "1GiB"


@dataclasses.dataclass(frozen=True)
class Prefix:
    """tokens: int32 [B, S], the whole texts. caches: one a layer, with the first n_prefix of
    them."""

    tokens: np.ndarray
    n_prefix: int
    caches: list[KVCache]


def prefilled(model: Decoder, tokens: np.ndarray, n_prefix: int) -> Prefix:
    """Compute the first tokens. model: float32. tokens: int32 [B, S], texts of one length."""
    graph, weights = nnx.split(model)

    @jax.jit
    def step(weights: Any, tokens: jax.Array, caches: Any) -> Any:
        return nnx.merge(graph, weights)(tokens, caches)[1]

    caches = model.init_caches(tokens.shape[0], tokens.shape[1], jnp.float32)
    for chunk in _chunks(n_prefix):
        caches = step(weights, jnp.asarray(tokens[:, chunk]), caches)
    return Prefix(tokens, n_prefix, caches)


def forced_logits(
    model: Decoder,
    prefix: Prefix,
    setting: Setting,
    directory: Path,
    told: Callable[[int], object] = lambda read_bytes: None,
) -> Iterator[np.ndarray]:
    """float32 [B, V] after each of the tokens from the prefix's last but one on: what is thought of
    the token at n_prefix, n_prefix + 1 and so on to the last. directory: of the store. told: what
    all steps together read of it, in bytes."""
    graph, weights = nnx.split(model)

    def decode(weights: Any, tokens: jax.Array, caches: Any) -> Any:
        model = nnx.merge(graph, weights)
        hidden, caches = model(tokens, caches)
        return model.logits(hidden[:, 0]), caches

    # the last token of the prefix is decoded, not prefilled: its logits are the first that count
    begin = prefix.n_prefix - 1
    with _stored(prefix, begin, setting, directory) as (store, caches):
        if store is None:
            step = jax.jit(decode)
        else:
            options = {} if setting.pipeline is None else {"pipeline": setting.pipeline}
            step = near_storage(decode, store=store, **options)
        before = 0 if store is None else store.stats().bytes_read
        for at in range(begin, prefix.tokens.shape[1] - 1):
            logits, caches = step(weights, jnp.asarray(prefix.tokens[:, at : at + 1]), caches)
            yield np.asarray(logits)
        if store is not None:
            told(store.stats().bytes_read - before)


@contextlib.contextmanager
def _stored(
    prefix: Prefix, n_tokens: int, setting: Setting, directory: Path
) -> Iterator[tuple[Store | None, list[Any]]]:
    """The first tokens' K and V in caches of the setting."""
    if setting.cache is None:
        lengths = np.full(prefix.tokens.shape[0], n_tokens, np.int32)
        yield None, [cache.with_lengths(lengths) for cache in prefix.caches]
        return
    batch, capacity_tokens, n_kv_heads, head_dim = prefix.caches[0].k.shape
    with Store(directory, host_memory=setting.host_memory, pinned="0") as store:
        caches = store.kv_caches(
            len(prefix.caches),
            batch=batch,
            capacity_tokens=capacity_tokens,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            **setting.cache,
        )
        yield store, _filled(store, caches, prefix.caches, n_tokens)


def _filled(store: Store, caches: Any, source: list[KVCache], n_tokens: int) -> Any:
    def append(keys: list[jax.Array], values: list[jax.Array], caches: Any) -> Any:
        longer = []
        for k, v, cache in zip(keys, values, caches, strict=True):
            k, v = k.astype(cache.k.dtype), v.astype(cache.v.dtype)
            longer.append(cached_attention(jnp.zeros_like(k), k, v, cache)[1])
        return longer

    near = near_storage(append, store=store)
    for chunk in _chunks(n_tokens):
        keys = [cache.k[:, chunk] for cache in source]
        values = [cache.v[:, chunk] for cache in source]
        caches = near(keys, values, caches)
    return caches


def _chunks(n_tokens: int) -> Iterator[slice]:
    for begin in range(0, n_tokens, CHUNK_TOKENS):
        yield slice(begin, min(begin + CHUNK_TOKENS, n_tokens))
