"""Models that were written without nspjax give in a store what they give in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export
from raised_models import (
    CAPACITY,
    PIPELINE,
    ROWS,
    gemma_model,
    gemma_steps,
    in_store,
    linen_model,
    nnx_model,
    prompt,
)
from unmarked_models import HEADS, GemmaDecoder

from nspjax import Store, near_storage
from nspjax.compiler import mlir
from nspjax.compiler.driver.presets import PRESETS
from nspjax.compiler.passes.raise_attention import raise_attention
from nspjax.errors import InvalidArgumentError

MODELS = {
    "nnx": lambda: nnx_model(HEADS),
    "nnx-grouped": lambda: nnx_model(2),
    "linen": linen_model,
    "gemma": lambda: gemma_model(HEADS),
    "gemma-grouped-softcap": lambda: gemma_model(2, softcap=20.0),
    "gemma-one-kv-head-window": lambda: gemma_model(1, window=6),
}


QUICK = ("nnx", "linen", "gemma-grouped-softcap")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in MODELS],
)
def test_decode_in_a_loop_is_as_in_memory(store, name):
    check_generate(store, *MODELS[name](), loop=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_unrolled_decode_is_as_in_memory(name):
    with Store("memory:", host_memory="16MiB") as store:
        check_generate(store, *MODELS[name](), loop=False)


@pytest.mark.parametrize("preset", ["baseline", "ans+writeback"])
def test_the_other_passes_take_what_was_raised(preset):
    weights, cache, names, run = gemma_model(2, softcap=20.0)
    pipeline = f"raise-attention,{PRESETS[preset]}"
    with Store("memory:", host_memory="16MiB") as store:
        check_generate(store, weights, cache, names, run, loop=True, pipeline=pipeline)


def check_generate(store, weights, cache, names, run, loop, pipeline=PIPELINE):
    tokens = prompt()
    jitted = jax.jit(run, static_argnums=3)
    expected, expected_logits, _ = jitted(weights, cache, tokens, loop)
    assert len(np.unique(expected[:, 3:])) > 1, "the model says one token always"

    near = near_storage(lambda *args: run(*args, loop), store=store, pipeline=pipeline)
    got, logits, after = jax.jit(near)(weights, in_store(store, cache, *names), tokens)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-5)
    assert jax.tree.structure(after) == jax.tree.structure(in_store(store, cache, *names))


@pytest.mark.parametrize("window", [None, 6])
def test_prefill_then_decode_is_as_in_memory(store, window):
    model = GemmaDecoder(kv_heads=2, softcap=20.0, window=window, rngs=nnx.Rngs(0))
    weights, fn = gemma_steps(model)
    cache = model.init_cache(ROWS, CAPACITY)
    stored = in_store(store, cache, "['k']", "['v']")
    near = near_storage(fn, store=store, pipeline=PIPELINE)
    in_memory, tokens = jax.jit(fn), prompt(16)
    at = 0
    for n_tokens in (7, 1, 1, 4, 1):
        part, step = tokens[:, at : at + n_tokens], jnp.int32(at)
        expected, cache = in_memory(weights, part, step, cache)
        got, stored = near(weights, part, step, stored)
        np.testing.assert_allclose(got, expected, atol=1e-5)
        at += n_tokens


def test_positions_that_part_are_an_error():
    """The mask's position and the cache's are two inputs: that they agree is seen when it runs."""
    model = GemmaDecoder(kv_heads=2, rngs=nnx.Rngs(0))
    weights, fn = gemma_steps(model)
    with Store("memory:", host_memory="16MiB") as store:
        stored = in_store(store, model.init_cache(ROWS, CAPACITY), "['k']", "['v']")
        near = near_storage(fn, store=store, pipeline=PIPELINE)
        _, stored = near(weights, prompt(1), jnp.int32(0), stored)
        with pytest.raises(InvalidArgumentError, match="start is -1"):
            near(weights, prompt(1), jnp.int32(2), stored)


def test_a_full_cache_is_an_error_and_does_not_wrap():
    model = GemmaDecoder(kv_heads=2, rngs=nnx.Rngs(0))
    weights, fn = gemma_steps(model, capacity=4)
    with Store("memory:", host_memory="16MiB") as store:
        stored = in_store(store, model.init_cache(ROWS, 4), "['k']", "['v']")
        near = near_storage(fn, store=store, pipeline=PIPELINE)
        _, stored = near(weights, prompt(4), jnp.int32(0), stored)
        with pytest.raises(InvalidArgumentError, match="start is -1"):
            near(weights, prompt(1), jnp.int32(4), stored)


def test_raised_without_a_store_it_computes_the_same():
    """The mark's own computation, put in the place of the model's."""
    weights, cache, _, run = gemma_model(2, softcap=20.0)
    tokens = prompt()
    exported = export.export(jax.jit(run, static_argnums=3))(weights, cache, tokens, True)
    module = mlir.module_of(exported)
    after, report = raise_attention(module)
    assert len(report.raised) == 2
    assert not report.left
    again = mlir.with_module(exported, after, mlir.signature(module))
    expected, logits, _ = exported.call(weights, cache, tokens)
    got, got_logits, _ = again.call(weights, cache, tokens)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(got_logits, logits, atol=1e-5)


def test_bfloat16_is_close():
    model = GemmaDecoder(kv_heads=2, rngs=nnx.Rngs(0))
    weights, fn = gemma_steps(model)
    weights = jax.tree.map(lambda w: w.astype(jnp.bfloat16), weights)
    cache = model.init_cache(ROWS, CAPACITY, jnp.bfloat16)

    def cast(weights, tokens, step, cache):
        logits, cache = fn(weights, tokens, step, cache)
        return logits.astype(jnp.float32), cache

    with Store("memory:", host_memory="16MiB") as store:
        stored = in_store(store, cache, "['k']", "['v']")
        near = near_storage(cast, store=store, pipeline=PIPELINE)
        for at in range(4):
            args = (weights, prompt(4)[:, at : at + 1], jnp.int32(at))
            expected, cache = jax.jit(cast)(*args, cache)
            got, stored = near(*args, stored)
            np.testing.assert_allclose(got, expected, atol=0.05, rtol=0.05)
