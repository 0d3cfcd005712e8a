"""What a function for near_storage cannot do, and wrong calls of one: each says what to do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import experimental, lax

from nspjax import KVCache, Store, cached_attention, near_storage
from nspjax.errors import CompilerError, InvalidArgumentError, OffloadError

ROWS, HEADS, D = 2, 2, 8
SIZES = {"batch": ROWS, "capacity_tokens": 16, "n_kv_heads": HEADS, "head_dim": D}
X = jnp.ones((ROWS, 1, HEADS, D))


@pytest.fixture(scope="module")
def store():
    with Store("memory:", host_memory="64MiB") as store:
        yield store


def new(store, n=1):
    caches = store.kv_caches(n, **SIZES, dtype=jnp.float32)
    return caches[0] if n == 1 else caches


def in_memory():
    return KVCache.zeros(*SIZES.values(), jnp.float32)


def step(x, cache):
    return cached_attention(x, x, x, cache)


# ---- going on with an old cache -----------------------------------------------------------------


def twice(x, cache):
    out, _ = step(x, cache)
    return step(out, cache)


def twice_in_functions(x, cache):
    out, _ = jax.jit(step)(x, cache)
    return jax.jit(step)(out, cache)


def old_returned(x, cache):
    return step(x, cache)[0], cache


def old_or_new(x, cache):
    out, after = step(x, cache)
    return out, lax.cond(x[0, 0, 0, 0] > 0, lambda: after, lambda: cache)


def loop_keeps_the_old(x, cache):
    return lax.fori_loop(0, 3, lambda _, x: step(x, cache)[0], x), cache


def one_branch_then_again(x, cache):
    out = lax.cond(x[0, 0, 0, 0] > 0, lambda: step(x, cache)[0], lambda: x)
    return step(out, cache)


@pytest.mark.parametrize(
    "fn",
    [
        twice,
        twice_in_functions,
        old_returned,
        old_or_new,
        loop_keeps_the_old,
        one_branch_then_again,
    ],
)
def test_a_cache_that_was_used_already(store, fn):
    with pytest.raises(OffloadError, match=r"test_refusals.py:\d+.*new.cut\(old.lengths"):
        near_storage(fn, store=store)(X, new(store))


def test_what_uses_a_cache_once(store):
    """A branch each, and functions and loops that only pass it on."""

    def fn(x, cache):
        x = lax.fori_loop(0, 2, lambda _, x: x + cache.lengths[0].astype(x.dtype), x)
        _, cache = lax.fori_loop(0, 2, lambda _, c: (c[0] + 1, c[1]), (x, cache))
        return lax.cond(x[0, 0, 0, 0] > 0, step, lambda x, c: step(x * 2, c), x, cache)

    out, cache = near_storage(fn, store=store)(X, new(store))
    np.testing.assert_allclose(out, jax.jit(fn)(X, in_memory())[0], rtol=1e-6)
    assert store.fetch(cache).lengths.tolist() == [1] * ROWS


def test_a_rollback_in_the_function(store):
    """What the message says to do, against the same in memory."""

    def fn(x, cache):
        out, after = step(x, cache)
        return step(out * 2, after.with_lengths(cache.lengths))

    near_out, cache = near_storage(fn, store=store)(X, new(store))
    out, expected = jax.jit(fn)(X, in_memory())
    np.testing.assert_allclose(near_out, out, rtol=1e-6)
    np.testing.assert_allclose(store.fetch(cache).k[:, :1], expected.k[:, :1], rtol=1e-6)


# ---- caches that are no arguments ---------------------------------------------------------------


class Holder(nnx.Module):
    def __init__(self, cache):
        self.cache = nnx.data(cache)

    def __call__(self, x):
        return step(x, self.cache)[0]


def test_caches_that_are_closed_over(store):
    memory, stored = in_memory(), new(store)
    filled = jax.jit(step)(X, memory)[1]
    for cache in (memory, filled):
        for fn in (
            lambda x, cache=cache: step(x, cache)[0],
            functools.partial(step, cache=cache),
            lambda x, cache=cache: jax.jit(lambda x: step(x, cache)[0])(x),
            Holder(cache),
        ):
            with pytest.raises(
                (OffloadError, InvalidArgumentError), match=r"closed over|got an in"
            ):
                near_storage(fn, store=store)(X)
    for fn in (lambda x: step(x, stored), functools.partial(step, cache=stored), Holder(stored)):
        with pytest.raises(InvalidArgumentError, match="not closed over by it"):
            near_storage(fn, store=store)(X)


def test_a_cache_made_inside(store):
    with pytest.raises(OffloadError, match="must come in as an argument"):
        near_storage(lambda x: step(x, in_memory())[0], store=store)(X)


def test_caches_stacked_over_layers(store):
    caches = new(store, 2)
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *caches)

    def layers(x, caches):
        return lax.scan(step, x, caches)

    def stacks_inside(x, caches):
        return layers(x, jax.tree.map(lambda *a: jnp.stack(a), *caches))

    with pytest.raises(InvalidArgumentError, match=r"cannot be stacked .*list of caches"):
        near_storage(layers, store=store)(X, stacked)
    with pytest.raises(OffloadError, match="in a list, one a layer"):
        near_storage(stacks_inside, store=store)(X, caches)
    with pytest.raises(InvalidArgumentError, match="cannot be stacked over layers"):
        step(X, jax.tree.map(lambda *a: jnp.stack(a), in_memory(), in_memory()))


def test_rows_reordered_inside(store):
    def beams(x, cache):
        return step(x, jax.tree.map(lambda a: a[::-1], cache))

    with pytest.raises(OffloadError, match=r"KVCache\.take_rows"):
        near_storage(beams, store=store)(X, new(store))


# ---- transforms and callbacks -------------------------------------------------------------------


def total(fn, *args):
    return lambda x: fn(x, *args)[0].sum()


@pytest.mark.parametrize(
    "transform",
    [
        jax.grad,
        lambda f: lambda x: jax.jvp(f, (x,), (x,)),
        lambda f: lambda x: jax.vjp(f, x),
        jax.hessian,
        lambda f: jax.jit(jax.grad(jax.checkpoint(f))),
        lambda f: lambda x: jax.linearize(f, x),
    ],
)
def test_derivatives(store, transform):
    with pytest.raises(InvalidArgumentError, match="cached_attention has no derivative"):
        transform(total(step, in_memory()))(X)
    with pytest.raises(InvalidArgumentError, match="near_storage function has no derivative"):
        transform(total(near_storage(step, store=store), new(store)))(X)


def test_a_derivative_that_does_not_go_through_it(store):
    w = jnp.full(X.shape, 2.0)
    near, cache = near_storage(step, store=store), new(store)
    for fn, c in ((jax.jit(step), in_memory()), (near, cache)):
        loss = lambda w, fn=fn, c=c: (lax.stop_gradient(fn(X, c)[0]) * w).sum()  # noqa: E731
        np.testing.assert_allclose(jax.grad(loss)(w), 1, rtol=1e-6)


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit])
def test_vmap(store, jit):
    xs = jnp.stack([X, X])
    with pytest.raises(
        InvalidArgumentError, match="cached_attention has no vmap: give it all rows"
    ):
        jax.vmap(jit(step), in_axes=(0, None))(xs, in_memory())
    near, cache = jit(near_storage(step, store=store)), new(store)
    with pytest.raises(InvalidArgumentError, match="near_storage function has no vmap"):
        jax.vmap(near, in_axes=(0, None))(xs, cache)
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *new(store, 2))
    with pytest.raises(InvalidArgumentError, match="near_storage function has no vmap"):
        jax.vmap(near)(xs, stacked)
    with pytest.raises(InvalidArgumentError, match="cached_attention has no vmap"):
        near_storage(jax.vmap(step, in_axes=(0, None)), store=store)(xs, cache)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: jax.debug.print("{}", x),
        lambda x: jax.debug.callback(print, x),
        lambda x: jax.pure_callback(lambda x: x, x, x),
        lambda x: experimental.io_callback(lambda x: x, x, x, ordered=True),
        lambda x: lax.cond(x[0, 0, 0, 0] > 0, lambda: jax.debug.print("{}", x), lambda: None),
        jax.jit(lambda x: jax.debug.print("{}", x)),
    ],
)
def test_calls_back_into_python(store, call):
    def fn(x, cache):
        call(x)
        return step(x, cache)

    with pytest.raises(CompilerError, match=r"calls back into Python: .*test_refusals.py:\d+"):
        near_storage(fn, store=store)(X, new(store))


# ---- arguments ----------------------------------------------------------------------------------


def test_donated_and_deleted_arguments(store):
    near, cache, x = near_storage(step, store=store), new(store), X.copy()
    _, after = jax.jit(near, donate_argnums=1)(x, cache)
    with pytest.raises(InvalidArgumentError, match="donated"):
        near(x, cache)
    with pytest.raises(InvalidArgumentError, match="donated"):
        store.fetch(cache)
    x.delete()
    with pytest.raises(InvalidArgumentError, match=r"an argument .* was donated"):
        near(x, after)
    near(X, after)


def test_arguments_that_are_no_arrays(store):
    fn = lambda x, cache, mode: step(x, cache)  # noqa: E731
    with pytest.raises(
        InvalidArgumentError, match=r"got a str as an argument, 'greedy'.*static_arg"
    ):
        near_storage(fn, store=store)(X, new(store), "greedy")
    with pytest.raises(InvalidArgumentError, match="got an in-memory KVCache"):
        near_storage(step, store=store)(X, in_memory())


def test_store_methods_in_a_traced_function(store):
    with pytest.raises(InvalidArgumentError, match="outside traced functions"):
        jax.jit(lambda cache: store.fetch(cache).k)(new(store))
