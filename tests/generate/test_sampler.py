import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nspjax.generate.sampling.sampler import Sampling, _gumbel, allowed_logits, sample

VOCABULARY = 40
ROWS = 3

compiled_allowed = jax.jit(allowed_logits)
compiled_sample = jax.jit(sample)


def settings_of(n_rows, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=0) -> Sampling:
    """Each value for all rows, or one a row."""

    def each(value, dtype):
        return np.broadcast_to(np.asarray(value, dtype), n_rows)

    seeds = each(seed, np.uint32)
    return Sampling(
        jnp.asarray(each(temperature, np.float32)),
        jnp.asarray(each(top_k, np.int32)),
        jnp.asarray(each(top_p, np.float32)),
        jnp.asarray(each(min_p, np.float32)),
        jnp.asarray(np.stack([np.zeros_like(seeds), seeds], axis=1)),
    )


def random_logits(seed, n_rows=ROWS, scale=3.0):
    values = np.random.default_rng(seed).normal(size=(n_rows, VOCABULARY)) * scale
    return values.astype(np.float32)


@given(
    st.integers(0, 10**6),
    st.floats(0.0625, 5.0, width=32),
    st.integers(-1, VOCABULARY + 5),
    st.floats(0.015625, 1.0, width=32),
    st.floats(0.0, 1.0, width=32, allow_subnormal=False),
)
@settings(max_examples=150, deadline=None)
def test_the_allowed_tokens_are_those_of_a_sorted_reference(seed, temperature, top_k, top_p, min_p):
    logits = random_logits(seed)
    allowed = compiled_allowed(
        logits,
        settings_of(ROWS, temperature=temperature, top_k=max(top_k, 0), top_p=top_p, min_p=min_p),
    )
    for row, kept in zip(logits, np.isfinite(allowed), strict=True):
        scaled = row.astype(np.float64) / temperature
        chance = np.exp(scaled - scaled.max())
        n_likely = (chance >= min_p).sum()  # min-p: against the most likely one
        n_left = min(n_likely, top_k) if top_k > 0 else n_likely
        order = np.argsort(-scaled)[:n_left]
        mass = np.cumsum(chance[order]) / chance[order].sum()
        n_kept = kept.sum()
        assert kept[order[:n_kept]].all(), "the kept tokens are the most likely ones"
        if np.abs(chance - min_p).min() > 1e-5:  # else rounding decides
            assert mass[n_kept - 1] >= top_p - 1e-5 or n_kept == n_left
            assert n_kept == 1 or mass[n_kept - 2] < top_p + 1e-5 or top_p == 1.0


def test_a_top_k_of_one_and_a_small_top_p_are_greedy():
    logits = random_logits(5)
    for limits in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        tokens = compiled_sample(logits, settings_of(ROWS, **limits), jnp.arange(ROWS))
        assert tokens.tolist() == logits.argmax(-1).tolist()


def test_equally_likely_tokens_at_the_cut_off_are_all_kept():
    logits = jnp.array([[3.0, 1.0, 1.0, 1.0, 0.0]])
    kept = jnp.isfinite(allowed_logits(logits, settings_of(1, top_k=2)))
    assert kept.tolist() == [[True, True, True, True, False]]


@pytest.mark.parametrize(
    "limits", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.2}], ids=str
)
def test_tokens_come_with_their_probability(limits):
    n_draws = 6000
    logits = np.array([1.0, 0.5, 0.0, -0.5, -1.0, 2.0], np.float32)
    rows = settings_of(n_draws, seed=np.arange(n_draws), **limits)
    tokens = sample(jnp.tile(logits, (n_draws, 1)), rows, jnp.zeros(n_draws, jnp.int32))
    expected = np.asarray(jax.nn.softmax(allowed_logits(logits[None], settings_of(1, **limits))[0]))
    seen = np.bincount(tokens, minlength=logits.size) / n_draws
    assert (seen[expected == 0] == 0).all()
    assert np.abs(seen - expected).max() < 4 * np.sqrt(0.25 / n_draws)


def test_the_tokens_of_one_seed_are_independent_draws():
    n_draws = 6000
    logits = jnp.tile(jnp.array([0.0, 1.0, 2.0]), (n_draws, 1))
    tokens = sample(logits, settings_of(n_draws, seed=7), jnp.arange(n_draws))
    seen = np.bincount(tokens, minlength=3) / n_draws
    assert np.abs(seen - jax.nn.softmax(jnp.arange(3.0))).max() < 4 * np.sqrt(0.25 / n_draws)


def test_a_row_is_sampled_alike_beside_any_neighbours():
    logits = random_logits(1)
    plain = settings_of(ROWS, temperature=[0.7, 0.0, 1.0], seed=[5, 6, 7])
    limited = settings_of(
        ROWS, temperature=[0.7, 1.3, 0.0], top_k=[0, 4, 2], top_p=[1.0, 0.5, 0.3], seed=[5, 1, 2]
    )
    for index in range(20):
        at = jnp.full(ROWS, index)
        other = np.concatenate([logits[:1], random_logits(index, 2, scale=9)])
        assert compiled_sample(logits, plain, at)[0] == compiled_sample(other, limited, at)[0]


def test_greedy_rows_take_the_first_of_the_most_likely_tokens():
    logits = jnp.array([[0.0, 2.0, 2.0], [5.0, -1.0, 5.0], [-3e38, 0.0, -3e38]])
    tokens = sample(logits, settings_of(3, temperature=0.0), jnp.zeros(3, jnp.int32))
    assert tokens.tolist() == [1, 0, 1]


def test_the_noise_is_that_of_jax_random_as_it_is_by_default():
    keys = np.array([[0, 7], [3, 2**32 - 1], [2**31, 5]], np.uint32)
    index = np.array([0, 1, 2**31 - 1], np.int32)
    found = _gumbel(jnp.asarray(keys), jnp.asarray(index), 1001)
    with jax.threefry_partitionable(True):
        for row, words, at in zip(found, keys, index, strict=True):
            key = jax.random.wrap_key_data(words, impl="threefry2x32")
            right = jax.random.gumbel(jax.random.fold_in(key, at), (1001,), jnp.float32)
            np.testing.assert_allclose(row, right, rtol=1e-5, atol=1e-6)
