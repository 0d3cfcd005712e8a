"""What is not finite, near storage: where the same function in memory has it.

Prompts, extensions and decode steps of ragged rows; a chunk of 32 tokens and tiles of 16, so that
each row's result is merged of several; rows that share a prefix, rows that begin anew.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from not_finite import odd_values, put, without_subnormals

from nspjax import KVCache, Store, cached_attention, near_storage

ROWS, CAPACITY, HEADS, KV_HEADS, D = 3, 96, 4, 2, 16
STEPS = [(40, [40, 17, 1]), (1, [1, 0, 1]), (40, [31, 40, 9]), (1, [1, 1, 1])]
PIPELINES = {
    "store": "offload-kv,lower-to-ffi",
    "haul": "offload-kv,haul-kv{chunk-tokens=32},lower-to-ffi",
    "ans+writeback": "ans+writeback",
}


def attended(q, k, v, n_new, cache):
    return cached_attention(q, k, v, cache, n_new=n_new, window=60)


@functools.cache
def in_memory():
    return jax.jit(attended)


@pytest.fixture(scope="module", params=PIPELINES)
def near(request, tmp_path_factory):
    """store, function; devices and pinned tiles differ, too."""
    devices = ["memory:", "memory:"]
    if request.param != "store":
        devices = [tmp_path_factory.mktemp("kv")]
    pinned = 0 if request.param == "haul" else None
    with Store(*devices, host_memory="32MiB", pinned=pinned) as store:
        yield store, near_storage(attended, store=store, pipeline=PIPELINES[request.param])


@settings(max_examples=12, deadline=None)
@given(odd=st.lists(st.tuples(*[odd_values] * 3), min_size=4, max_size=4), seed=st.integers(0, 99))
def test_as_in_memory(near, odd, seed):
    store, fn = near
    rng = np.random.default_rng(seed)
    memory = KVCache.zeros(ROWS, CAPACITY, KV_HEADS, D, jnp.float32)
    cache = cache_of(store)
    for (n_tokens, n_new), values in zip(STEPS, odd, strict=True):
        q, k, v = (
            put(
                rng.standard_normal((ROWS, n_tokens, heads, D), np.float32),
                "f32",
                without_subnormals(some),
            )
            for heads, some in zip((HEADS, KV_HEADS, KV_HEADS), values, strict=True)
        )
        n_new = np.array(n_new, np.int32)
        real = np.arange(n_tokens) < n_new[:, None]
        k[~real] = v[~real] = np.nan  # padding
        expected, memory = in_memory()(q, k, v, n_new, memory)
        out, cache = fn(q, k, v, n_new, cache)
        out, expected = np.asarray(out)[real], np.asarray(expected)[real]
        np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
        np.testing.assert_allclose(out, expected, atol=3e-6)


def cache_of(store):
    return store.kv_cache(
        batch=ROWS, capacity_tokens=CAPACITY, n_kv_heads=KV_HEADS, head_dim=D, dtype=jnp.float32,
        interval_tokens=16,
    )  # fmt: skip
