"""A decode step of two layers on ordinary JAX, with its caches in memory or in a store."""

import jax
import jax.numpy as jnp

from nspjax import KVCache, cached_attention

LAYERS, ROWS, CAPACITY, HKV, GROUP, D = 2, 3, 64, 2, 2, 16
SIZES = {"batch": ROWS, "capacity_tokens": CAPACITY, "n_kv_heads": HKV, "head_dim": D}


def weights(seed=0):
    shape = (LAYERS, HKV * GROUP * D, (HKV * GROUP + 2 * HKV) * D)
    return jax.random.normal(jax.random.key(seed), shape) * 0.1


def step(w, x, caches, n_new=None, **options):
    """A little decoder: x [B, T, E] -> x, caches."""
    b, t, e = x.shape
    after = []
    for layer, cache in zip(w, caches, strict=True):
        q, k, v = jnp.split(x @ layer, [e, e + HKV * D], axis=-1)
        out, cache = cached_attention(
            q.reshape(b, t, HKV * GROUP, D),
            k.reshape(b, t, HKV, D).astype(cache.k.dtype),
            v.reshape(b, t, HKV, D).astype(cache.k.dtype),
            cache,
            n_new=n_new,
            **options,
        )
        x, after = x + out.reshape(b, t, e), [*after, cache]
    return x, after


def prompt(n_tokens, seed=1):
    return jax.random.normal(jax.random.key(seed), (ROWS, n_tokens, HKV * GROUP * D))


def in_memory(dtype=jnp.float32):
    return [KVCache.zeros(*SIZES.values(), dtype) for _ in range(LAYERS)]


def stored(store, dtype=jnp.float32):
    return store.kv_caches(LAYERS, **SIZES, dtype=dtype)
