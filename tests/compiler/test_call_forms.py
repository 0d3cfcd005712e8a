"""near_storage is called, traced and lowered as jax.jit is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nspjax import KVCache, Store, cached_attention, near_storage
from nspjax.errors import InvalidArgumentError

ROWS, HEADS, D = 2, 2, 8
SIZES = {"batch": ROWS, "capacity_tokens": 16, "n_kv_heads": HEADS, "head_dim": D}
X = jnp.ones((ROWS, 1, HEADS, D))


@pytest.fixture(scope="module")
def store():
    with Store("memory:", host_memory="64MiB") as store:
        yield store


def new(store):
    return store.kv_cache(**SIZES, dtype=jnp.float32)


def times(x, cache, factor=2, *, mode="plain", shift=0.0):
    assert isinstance(factor, int) == (mode != "traced")
    assert isinstance(mode, str)
    out, cache = cached_attention(x * factor, x * factor, x * factor + shift, cache)
    return (out if mode == "plain" else -out), cache


@pytest.mark.parametrize(
    "static",
    [
        {"static_argnums": 2, "static_argnames": "mode"},
        {"static_argnums": (2,), "static_argnames": ("mode",)},
        {"static_argnums": -1, "static_argnames": ["mode"]},
        {"static_argnames": ["factor", "mode"]},
    ],
)
def test_static_arguments(store, static):
    near = near_storage(times, store=store, **static)
    reference = jax.jit(times, static_argnames=("factor", "mode"))
    for args, kwargs in [((3,), {}), ((), {"factor": 3}), ((), {}), ((2,), {"mode": "minus"})]:
        out, _ = near(X, new(store), *args, **kwargs)
        memory = KVCache.zeros(*SIZES.values(), jnp.float32)
        np.testing.assert_array_equal(out, reference(X, memory, *args, **kwargs)[0])
    assert len(near._programs) == 4
    near(X, new(store), 3, shift=1.0)
    near(X, new(store), 3, shift=2)  # another type
    near(X, new(store), 3, shift=5.0)
    assert len(near._programs) == 6


def test_numbers_are_arguments(store):
    near = near_storage(
        lambda x, cache, n, f, b: cached_attention(x * n * f, x, jnp.where(b, x, -x) * f, cache),
        store=store,
    )
    for n, f, b in ((1, 0.5, True), (2, 3.0, False), (np.int32(2), np.float32(3), np.True_)):
        out, _ = near(X, new(store), n, f, b)
        np.testing.assert_allclose(out, f if b else -f)
    assert len(near._programs) == 2, "Python's numbers have weak types"
    out, _ = near(np.ones(X.shape), new(store), 1, 1.0, True)  # float64, as jax.jit takes it
    np.testing.assert_array_equal(out, 1)


@pytest.mark.parametrize(
    ("static", "message"),
    [
        ({"static_argnums": 7}, "has 3 positional arguments"),
        ({"static_argnums": -4}, "has 3 positional arguments"),
        ({"static_argnames": "typo"}, "typo, which the function has not"),
    ],
)
def test_static_arguments_that_there_are_not(store, static, message):
    with pytest.raises(InvalidArgumentError, match=message):
        near_storage(times, store=store, **static)


def test_static_values(store):
    near = near_storage(lambda x, c, s: cached_attention(x, x, x, c), store=store, static_argnums=2)
    for value in ([1], {}, np.ones(1), jnp.ones(1)):
        with pytest.raises(InvalidArgumentError, match="cannot be hashed"):
            near(X, new(store), value)
    for value in (1, 1.0, True, "1", (1,), None, jnp.float32, functools.partial):
        near(X, new(store), value)
    assert len(near._programs) == 8


def test_stages(store):
    near = near_storage(times, store=store, static_argnames=("factor", "mode"))
    cache = new(store)
    shapes = jax.eval_shape(lambda *args: args, X, cache)
    for args in ((X, cache), shapes):
        traced = near.trace(*args, factor=3)
        lowered = traced.lower()
        assert "nspjax.append" in lowered.as_text()
        out, after = near.eval_shape(*args, factor=3)
        assert (out.shape, out.dtype) == (X.shape, X.dtype)
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, cache)
        assert jax.tree.structure(lowered.out_info) == jax.tree.structure((out, after))
    compiled = near.lower(*shapes, factor=3).compile()
    assert compiled.memory_analysis() is not None
    assert "custom-call" in compiled.as_text()
    out, cache = compiled(X, cache)
    np.testing.assert_array_equal(out, 3)
    with pytest.raises(InvalidArgumentError, match="compiled for"):
        compiled(X[:, :, :1], cache)
    with (
        Store("memory:", host_memory="16MiB") as other,
        pytest.raises(InvalidArgumentError, match="another Store"),
    ):
        compiled(X, new(other))
    assert len(near._programs) == 1
    assert store.fetch(cache).lengths.tolist() == [1] * ROWS


def test_weak_types_and_keywords(store):
    near = near_storage(lambda *, x, cache: cached_attention(x, x, x, cache), store=store)
    _, cache = near(x=X, cache=new(store))
    weak = jnp.broadcast_to(jnp.asarray(1.0), X.shape)
    out, cache = near(cache=cache.with_lengths(cache.lengths * 1), x=weak)
    np.testing.assert_array_equal(out, 1)
    assert store.fetch(cache).lengths.tolist() == [2] * ROWS
