"""What test_opt.py gives to `nspjax opt` as module:function."""

import jax
import jax.numpy as jnp

from nspjax.ops import KVCache, cached_attention

SPEC = jax.ShapeDtypeStruct


def _cache():
    kv = SPEC((2, 32, 2, 8), jnp.bfloat16)
    return KVCache(kv, kv, SPEC((2,), jnp.int32))


def _layers(x, weights, caches):
    after = []
    for weight, cache in zip(weights, caches, strict=True):
        out, cache = cached_attention(x, x, x, cache)
        x = out @ weight
        after.append(cache)
    return x, after


def decode():
    """Two layers, one token a row, of specs."""
    weight = SPEC((8, 8), jnp.bfloat16)
    return _layers, (SPEC((2, 1, 2, 8), jnp.bfloat16), [weight] * 2, [_cache(), _cache()])


def with_arrays():
    """The same, of arrays."""
    caches = [KVCache.zeros(2, 32, 2, 8) for _ in range(2)]
    return _layers, (
        jnp.ones((2, 1, 2, 8), jnp.bfloat16),
        [jnp.ones((8, 8), jnp.bfloat16)] * 2,
        caches,
    )


def reads_its_cache():
    """What offload-kv refuses."""
    return lambda cache: cache.k.sum(), (_cache(),)


def returns_a_number():
    return 3


def fails():
    return lambda x: x + jnp.ones(3), (SPEC((2,), jnp.float32),)


class Namespace:
    decode = staticmethod(decode)
