"""A model's sliding window over caches that keep no more than that, against the cache in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nspjax import KVCache, Store, cached_attention, near_storage
from nspjax.errors import InvalidArgumentError

ROWS, CAPACITY, HEADS, KV_HEADS, D, WINDOW = 3, 300, 4, 2, 16, 37
# prompts, pieces of them, decode steps; rows that idle; far more than the window holds
STEPS = [(70, [70, 33, 1]), (1, [1, 0, 1]), (90, [90, 31, 5]), *[(1, [1, 1, 1])] * 20]

PIPELINES = {
    "plain": "offload-kv,lower-to-ffi",
    "hauled": "offload-kv,haul-kv{chunk-tokens=32},lower-to-ffi",
    "scheduled": "offload-kv,split-attention,delay-writeback{interval=4},prefetch,lower-to-ffi",
}


def attended(q, k, v, n_new, cache, *, window=WINDOW):
    return cached_attention(q, k, v, cache, n_new=n_new, window=window)


def random_inputs(seed, n_tokens):
    rng = np.random.default_rng(seed)
    sizes = [(ROWS, n_tokens, h, D) for h in (HEADS, KV_HEADS, KV_HEADS)]
    return [jnp.asarray(rng.standard_normal(size), jnp.float32) for size in sizes]


def new_cache(store):
    return store.kv_cache(
        batch=ROWS, capacity_tokens=CAPACITY, n_kv_heads=KV_HEADS, head_dim=D, dtype=jnp.float32,
        interval_tokens=16, window_tokens=WINDOW,
    )  # fmt: skip


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_equal_to_memory(tmp_path, pipeline):
    with Store(tmp_path, host_memory="16MiB", pinned=0) as store:
        near = near_storage(attended, store=store, pipeline=PIPELINES[pipeline])
        reference = jax.jit(attended)
        cache = new_cache(store)
        memory = KVCache.zeros(ROWS, CAPACITY, KV_HEADS, D, jnp.float32)
        for seed, (n_tokens, n_new) in enumerate(STEPS):
            inputs, new = random_inputs(seed, n_tokens), jnp.array(n_new, jnp.int32)
            out, cache = near(*inputs, new, cache)
            expected, memory = reference(*inputs, new, memory)
            real = np.arange(n_tokens) < np.asarray(n_new)[:, None]
            np.testing.assert_allclose(out[real], expected[real], atol=2e-6)
        brought = store.fetch(cache)
        begin = int(cache.lengths[0]) - WINDOW
        assert begin > 64
        np.testing.assert_array_equal(brought.k[0, begin:], memory.k[0, begin:])
        assert not brought.k[0, : begin - 48].any()


def test_a_wider_attention_is_refused(tmp_path):
    with Store(tmp_path, host_memory="16MiB") as store:
        cache = new_cache(store)
        for window, words in ((None, "no window"), (38, "a window of 38 tokens")):
            near = near_storage(functools.partial(attended, window=window), store=store)
            with pytest.raises(InvalidArgumentError, match=rf"{words}: the cache keeps .* 37"):
                near(*random_inputs(0, 1), jnp.ones(ROWS, jnp.int32), store.current(cache))
        with pytest.raises(InvalidArgumentError, match="window_tokens is 0"):
            store.kv_cache(batch=1, capacity_tokens=8, n_kv_heads=1, head_dim=8, window_tokens=0)
