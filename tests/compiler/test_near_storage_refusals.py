"""What `near_storage` refuses of caches, handles and pipelines, before anything is computed."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from layered_decode import CAPACITY, HKV, ROWS, SIZES, D, in_memory, prompt, step, stored, weights

from nspjax import Store, cached_attention, near_storage
from nspjax.errors import (
    InvalidArgumentError,
    OffloadError,
    PipelineError,
    StaleHandleError,
    StoreClosedError,
    engine_errors,
)


def test_a_handle_used_twice_is_refused(store):
    near, caches = near_storage(step, store=store), stored(store)
    _, after = near(weights(), prompt(1), caches)
    with pytest.raises(StaleHandleError, match="used twice"):
        near(weights(), prompt(1), caches)
    with pytest.raises(StaleHandleError), engine_errors():
        jax.block_until_ready(jax.jit(near)(weights(), prompt(1), caches))
    with pytest.raises(StaleHandleError):
        store.fetch(caches[0])
    near(weights(), prompt(1), after)  # the store goes on


def test_mixed_handles_are_refused(store):
    near, caches = near_storage(step, store=store), stored(store)
    mixed = [dataclasses.replace(caches[0], v=caches[1].v), caches[1]]
    with pytest.raises(InvalidArgumentError, match="mixed"):
        near(weights(), prompt(1), mixed)


def test_a_full_row_is_refused(store):
    near, caches = near_storage(step, store=store), stored(store)
    _, caches = near(weights(), prompt(CAPACITY), caches)
    with pytest.raises(InvalidArgumentError, match=f"do not fit its capacity of {CAPACITY}"):
        near(weights(), prompt(1), caches)


def test_another_use_of_the_cache_names_the_line(store):
    def peeks(x, cache):
        out, cache = cached_attention(x, x, x, cache)
        return out + cache.k[:, :1], cache  # the line that the error must name

    line = peeks.__code__.co_firstlineno + 2
    cache = store.kv_cache(**SIZES, dtype=jnp.float32)
    x = jnp.ones((ROWS, 1, HKV, D))
    with pytest.raises(
        OffloadError, match=rf"stablehlo.slice at .*test_near_storage_refusals.py:{line};"
    ):
        near_storage(peeks, store=store)(x, cache)


def test_in_memory_caches_and_closed_stores_are_refused(tmp_path):
    store = Store(tmp_path, host_memory="16MiB")
    near, caches = near_storage(step, store=store), stored(store)
    with pytest.raises(InvalidArgumentError, match="in-memory KVCache"):
        near(weights(), prompt(1), in_memory())
    with pytest.raises(InvalidArgumentError, match="needs a KVCache, got StoredKVCache"):
        step(weights(), prompt(1), caches)
    store.close()
    with pytest.raises(StoreClosedError):
        near(weights(), prompt(1), caches)


def test_another_stores_cache_is_refused(store):
    with Store("memory:") as other:
        with pytest.raises(InvalidArgumentError, match="another Store"):
            near_storage(step, store=store)(weights(), prompt(1), stored(other))
        with pytest.raises(InvalidArgumentError, match="another Store"):
            store.drop(other.kv_cache(**SIZES))


def test_a_line_inside_a_nested_function_is_found(store):
    def chooses(x, a, b):
        out, a = cached_attention(x, x, x, a)
        return out, jnp.where(x[0, 0, 0, 0] > 0, a.k, b.k)  # the line to name

    line = chooses.__code__.co_firstlineno + 2
    a, b = store.kv_caches(2, **SIZES, dtype=jnp.float32)
    with pytest.raises(OffloadError, match=rf"test_near_storage_refusals.py:{line};"):
        near_storage(chooses, store=store)(jnp.ones((ROWS, 1, HKV, D)), a, b)


@pytest.mark.parametrize("pipeline", ["", "offload-kv", "lower-to-ffi"])
def test_a_pipeline_that_leaves_work_undone_is_refused(pipeline):
    with Store("memory:") as store, pytest.raises(PipelineError, match="needs offload-kv"):
        near_storage(step, store=store, pipeline=pipeline)(weights(), prompt(1), stored(store))
