"""The decoder under jit: weights as arguments, rows, pieces, loops, and independence of rows."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax import numpy as jnp

from nspjax.errors import InvalidArgumentError
from nspjax.models import Decoder, ModelConfig, random_decoder

CONFIG = ModelConfig.llama(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    max_position_tokens=64,
    window_tokens=20,
    windowed_layers=(1,),
)
MIXTURE = dataclasses.replace(CONFIG, n_experts=4)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 50, (4, 8)), jnp.int32)


@functools.cache
def compiled(config: ModelConfig = CONFIG, dtype: str = "float32"):
    decoder = random_decoder(config, seed=3, dtype=dtype)
    graph, weights = nnx.split(decoder)

    @jax.jit
    def run(weights, tokens, caches, rows, n_new):
        decoder = nnx.merge(graph, weights)
        hidden, caches = decoder(tokens, caches, rows=rows, n_new=n_new)
        return decoder.logits(hidden), caches

    def call(tokens, caches, rows=None, n_new=None):
        return run(weights, tokens, caches, rows, n_new)

    return decoder, call


def test_shapes_and_dtypes() -> None:
    decoder = random_decoder(CONFIG)
    caches = decoder.init_caches(4, 16)
    assert [cache.k.shape for cache in caches] == [(4, 16, 2, 8)] * 2
    assert caches[0].k.dtype == decoder.dtype == jnp.bfloat16
    hidden, _ = jax.eval_shape(decoder, TOKENS[:, :1], caches)
    assert (hidden.shape, hidden.dtype) == ((4, 1, 32), jnp.bfloat16)
    logits = jax.eval_shape(decoder.logits, jnp.zeros(32, jnp.bfloat16))
    assert (logits.shape, logits.dtype) == ((50,), jnp.float32)


def test_a_cache_of_another_dtype() -> None:
    decoder, call = compiled()
    exact, _ = call(TOKENS, decoder.init_caches(4, 16))
    rounded, caches = call(TOKENS, decoder.init_caches(4, 16, jnp.bfloat16))
    assert caches[0].k.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded, exact, atol=0.02)
    assert not np.array_equal(rounded, exact)


def test_weights_are_arguments_of_the_program_not_constants_in_it() -> None:
    decoder, _ = compiled()
    graph, weights = nnx.split(decoder)

    def run(weights, tokens, caches):
        return nnx.merge(graph, weights)(tokens, caches)

    jaxpr = jax.make_jaxpr(run)(weights, TOKENS, decoder.init_caches(4, 16))
    assert sum(np.size(const) for const in jaxpr.consts) < 100


def test_in_pieces_as_at_once() -> None:
    decoder, call = compiled()
    at_once, _ = call(TOKENS, decoder.init_caches(4, 16))
    first, caches = call(TOKENS[:, :5], decoder.init_caches(4, 16))
    second, caches = call(TOKENS[:, 5:], caches)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), at_once, atol=1e-5)
    np.testing.assert_array_equal(caches[1].lengths, [8] * 4)


def test_some_rows_of_the_cache() -> None:
    decoder, call = compiled()
    caches = [cache.with_lengths(jnp.array([3, 0, 5, 0])) for cache in decoder.init_caches(4, 16)]
    rows, n_new = jnp.array([3, 1]), jnp.array([8, 2])
    logits, caches = call(TOKENS[:2], caches, rows, n_new)
    alone, _ = call(TOKENS[:2], decoder.init_caches(2, 16), None, n_new)
    np.testing.assert_allclose(logits[0], alone[0], atol=1e-5)
    np.testing.assert_allclose(logits[1, :2], alone[1, :2], atol=1e-5)
    np.testing.assert_array_equal(caches[0].lengths, [3, 2, 5, 8])


def test_inside_a_while_loop() -> None:
    decoder, call = compiled()
    graph, weights = nnx.split(decoder)

    @jax.jit
    def generate(weights, token, caches):
        def one_step(carry):
            step, token, caches, out = carry
            decoder = nnx.merge(graph, weights)
            hidden, caches = decoder(token[:, None], caches)
            token = decoder.logits(hidden[:, 0]).argmax(-1).astype(jnp.int32)
            return step + 1, token, caches, out.at[:, step].set(token)

        out = jnp.zeros((4, 6), jnp.int32)
        return lax.while_loop(lambda c: c[0] < 6, one_step, (0, token, caches, out))[3]

    token, caches, expected = TOKENS[:, 0], decoder.init_caches(4, 16), []
    looped = generate(weights, token, caches)
    for _ in range(6):
        logits, caches = call(token[:, None], caches)
        token = logits[:, 0].argmax(-1).astype(jnp.int32)
        expected.append(token)
    np.testing.assert_array_equal(looped, np.stack(expected, 1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [CONFIG, MIXTURE], ids=["dense", "experts"])
def test_a_row_does_not_depend_on_its_neighbours(config: ModelConfig, dtype: str) -> None:
    """To the last bit, in a program of the same shape, whatever the others hold."""
    decoder, call = compiled(config, dtype)
    rng = np.random.default_rng(1)
    results = []
    for slot in (0, 0, 3):
        tokens = rng.integers(0, 50, (4, 8)).astype(np.int32)
        n_new = rng.integers(1, 9, 4).astype(np.int32)
        tokens[slot], n_new[slot] = TOKENS[0], 6
        prefill, caches = call(tokens, decoder.init_caches(4, 16), None, n_new)
        step, _ = call(tokens[:, :1], caches, None, np.ones(4, np.int32))
        results.append((np.asarray(prefill)[slot, :6], np.asarray(step)[slot]))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0][0], other[0])
        np.testing.assert_array_equal(results[0][1], other[1])


def test_padding_tokens_out_of_the_vocabulary_do_no_harm() -> None:
    config = dataclasses.replace(CONFIG, positions="learned", max_position_tokens=8)
    decoder, call = compiled(config)
    n_new = jnp.full(4, 6, jnp.int32)
    wild = TOKENS.at[:, 6:].set(jnp.array([-1, 10**9]))
    logits, caches = call(wild, decoder.init_caches(4, 16), None, n_new)
    expected, _ = call(TOKENS, decoder.init_caches(4, 16), None, n_new)
    np.testing.assert_array_equal(logits[:, :6], expected[:, :6])
    step, _ = call(TOKENS[:, :4], caches, None, jnp.ones(4, jnp.int32))  # positions 6 .. 9 of 8
    assert np.isfinite(step).all()


def test_long_prefill_builds_no_square_of_scores() -> None:
    config = dataclasses.replace(CONFIG, n_layers=1, max_position_tokens=16384)
    graph, weights = nnx.split(random_decoder(config, dtype="float32"))
    caches = nnx.merge(graph, weights).init_caches(1, 16384)

    def run(weights, tokens, caches):
        return nnx.merge(graph, weights)(tokens, caches)

    tokens = jnp.zeros((1, 16384), jnp.int32)
    memory = jax.jit(run).lower(weights, tokens, caches).compile().memory_analysis()
    square_bytes = 16384**2 * 4
    assert memory.temp_size_in_bytes < square_bytes / 10


def test_one_cache_a_layer() -> None:
    decoder, _ = compiled()
    with pytest.raises(InvalidArgumentError, match="1 caches for 2 layers"):
        decoder(TOKENS, decoder.init_caches(4, 16)[:1])


def test_random_decoder_is_reproducible_and_of_unit_scale() -> None:
    a, b, c = (random_decoder(CONFIG, seed=seed, dtype="float32") for seed in (0, 0, 1))
    np.testing.assert_array_equal(a.head[...], b.head[...])
    assert not np.array_equal(a.head[...], c.head[...])
    assert not np.array_equal(a.layers[0].mlp.up.w[...], a.layers[1].mlp.up.w[...])
    decoder, call = compiled()
    logits, _ = call(TOKENS, decoder.init_caches(4, 16))
    assert 0.5 < float(logits.std()) < 2


def test_a_new_decoder_has_the_dtype_asked_for() -> None:
    leaves = jax.tree.leaves(nnx.split(Decoder(MIXTURE, dtype=jnp.float16))[1])
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float16")}
