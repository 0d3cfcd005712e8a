"""The in-memory operation against a float64 NumPy oracle: it is the oracle of all else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from not_finite import assert_plain, odd_values, put, without_subnormals

from nspjax.ops import KVCache, blockwise_attention, cached_attention, merge_partials, project_kv

compiled = jax.jit(cached_attention, static_argnames=("scale", "window", "softcap"))


def attention_oracle(q, k, v, position, length, *, scale, window=0, softcap=0.0):
    """Float64, one query at a time; k, v are already the rows of the batch."""
    group = q.shape[2] // k.shape[2]
    out, lse = np.zeros(q.shape), np.full(q.shape[:3], -np.inf)
    for b, t, h in np.ndindex(*q.shape[:3]):
        at, tokens = position[b] + t, np.arange(length[b])
        seen = (tokens <= at) & ((tokens > at - window) | (window == 0))
        if not seen.any():
            continue
        with np.errstate(invalid="ignore"):
            scores = (k[b, tokens[seen], h // group] * q[b, t, h]).sum(1) * scale
        if softcap:
            scores = softcap * np.tanh(scores / softcap)
        with np.errstate(invalid="ignore"):
            weights = np.exp(scores - scores.max())
            weighted = weights[:, None] * v[b, tokens[seen], h // group]
            out[b, t, h] = weighted.sum(0) / weights.sum()
            lse[b, t, h] = scores.max() + np.log(weights.sum())
    return out, lse


def normal(rng, *shape):
    return rng.standard_normal(shape)


@given(
    seed=st.integers(0, 2**31),
    heads=st.sampled_from([(4, 1, 4), (6, 2, 24)]),
    options=st.sampled_from([(None, None), (5, None), (40, 3.0)]),
    steps=st.lists(st.sampled_from([1, 30]), min_size=2, max_size=5),
)
@settings(max_examples=20, deadline=None)
def test_a_history_of_ragged_calls(seed, heads, options, steps):
    """Prefill, decode and extension of rows in any order, as a batch job does them."""
    rng = np.random.default_rng(seed)
    n_rows, capacity, (hq, hkv, head_dim), (window, softcap) = 3, 70, heads, options
    cache = KVCache.zeros(n_rows, capacity, hkv, head_dim, jnp.float32)
    keys, values = np.zeros((2, n_rows, capacity, hkv, head_dim))
    lengths = np.zeros(n_rows, int)
    for n_tokens in steps:
        rows = rng.permutation(n_rows)
        n_new = np.minimum(rng.integers(0, n_tokens + 1, len(rows)), capacity - lengths[rows])
        q = normal(rng, len(rows), n_tokens, hq, head_dim)
        k, v = normal(rng, 2, len(rows), n_tokens, hkv, head_dim)
        start = lengths[rows]
        for i, row in enumerate(rows):
            keys[row, start[i] : start[i] + n_new[i]] = k[i, : n_new[i]]
            values[row, start[i] : start[i] + n_new[i]] = v[i, : n_new[i]]
        lengths[rows] += n_new
        out, cache = compiled(
            *(jnp.asarray(x, jnp.float32) for x in (q, k, v)),
            cache,
            rows=jnp.asarray(rows, jnp.int32),
            n_new=jnp.asarray(n_new, jnp.int32),
            window=window,
            softcap=softcap,
        )
        expected, _ = attention_oracle(
            q,
            keys[rows],
            values[rows],
            start,
            np.where(n_new > 0, lengths[rows], 0),
            scale=head_dim**-0.5,
            window=window or 0,
            softcap=softcap or 0.0,
        )
        real = np.arange(n_tokens) < n_new[:, None]
        np.testing.assert_allclose(np.asarray(out)[real], expected[real], atol=2e-5)
        np.testing.assert_array_equal(cache.lengths, lengths)
    for row, n in enumerate(lengths):
        np.testing.assert_array_equal(cache.k[row, :n], keys[row, :n].astype(np.float32))


@pytest.mark.parametrize(("dtype", "atol"), [("bfloat16", 3e-2), ("float16", 4e-3)])
def test_sixteen_bit_floats(dtype, atol):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(normal(rng, 2, 20, h, 16), dtype) for h in (4, 2, 2))
    out, cache = cached_attention(q, k, v, KVCache.zeros(2, 32, 2, 16, dtype))
    exact = [np.asarray(x, np.float64) for x in (q, k, v)]
    expected, _ = attention_oracle(*exact, [0, 0], [20, 20], scale=16**-0.5)
    assert out.dtype == cache.k.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, atol=atol)


def test_blocks_are_seamless():
    """Lengths around the query and key block sizes, positions in the middle of stored tokens."""
    rng = np.random.default_rng(1)
    n_stored, n_tokens = 1100, 300
    q, k, v = normal(rng, 2, n_tokens, 2, 8), *normal(rng, 2, 2, n_stored, 1, 8)
    for position, length in [((0, 700), (300, 1000)), ((511, 512), (1100, 0))]:
        out, lse = blockwise_attention(
            *(jnp.asarray(x, jnp.float32) for x in (q, k, v)),
            None,
            jnp.asarray(position, jnp.int32),
            jnp.asarray(length, jnp.int32),
            scale=0.3,
        )
        expected, expected_lse = attention_oracle(q, k, v, position, length, scale=0.3)
        np.testing.assert_allclose(out, expected, atol=2e-5)
        np.testing.assert_allclose(lse, expected_lse, atol=2e-5)


def test_a_long_prompt_builds_no_square_of_scores():
    n_tokens = 32 * 1024
    x = jax.ShapeDtypeStruct((1, n_tokens, 1, 8), jnp.bfloat16)
    cache = jax.eval_shape(lambda: KVCache.zeros(1, n_tokens, 1, 8))
    memory = jax.jit(cached_attention).lower(x, x, x, cache).compile().memory_analysis()
    assert memory.temp_size_in_bytes < n_tokens * n_tokens // 16


def test_merging_two_halves_is_attention_over_the_whole():
    rng = np.random.default_rng(2)
    q, k, v = normal(rng, 1, 1, 4, 8), *normal(rng, 2, 1, 20, 2, 8)
    half = lambda a, b: attention_oracle(q, k[:, a:b], v[:, a:b], [99], [b - a], scale=1.0)  # noqa: E731
    whole, whole_lse = half(0, 20)
    out, lse = merge_partials(*half(0, 7), *half(7, 20))
    np.testing.assert_allclose(out, whole, atol=1e-5)
    np.testing.assert_allclose(lse, whole_lse, atol=1e-5)
    nothing = np.zeros_like(whole), np.full_like(whole_lse, -np.inf)
    np.testing.assert_allclose(merge_partials(*nothing, whole, whole_lse)[0], whole, atol=1e-6)
    assert np.all(merge_partials(*nothing, *nothing)[1] == -np.inf)


attend_blockwise = jax.jit(blockwise_attention, static_argnames=("scale", "window", "softcap"))


@settings(max_examples=100, deadline=None)
@given(
    n_tokens=st.sampled_from([1, 5]),
    window=st.sampled_from([0, 3, 530]),
    lengths=st.lists(st.integers(0, 600), min_size=2, max_size=2),
    odd=st.tuples(odd_values, odd_values, odd_values),
    seed=st.integers(0, 99),
)
def test_what_is_not_finite(n_tokens, window, lengths, odd, seed):
    """Where softmax's plain arithmetic has it; what is not seen adds nothing, whatever it is."""
    rng = np.random.default_rng(seed)
    q, k, v = normal(rng, 2, n_tokens, 4, 3), *normal(rng, 2, 2, 600, 2, 3)
    q, k = (put(np.float32(x), "f32", without_subnormals(o)) for x, o in ((q, odd[0]), (k, odd[1])))
    v = put(np.float32(v), "f32", odd[2])
    for row, length in enumerate(lengths):
        k[row, length:] = v[row, length:] = np.nan
    position = np.maximum(np.array(lengths, np.int32) - n_tokens, 0)
    options = {"scale": 0.5, "window": window}
    of_all = (position, np.int32(lengths))
    expected = attention_oracle(q, k, v, *of_all, **options)
    assert_plain(attend_blockwise(q, k, v, None, *of_all, **options), expected)

    # in two parts
    parts = []
    for begin, end in ((0, 88), (88, 600)):
        k_part, v_part = (np.roll(x, -begin, 1) for x in (k, v))
        held = np.int32(np.clip(np.array(lengths) - begin, 0, end - begin))
        parts.append(attend_blockwise(q, k_part, v_part, None, position - begin, held, **options))
    out, lse = (np.array(x) for x in merge_partials(*parts[0], *parts[1]))
    # a part of nothing but scores of -inf, with a V that 0 makes NaN of, is NaN in all channels
    forgotten = (
        np.isnan(lse) & ~np.isnan(expected[1]) & (np.isnan(parts[0][1]) | np.isnan(parts[1][1]))
    )
    assert np.isnan(expected[0][forgotten]).any(-1).all()
    out[forgotten], lse[forgotten] = expected[0][forgotten], expected[1][forgotten]
    assert_plain((out, lse), expected)


