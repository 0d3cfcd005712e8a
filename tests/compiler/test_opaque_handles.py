"""What may be done with a stored cache's arrays, and what makes no handle of another cache."""

import dataclasses
import itertools
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from nspjax import KVCache, Store, StoredWeight, cached_attention, near_storage
from nspjax.errors import (
    InvalidArgumentError,
    StaleHandleError,
    StoreClosedError,
    engine_errors,
)

ROWS, CAPACITY, HEADS, D = 4, 32, 2, 8
SIZES = {"batch": ROWS, "capacity_tokens": CAPACITY, "n_kv_heads": HEADS, "head_dim": D}
X = jnp.ones((ROWS, 1, HEADS, D))


@pytest.fixture(scope="module")
def store():
    with Store("memory:", host_memory="32MiB") as store:
        yield store


@pytest.fixture(scope="module")
def near(store):
    return near_storage(step, store=store)


def step(x, cache):
    return cached_attention(x, x, x, cache)


def new(store, n=1):
    caches = store.kv_caches(n, **SIZES, dtype=jnp.float32)
    return caches[0] if n == 1 else caches


def tree_map(fn, cache):
    return jax.tree.map(fn, cache)


PERMUTATIONS = [list(p) for p in itertools.permutations(range(4)) if p != (0, 1, 2, 3)]
REFUSED = "is no handle of|is int32 .4., got|is needed, got that of|were mixed"
MASK = np.array([True, False, True, True])


@pytest.mark.parametrize(
    "change",
    [
        lambda a, b: tree_map(lambda x: x[:3], a),
        lambda a, b: tree_map(lambda x: x[jnp.array([0, 0, 1, 1])], a),
        lambda a, b: tree_map(lambda x: x[::-1], a),
        lambda a, b: tree_map(lambda x: jnp.roll(x, 1), a),
        lambda a, b: tree_map(jnp.zeros_like, a),
        lambda a, b: tree_map(jnp.ones_like, a),
        lambda a, b: tree_map(lambda x: x + 1, a),
        lambda a, b: tree_map(lambda x: x.astype(jnp.bfloat16).astype(jnp.int32), a),
        lambda a, b: tree_map(lambda x: x.astype(jnp.float32), a),
        lambda a, b: tree_map(lambda x: x[None], a),
        lambda a, b: tree_map(lambda x: jnp.broadcast_to(x, (2, 4)), a),
        lambda a, b: tree_map(lambda x: jnp.repeat(x, 2), a),
        lambda a, b: jax.tree.map(lambda x, y: jnp.stack([x, y]), a, b),
        lambda a, b: jax.tree.map(lambda x, y: jnp.where(MASK, x, y), a, b),
        lambda a, b: dataclasses.replace(a, k=a.v, v=a.k),
        lambda a, b: dataclasses.replace(a, v=a.k),
        lambda a, b: dataclasses.replace(a, v=b.v),
    ],
)
def test_what_was_computed_with_is_refused(store, near, change):
    a, b = new(store, 2)
    _, b = near(X, b)  # another version than a's
    made = change(a, b)
    for use in (lambda: near(X, made), lambda: store.fetch(made), lambda: store.drop(made)):
        with pytest.raises(InvalidArgumentError, match=REFUSED):
            use()
    # the handles of the cache itself stay good
    near(X, a)
    near(X, b)


@pytest.mark.parametrize("leaf", [None, 3, "k", [1, 2, 3, 4]])
def test_what_is_no_array_is_refused(store, near, leaf):
    """Such as jax.tree.map(np.ndarray.tolist, cache) makes."""
    cache = new(store)
    for name, what in (("k", "handle"), ("v", "handle"), ("lengths", "lengths")):
        with pytest.raises(InvalidArgumentError, match=f"the {what} of a stored"):
            near(X, dataclasses.replace(cache, **{name: leaf}))
    with pytest.raises(InvalidArgumentError, match="the handle of a stored"):
        store.fetch(dataclasses.replace(cache, k=leaf))
    near(X, cache)


def test_no_order_of_the_integers_is_a_handle(store):
    """With any number in any place: caches and versions are small numbers, and soon alike."""
    caches = new(store, 6)
    for cache in caches:
        for order in PERMUTATIONS:
            moved = tree_map(lambda a, order=order: a[jnp.array(order)], cache)
            with pytest.raises(InvalidArgumentError, match=r"is no handle of .*share_prefix"):
                store.check_owns(moved)
    handles = [tuple(np.asarray(h).tolist()) for c in caches for h in (c.k, c.v)]
    assert len({h[3] for h in handles}) == len(handles), "keys, values and caches differ in it"


def test_an_older_version_chosen_by_the_run_says_how_to_roll_back(store, near):
    cache = new(store)
    _, after = near(X, cache)
    chosen = jax.tree.map(lambda old, now: jnp.where(jnp.array(True), old, now), cache, after)
    with pytest.raises(StaleHandleError, match="with_lengths"):
        near(X, chosen)
    with pytest.raises(StaleHandleError, match="with_lengths"):
        store.fetch(chosen)
    _, after = near(X, after.with_lengths(cache.lengths))
    assert store.fetch(after).lengths.tolist() == [1] * ROWS


