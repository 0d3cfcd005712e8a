"""What cached_attention refuses, or makes NaN where only values tell: what a store refuses too."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nspjax.errors import InvalidArgumentError
from nspjax.ops import KVCache, cached_attention

compiled = jax.jit(cached_attention)
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
