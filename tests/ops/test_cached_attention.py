"""The in-memory operation against a float64 NumPy oracle: it is the oracle of all else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nspjax.errors import InvalidArgumentError
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
        scores = k[b, tokens[seen], h // group] @ q[b, t, h] * scale
        if softcap:
            scores = softcap * np.tanh(scores / softcap)
        weights = np.exp(scores - scores.max())
        out[b, t, h] = weights / weights.sum() @ v[b, tokens[seen], h // group]
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


# ---- what a store would refuse ------------------------------------------------------------------

FULL, T = 8, 3


@jax.jit
def extend(x, cache, rows, n_new):
    return cached_attention(x, x, x, cache, rows=rows, n_new=n_new)


def half_full(lengths=(5, 6, 7, 8)):
    """Four rows of ones with room for 3, 2, 1 and 0 tokens."""
    cache = KVCache.zeros(4, FULL, 1, 4, jnp.float32)
    return KVCache(cache.k + 1, cache.v + 1, jnp.asarray(lengths, jnp.int32))


def test_rows_that_are_full_are_nan_and_stay_as_they_were():
    before = half_full()
    out, after = extend(jnp.full((4, T, 1, 4), 2.0), before, jnp.arange(4), jnp.full(4, T))
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1:]).all()
    assert after.lengths.tolist() == [8, FULL + 1, FULL + 1, FULL + 1]
    np.testing.assert_array_equal(after.k[1:], before.k[1:])
    np.testing.assert_array_equal(after.k[0, 5:], 2)
    # so it stays, also for what would fit, until the row is set back; an idle row is not touched
    one = jnp.ones((4, T, 1, 4))
    out, again = extend(one, after, jnp.arange(4), jnp.array([0, 1, 1, 0]))
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1:3]).all()
    assert again.lengths.tolist() == [8, 9, 9, 9]
    out, _ = extend(one, after.with_lengths([0, 6, 0, 5]), jnp.arange(4), jnp.array([3, 2, 1, 3]))
    assert np.isfinite(out).all()


def test_a_decode_loop_that_runs_over_is_nan_from_there_on():
    x = jnp.ones((2, 1, 1, 4))
    cache = KVCache.zeros(2, 3, 1, 4, jnp.float32).with_lengths([0, 1])
    finite = []
    for _ in range(4):
        out, cache = compiled(x, x, x, cache)
        finite.append(np.isfinite(out).all(axis=(1, 2, 3)).tolist())
    assert finite == [[True, True], [True, True], [True, False], [False, False]]
    assert cache.lengths.tolist() == [4, 4]


LEAST, MOST = -(2**31), 2**31 - 1


@pytest.mark.parametrize(
    ("rows", "lengths", "n_new", "bad"),
    [
        ([0, 4], [0] * 4, [1, 1], [1]),
        ([0, -1], [0] * 4, [1, 1], [1]),
        ([MOST, LEAST], [0] * 4, [3, 3], [0, 1]),
        ([1, 1], [0] * 4, [1, 1], [0, 1]),
        ([1, 1], [0] * 4, [1, 0], []),
        ([0, 99], [0] * 4, [1, 0], []),
        ([0, 1], [-1, 0, 0, 0], [1, 1], [0]),
        ([0, 1], [LEAST, MOST, 0, 0], [1, 1], [0, 1]),
        ([0, 1], [0] * 4, [T + 1, T], [0]),
        ([0, 1], [0] * 4, [-1, 1], [0]),
        ([0, 1], [0] * 4, [MOST, LEAST], [0, 1]),
    ],
)
def test_values_out_of_range_are_nan(rows, lengths, n_new, bad):
    before = half_full(lengths)
    x = jnp.full((2, T, 1, 4), 2.0)
    out, after = extend(x, before, jnp.array(rows), jnp.array(n_new))
    assert np.isnan(out).any(axis=(1, 2, 3)).nonzero()[0].tolist() == bad
    assert np.isnan(out).all(axis=(1, 2, 3)).nonzero()[0].tolist() == bad
    written = {rows[b] for b in range(2) if b not in bad and n_new[b]}
    for row in range(4):
        assert (np.asarray(after.k[row]) == 2).any() == (row in written)


def test_the_store_refuses_the_same(tmp_path):
    """Whatever is NaN in memory is an error there, and nothing else."""
    from nspjax import Store, near_storage

    with Store("memory:", host_memory="16MiB") as store:
        near = near_storage(extend, store=store)
        x = jnp.ones((2, T, 1, 4))
        sizes = {"batch": 4, "capacity_tokens": FULL, "n_kv_heads": 1, "head_dim": 4}
        for rows, n_new in [([0, 4], [1, 1]), ([0, -1], [1, 1]), ([1, 1], [1, 1]), ([1, 1], [1, 0]),
                            ([0, 1], [T + 1, 1]), ([0, 1], [-1, 1]), ([2, 3], [3, 3])]:  # fmt: skip
            memory = KVCache.zeros(*sizes.values(), jnp.float32)
            cache = store.kv_cache(**sizes, dtype=jnp.float32)
            for n in (6, 0):  # rows 2 and 3 are nearly full
                for _ in range(n // T):
                    fill = jnp.array([2, 3]), jnp.full(2, T)
                    _, memory = extend(x, memory, *fill)
                    _, cache = near(x, cache, *fill)
            args = jnp.array(rows), jnp.array(n_new)
            if np.isnan(extend(x, memory, *args)[0]).any():
                with pytest.raises(InvalidArgumentError):
                    near(x, cache, *args)
            else:
                near(x, cache, *args)
            store.drop(cache)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint32, np.int64])
def test_integers_of_any_width(dtype):
    x, cache = jnp.ones((2, 1, 1, 4)), KVCache.zeros(4, FULL, 1, 4, jnp.float32)
    ones = np.ones(2, dtype)
    out, cache = cached_attention(x, x, x, cache, rows=np.array([2, 3], dtype), n_new=ones)
    assert np.isfinite(out).all()
    assert cache.lengths.dtype == jnp.int32
    assert cache.lengths.tolist() == [0, 0, 1, 1]
    if np.iinfo(dtype).max > 2**31:
        rows = np.array([2**32 - 2**31, 3], dtype)  # not row 0, nor a negative one
        out, _ = cached_attention(x, x, x, cache, rows=rows)
        assert np.isnan(out[0]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"window": -3}, "window is -3"),
        ({"window": 2.5}, "whole number"),
        ({"window": "4"}, "must be a number"),
        ({"softcap": 0.0}, "above 0"),
        ({"softcap": -1.0}, "above 0"),
        ({"softcap": float("nan")}, "must be a number"),
        ({"scale": float("inf")}, "must be a number"),
        ({"scale": True}, "must be a number"),
        ({"rows": [0, 1, 2]}, "give one for each row"),
        ({"rows": [0.0, 1.0]}, "rows must be integers, got float64"),
        ({"n_new": [[1], [1]]}, "give one for each row"),
        ({"n_new": [True, True]}, "n_new must be integers, got bool"),
        ({"tokens": 9}, "9 tokens do not fit into rows of 8"),
        ({"q": jnp.ones((2, 1, 1, 4), jnp.int32)}, "q is int32: cast it"),
        ({"q": [[1.0]]}, "q is a list"),
        ({"cache": {"k": 0}}, "needs a KVCache, got dict"),
        ({"batch": 0}, "at least one row"),
        ({"lengths": jnp.zeros(2)}, "cache.lengths must be integers"),
        ({"lengths": jnp.zeros(3, jnp.int32)}, "needs lengths"),
        ({"v": jnp.ones((2, 8, 1, 5))}, "k and v"),
        ({"dtype": jnp.int8}, "a KVCache is of float32"),
    ],
)
def test_arguments_that_do_not_fit(change, message):
    change = dict(change)
    x = jnp.ones((change.pop("batch", 2), change.pop("tokens", 1), 1, 4))
    cache = KVCache.zeros(2, FULL, 1, 4, change.pop("dtype", jnp.float32))
    parts = {name: change.pop(name) for name in ("v", "lengths") if name in change}
    cache = change.pop("cache", dataclasses.replace(cache, **parts))
    with pytest.raises(InvalidArgumentError, match=message):
        cached_attention(change.pop("q", x), x, x, cache, **change)


def test_a_traced_setting_is_refused():
    x, cache = jnp.ones((2, 1, 1, 4)), KVCache.zeros(2, FULL, 1, 4, jnp.float32)
    for name in ("scale", "window", "softcap"):
        with pytest.raises(InvalidArgumentError, match=f"{name} of cached_attention is traced"):
            jax.jit(lambda n, name=name: cached_attention(x, x, x, cache, **{name: n}))(3)


def test_marks_survive_lowering():
    cache = KVCache.zeros(1, 8, 1, 4, jnp.float32)

    def layer(x, w):
        k, v = project_kv(x, w, w)
        heads = (1, 1, 1, 4)
        return cached_attention(x.reshape(heads), k.reshape(heads), v.reshape(heads), cache)

    text = jax.jit(layer).lower(jnp.ones((1, 1, 4)), jnp.ones((4, 4))).as_text()
    assert 'stablehlo.composite "nspjax.cached_attention"' in text
    assert 'stablehlo.composite "nspjax.project_kv"' in text


@pytest.mark.parametrize(
    ("q", "kv", "dtype", "message"),
    [
        ((2, 1, 3, 4), (2, 1, 2, 4), "float32", "multiple of Hkv"),
        ((2, 1, 4, 8), (2, 1, 2, 8), "float32", "same Hkv and D"),
        ((2, 1, 4, 4), (2, 1, 2, 4), "float16", "cast them first"),
        ((1, 1, 4, 4), (1, 1, 2, 4), "float32", "say which with rows="),
        ((2, 4, 4), (2, 2, 4), "float32", r"needs q \[B, T, Hq, D\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(q, kv, dtype, message):
    cache = KVCache.zeros(2, 8, 2, 4, jnp.float32)
    with pytest.raises(InvalidArgumentError, match=message):
        cached_attention(jnp.ones(q), jnp.ones(kv, dtype), jnp.ones(kv, dtype), cache)