def test_what_leaves_a_handle_whole(store, near):
    """Copies, jit, cond, while, scan over several caches, donation, device_put, numpy, pickle."""
    cache = new(store)
    for same in (
        lambda c: tree_map(jnp.asarray, c),
        lambda c: tree_map(lambda a: a + 0, c),
        lambda c: tree_map(np.asarray, c),
        lambda c: jax.device_put(c),
        lambda c: jax.device_put(c, jax.devices()[0]),
        lambda c: pickle.loads(pickle.dumps(c)),
        jax.jit(lambda c: c),
        jax.jit(lambda c: lax.cond(jnp.array(True), lambda c: c, lambda c: c, c)),
        jax.jit(lambda c: lax.fori_loop(0, 2, lambda _, c: c, c)),
        jax.jit(lambda c: c, donate_argnums=0),
    ):
        _, cache = near(X, same(cache))
    assert store.fetch(cache).lengths.tolist() == [10] * ROWS
    shapes = jax.eval_shape(lambda c: c, cache)
    assert near.eval_shape(X, shapes)[1].k == shapes.k


def test_a_scan_over_caches_around_a_near_storage_function(store, near):
    """Handles stacked outside are whole again in each step of the scan."""
    caches = new(store, 3)
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *caches)

    @jax.jit
    def layers(x, stacked):
        return lax.scan(lambda x, cache: near(x, cache), x, stacked)

    with engine_errors():
        out, stacked = jax.block_until_ready(layers(X, stacked))
    np.testing.assert_allclose(out, 1, rtol=1e-6)
    for i in range(3):
        cache = jax.tree.map(lambda a, i=i: a[i], stacked)
        assert store.fetch(cache).lengths.tolist() == [1] * ROWS


def test_handles_of_weights_and_caches_are_not_each_others(store, near):
    weight, cache = store.put_weight(jnp.ones(4)), new(store)
    near_weight = near_storage(lambda w: w + 1, store=store)
    with pytest.raises(InvalidArgumentError, match="of a weight is needed, got that of a KV cache"):
        near_weight(StoredWeight(cache.k, (4,), np.dtype("float32")))
    with pytest.raises(InvalidArgumentError, match="keys is needed, got that of a weight"):
        near(X, dataclasses.replace(cache, k=weight.handle))
    with pytest.raises(InvalidArgumentError, match="is no handle of a weight"):
        near_weight(jax.tree.map(lambda a: a[::-1], weight))
    with pytest.raises(InvalidArgumentError, match="is no handle of a weight"):
        store.drop_weight(jax.tree.map(jnp.zeros_like, weight))
    np.testing.assert_array_equal(near_weight(weight), 2)
    store.drop_weight(weight)


def test_keys_and_values_of_a_pair(store):
    k, v = store.kv_pair(*[jnp.zeros((ROWS, CAPACITY, HEADS, D))] * 2)
    store.check_owns(k)
    store.check_owns(v)
    with pytest.raises(InvalidArgumentError, match="no handle"):
        store.drop(jax.tree.map(lambda a: a[::-1], k))
    with pytest.raises(InvalidArgumentError, match="StoredArray stands for"):
        jnp.sum(k)
    store.drop(v)


def test_a_store_opened_later_has_no_handle_of_an_earlier_one():
    with Store("memory:", host_memory="16MiB") as first:
        cache = new(first)
    with (
        Store("memory:", host_memory="16MiB") as second,
        pytest.raises(InvalidArgumentError, match="another Store"),
    ):
        second.fetch(cache)
    with pytest.raises(StoreClosedError):
        first.fetch(cache)


def test_a_handle_of_another_process_is_none(store, tmp_path):
    program = f"""
import pickle, sys
import jax.numpy as jnp
from nspjax import Store
with Store("memory:", host_memory="32MiB") as store:
    caches = store.kv_caches(8, **{SIZES!r}, dtype=jnp.float32)
    pickle.dump(caches, open({str(tmp_path / "caches")!r}, "wb"))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    for cache in pickle.loads((tmp_path / "caches").read_bytes()):
        with pytest.raises(InvalidArgumentError, match="or is of another process"):
            store.check_owns(cache)


def test_beams_by_sharing(store, near):
    """What the message says to do, against indexing in memory."""
    rng, order = np.random.default_rng(0), np.array([2, 1, 2, 1])
    xs = rng.standard_normal((3, ROWS, 1, HEADS, D)).astype(np.float32)
    memory, cache = KVCache.zeros(*SIZES.values(), jnp.float32), new(store)
    for x in xs[:2]:
        _, memory = jax.jit(step)(x, memory)
        _, cache = near(x, cache)
    memory = tree_map(lambda a: a[order], memory)
    for survivor, ended in ((2, [0]), (1, [3])):
        cache = store.share_prefix(cache, survivor, ended, 2)
    out, _ = near(xs[2], cache)
    np.testing.assert_allclose(out, jax.jit(step)(xs[2], memory)[0], atol=1e-6)


def test_lengths_that_are_none(store, near):
    cache = new(store)
    for lengths, message in (
        (jnp.zeros(ROWS), "got float32"),
        (jnp.zeros(ROWS + 1, jnp.int32), rf"\({ROWS + 1},\) for a cache of {ROWS} rows"),
        ([True] * ROWS, "got bool"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            cache.with_lengths(lengths)
        with pytest.raises(InvalidArgumentError, match=message):
            KVCache.zeros(ROWS, 4, 1, 8).with_lengths(lengths)
    with pytest.raises(InvalidArgumentError, match=r"lengths of a stored cache .* got float32"):
        near(X, dataclasses.replace(cache, lengths=jnp.zeros(ROWS)))
    _, cache = near(X, cache.with_lengths([0] * ROWS))
    assert near(X, cache.with_lengths(np.ones(ROWS, np.int64)))[1].lengths.tolist() == [2] * ROWS
