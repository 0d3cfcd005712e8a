"""Rows that change places in a compiled loop: in memory, and near storage with every schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

from nspjax import KVCache, Store, cached_attention, near_storage
from nspjax.compiler.driver.presets import PRESETS
from nspjax.errors import InvalidArgumentError, OffloadError, StaleHandleError

ROWS, CAPACITY, HEADS, KV_HEADS, D, LAYERS = 4, 96, 4, 2, 16, 2
PIPELINES = {
    **PRESETS,
    "two groups": "offload-kv,split-attention,interleave{groups=2},"
    "delay-writeback{placement=outside-scan},prefetch,verify-schedule,lower-to-ffi",
    "step end": "offload-kv,split-attention,delay-writeback{interval=4 placement=step-end},"
    "prefetch{distance=2},verify-schedule,lower-to-ffi",
}


def beams(weights, x, caches, orders, cuts, n_steps, *, takes_first):
    """Steps of a little model whose rows then, or before, go on from one another, and lose tokens.

    weights: one [E, (Hq + 2 Hkv) D] a layer; x: [ROWS, 1, E]; orders, cuts: int32 [steps, ROWS].
    A step gets a little of what the last one gave: all of it would let rounding grow.
    """
    given_x = x

    def take(i, x, caches):
        kept = jnp.maximum(caches[0].lengths[orders[i]] - cuts[i], 0)
        caches = [c.take_rows(orders[i]).cut(kept) for c in caches]
        return x[orders[i]], caches

    def step(carry):
        i, x, caches, sums = carry
        x = given_x + 0.2 * x
        if takes_first:
            x, caches = take(i, x, caches)
        for layer, w in enumerate(weights):
            q, k, v = jnp.split(x @ w, [HEADS * D, (HEADS + KV_HEADS) * D], axis=-1)
            split = lambda a: a.reshape(ROWS, 1, -1, D)  # noqa: E731
            out, caches[layer] = cached_attention(split(q), split(k), split(v), caches[layer])
            x = jnp.tanh(x + out.reshape(x.shape))
        if not takes_first:
            x, caches = take(i, x, caches)
        return i + 1, x, caches, sums.at[i].set(x.sum((1, 2)))

    sums = jnp.zeros((orders.shape[0], ROWS))
    first = (jnp.int32(0), x, caches, sums)
    return lax.while_loop(lambda c: c[0] < n_steps, step, first)[1:]


def arguments(seed, n_steps, most_cut):
    rng = np.random.default_rng(seed)
    keys = jax.random.split(jax.random.key(seed), LAYERS + 1)
    shape = (HEADS * D, (HEADS + 2 * KV_HEADS) * D)
    weights = [jax.random.normal(key, shape) / 8 for key in keys[1:]]
    x = jax.random.normal(keys[0], (ROWS, 1, HEADS * D))
    orders = rng.integers(0, ROWS, (n_steps, ROWS), np.int32)
    orders[rng.random(n_steps) < 0.2] = np.arange(ROWS)
    cuts = rng.integers(0, most_cut + 1, (n_steps, ROWS), np.int32)
    cuts[rng.random(n_steps) < 0.7] = 0
    return weights, x, jnp.asarray(orders), jnp.asarray(cuts)


def stored(store, **options):
    return store.kv_caches(
        LAYERS,
        batch=ROWS,
        capacity_tokens=CAPACITY,
        n_kv_heads=KV_HEADS,
        head_dim=D,
        dtype=jnp.float32,
        **{"interval_tokens": 4} | options,
    )


def in_memory():
    return [KVCache.zeros(ROWS, CAPACITY, KV_HEADS, D, jnp.float32) for _ in range(LAYERS)]


def devices_of(kind, tmp_path):
    paths = [tmp_path / f"{kind}{i}" for i in range({"memory": 0, "file": 1, "two files": 2}[kind])]
    for path in paths:
        path.mkdir(exist_ok=True)
    return paths or ["memory:"]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_beams_in_a_loop(pipeline, tmp_path):
    """The same results and lengths, and no part of a full tile copied."""
    for takes_first, kind in [(False, "file"), (True, "two files")]:
        check_beams(tmp_path, PIPELINES[pipeline], kind, takes_first, 1, 80, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "file", "two files"])
@pytest.mark.parametrize("pipeline", PIPELINES)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 999), takes_first=st.booleans(), most_cut=st.sampled_from([0, 3, 40]))
def test_any_beams_in_a_loop(pipeline, kind, tmp_path, seed, takes_first, most_cut):
    check_beams(tmp_path, PIPELINES[pipeline], kind, takes_first, seed, 60, most_cut)


def check_beams(tmp_path, pipeline, kind, takes_first, seed, n_steps, most_cut):
    weights, x, orders, cuts = arguments(seed, n_steps, most_cut)

    def fn(weights, x, caches, orders, cuts, n_steps):
        return beams(weights, x, caches, orders, cuts, n_steps, takes_first=takes_first)

    expected = jax.jit(fn)(weights, x, in_memory(), orders, cuts, n_steps)
    with Store(*devices_of(kind, tmp_path), host_memory="16MiB", pinned="0") as store:
        got = near_storage(fn, store=store, pipeline=pipeline)(
            weights, x, stored(store), orders, cuts, n_steps
        )
        np.testing.assert_allclose(got[2], expected[2], rtol=1e-4, atol=1e-4)
        for cache, same in zip(got[1], expected[1], strict=True):
            np.testing.assert_array_equal(cache.lengths, same.lengths)
        tail_bytes = 4 * 2 * KV_HEADS * D * 4  # a page, or less
        n_copies = sum(ROWS - len(set(order)) for order in np.asarray(orders).tolist()) * LAYERS
        assert store.stats().bytes_copied <= n_copies * max(tail_bytes, 4096)


def test_in_memory_it_is_a_gather():
    k = jnp.arange(3 * 4 * 1 * 2, dtype=jnp.float32).reshape(3, 4, 1, 2)
    cache = KVCache(k, -k, jnp.array([1, 4, 2], jnp.int32)).take_rows([2, 2, 1])
    np.testing.assert_array_equal(cache.k, k[np.array([2, 2, 1])])
    np.testing.assert_array_equal(cache.v, -k[np.array([2, 2, 1])])
    assert cache.lengths.tolist() == [2, 2, 4]
    assert cache.cut([9, 1, 0]).lengths.tolist() == [2, 1, 0]


def test_a_row_that_does_not_exist_gives_nan():
    cache = KVCache.zeros(2, 8, 1, 4, jnp.float32).take_rows([0, 2])
    one = jnp.ones((2, 1, 1, 4))
    out, _ = cached_attention(one, one, one, cache)
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1]).all()
    with Store("memory:") as store:
        take = near_storage(lambda cache: cache.take_rows(jnp.array([0, 1, 2, 4])), store=store)
        with pytest.raises(InvalidArgumentError, match=r"take_rows of row 4: .*rows 0 to 3"):
            take(stored(store)[0])


@pytest.mark.parametrize("order", [[0, 1], [0.0, 1.0, 2.0], [[0, 1, 2]], "abc"])
def test_an_order_is_integers_one_a_row(order):
    with pytest.raises(InvalidArgumentError, match=r"order (must be integers|has shape)"):
        KVCache.zeros(3, 8, 1, 4).take_rows(order)


def test_outside_of_a_compiled_function(tmp_path):
    with Store(*devices_of("file", tmp_path), pinned="0") as store:
        _, _, orders, _ = arguments(0, 1, 0)
        k = jax.random.normal(jax.random.key(0), (ROWS, CAPACITY, KV_HEADS, D))
        cache = KVCache(k, 2 * k, jnp.array([70, 3, 0, 96], jnp.int32))
        before = store.put(cache)
        taken = store.take_rows(before, orders[0])
        expected, got = cache.take_rows(orders[0]), store.fetch(taken)
        np.testing.assert_array_equal(got.lengths, expected.lengths)
        for row, n in enumerate(expected.lengths.tolist()):
            np.testing.assert_array_equal(got.k[row, :n], expected.k[row, :n])
            np.testing.assert_array_equal(got.v[row, :n], expected.v[row, :n])
        with pytest.raises(StaleHandleError):
            store.take_rows(before, orders[0])
        assert taken.cut([1] * ROWS).lengths.tolist() == [min(1, n) for n in expected.lengths]


def test_the_cache_from_before_is_used_up():
    def twice(cache):
        return cache.take_rows([0, 0, 0, 0]), cache.take_rows([1, 1, 1, 1])

    with (
        Store("memory:") as store,
        pytest.raises(
            OffloadError, match=r"take_rows at .* uses the KV cache from before take_rows"
        ),
    ):
        near_storage(twice, store=store)(stored(store)[0])


def test_x_cache_refuses_it():
    def step(cache):
        one = jnp.ones((ROWS, 1, KV_HEADS, D))
        return cached_attention(one, one, one, cache)[1].take_rows([0, 0, 0, 0])

    with Store("memory:") as store:
        near = near_storage(
            step, store=store, pipeline="offload-kv,x-cache{fraction=0.5},lower-to-ffi"
        )
        with pytest.raises(OffloadError, match=r"x-cache keeps X .* take_rows at .*fraction=0"):
            near(stored(store)[0])
