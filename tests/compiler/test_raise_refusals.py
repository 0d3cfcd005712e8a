"""What raise-attention leaves alone is refused later, and stored arrays are linear."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from raised_models import CAPACITY, PIPELINE, ROWS, gemma_steps, in_store, linen_model, prompt
from unmarked_models import GemmaDecoder, LinenDecoder

from nspjax import Store, near_storage
from nspjax.errors import InvalidArgumentError, OffloadError, StaleHandleError


def test_a_mask_that_is_an_input_is_refused():
    model = GemmaDecoder(kv_heads=2, rngs=nnx.Rngs(0))
    graph, weights = nnx.split(model)

    def fn(weights, tokens, mask, cache):
        positions = cache["layer_0"]["end_index"][:, None]
        return nnx.merge(graph, weights)(tokens, positions, cache, mask)

    with Store("memory:", host_memory="16MiB") as store:
        stored = in_store(store, model.init_cache(ROWS, CAPACITY), "['k']", "['v']")
        near = near_storage(fn, store=store, pipeline=PIPELINE)
        mask = jnp.ones((ROWS, 1, CAPACITY), bool)
        with pytest.raises(OffloadError, match="nothing is known of an input: argument") as error:
            near(weights, prompt(1), mask, stored)
    assert "unmarked_models.py" in str(error.value), "it names the model's line"


def test_dropout_is_refused():
    model = LinenDecoder(dropout_rate=0.5)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = model.init(keys, jnp.ones((ROWS, CAPACITY), jnp.int32))

    def fn(weights, cache, tokens, key):
        return model.apply(
            {"params": weights, "cache": cache}, tokens, mutable=["cache"], rngs={"dropout": key}
        )

    with Store("memory:", host_memory="16MiB") as store:
        stored = in_store(store, variables["cache"], "cached_key", "cached_value")
        near = near_storage(fn, store=store, pipeline=PIPELINE)
        with pytest.raises(OffloadError, match="the weights are no softmax") as error:
            near(variables["params"], stored, prompt(1), jax.random.key(2))
    assert "flax/linen/attention.py" in str(error.value)


def test_without_the_pass_the_error_says_to_use_it():
    weights, cache, names, run = linen_model()
    with Store("memory:", host_memory="16MiB") as store:
        near = near_storage(lambda *args: run(*args, True), store=store)
        with pytest.raises(OffloadError, match="raise-attention"):
            near(weights, in_store(store, cache, *names), prompt())


def test_kv_pair_takes_what_it_can_hold():
    with Store("memory:", host_memory="16MiB") as store:
        shape = jax.ShapeDtypeStruct((2, 16, 2, 8), jnp.float32)
        k, v = store.kv_pair(shape, jnp.zeros(shape.shape))
        assert k.shape == v.shape == shape.shape
        assert k.dtype == v.dtype == shape.dtype
        with pytest.raises(InvalidArgumentError, match="hold tokens"):
            store.kv_pair(jnp.ones(shape.shape), jnp.ones(shape.shape))
        with pytest.raises(InvalidArgumentError, match=r"\[B, C, Hkv, D\]"):
            store.kv_pair(jnp.zeros((16, 2, 8)), jnp.zeros((16, 2, 8)))
        with pytest.raises(InvalidArgumentError, match="of one dtype"):
            store.kv_pair(shape, jnp.zeros((2, 16, 4, 8)))


def test_stored_arrays_are_linear():
    model = GemmaDecoder(kv_heads=2, rngs=nnx.Rngs(0))
    weights, fn = gemma_steps(model)
    with Store("memory:", host_memory="16MiB") as store, Store("memory:") as another:
        stored = in_store(store, model.init_cache(ROWS, CAPACITY), "['k']", "['v']")
        near = near_storage(fn, store=store, pipeline=PIPELINE)
        near(weights, prompt(1), jnp.int32(0), stored)
        with pytest.raises(StaleHandleError):
            near(weights, prompt(1), jnp.int32(0), stored)
        elsewhere = near_storage(fn, store=another, pipeline=PIPELINE)
        with pytest.raises(InvalidArgumentError, match="another Store"):
            elsewhere(weights, prompt(1), jnp.int32(0), stored)