def test_scores_of_minus_infinity():
    """All of them: NaN, not what a query gets that sees nothing. A part of them: a weight of 0."""
    q, k, v = np.ones((1, 1, 1, 2)), np.zeros((1, 4, 1, 2)), np.arange(8.0).reshape(1, 4, 1, 2)
    k[0, :2] = -np.inf
    ends = jnp.array([3], jnp.int32), jnp.array([2], jnp.int32)
    low = blockwise_attention(*map(jnp.float32, (q, k, v)), None, *ends, scale=1.0)
    assert np.isnan(low[0]).all()
    assert low[1] == -np.inf
    nothing = np.zeros_like(low[0]), np.full_like(low[1], -np.inf)
    high = np.float32(v[:, 3:]), np.zeros_like(low[1])
    for other, merged in ((nothing, np.nan), (low, np.nan), (high, high[0])):
        for pair in ((*low, *other), (*other, *low)):
            np.testing.assert_array_equal(
                merge_partials(*pair)[0], np.broadcast_to(merged, (1, 1, 1, 2))
            )


def test_marks_survive_lowering():
    cache = KVCache.zeros(1, 8, 1, 4, jnp.float32)

    def layer(x, w):
        k, v = project_kv(x, w, w)
        heads = (1, 1, 1, 4)
        return cached_attention(x.reshape(heads), k.reshape(heads), v.reshape(heads), cache)

    text = jax.jit(layer).lower(jnp.ones((1, 1, 4)), jnp.ones((4, 4))).as_text()
    assert 'stablehlo.composite "nspjax.cached_attention"' in text
    assert 'stablehlo.composite "nspjax.project_kv"' in text
