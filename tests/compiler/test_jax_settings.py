"""Our programs under JAX's settings: the same answers, or a refusal that names the setting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax_settings import NOT_AT_ONCE, changed, other_values

from nspjax import KVCache, Store, cached_attention, near_storage
from nspjax.errors import CompilerError

ROWS, HEADS, HKV, D = 2, 4, 2, 16
SIZES = {"batch": ROWS, "capacity_tokens": 64, "n_kv_heads": HKV, "head_dim": D}

NO_PROGRAM = {
    "eager_constant_folding": "a mark of a composite is computed as it is traced",
    "jax_disable_jit": "refused by name",
    "jax_no_execution": "JAX runs nothing",
    "jax_no_tracing": "JAX traces nothing",
}
"""Settings under which there is no program to be run."""


def our_values() -> dict[str, object]:
    return {name: value for name, value in other_values().items() if name not in NO_PROGRAM}


def heads(x, w):
    b, t, _ = x.shape
    q, k, v = jnp.split(jnp.einsum("bte,ef->btf", x, w), [HEADS * D, (HEADS + HKV) * D], axis=-1)
    return q.reshape(b, t, HEADS, D), k.reshape(b, t, HKV, D), v.reshape(b, t, HKV, D)


def generate(w, x, cache, rows, n_new):
    """A ragged prefill into chosen rows with a window, then four steps."""

    def step(carry):
        i, x, cache = carry
        out, cache = cached_attention(*heads(x, w), cache)
        return i + np.int32(1), jnp.tanh(out.reshape(x.shape)), cache

    out, cache = cached_attention(
        *heads(x, w), cache, rows=rows, n_new=n_new, window=5, softcap=3.0
    )
    x = out.reshape(x.shape)[:, :1]
    return lax.while_loop(lambda c: c[0] < np.int32(4), step, (np.int32(0), x, cache))[1:]


def arguments():
    rng = np.random.default_rng(0)
    values = (
        rng.standard_normal((HEADS * D, (HEADS + 2 * HKV) * D)).astype(np.float32) / 8,
        rng.standard_normal((ROWS, 7, HEADS * D)).astype(np.float32),
    )
    return (*map(jax.device_put, values), *(jax.device_put(np.int32(a)) for a in ([1, 0], [7, 4])))


@pytest.fixture(scope="module")
def expected():
    w, x, rows, n_new = arguments()
    memory = KVCache.zeros(*SIZES.values(), jnp.float32)
    out, cache = jax.jit(generate)(w, x, memory, rows, n_new)
    return np.asarray(out), np.asarray(cache.lengths)


def check_answers(settings, expected):
    with changed(settings):
        w, x, rows, n_new = arguments()
        memory = KVCache.zeros(*SIZES.values(), jnp.float32)
        out, _ = jax.jit(generate)(w, x, memory, rows, n_new)
        np.testing.assert_allclose(out, expected[0], atol=1e-5)
        with Store("memory:", host_memory="32MiB") as store:
            # the pipeline that puts most of our own functions into a program
            near = near_storage(generate, store=store, pipeline="hilos")
            cache = store.kv_cache(**SIZES, dtype=jnp.float32)
            out, cache = near(w, x, cache, rows, n_new)
            np.testing.assert_allclose(out, expected[0], atol=1e-5)
            np.testing.assert_array_equal(store.fetch(cache).lengths, expected[1])
            cache = store.share_prefix(cache, 1, [0], 4)
            assert np.asarray(store.current(cache).lengths)[0] == 4


def test_the_same_answers_under_all_settings_at_once(expected):
    values = {name: value for name, value in our_values().items() if name not in NOT_AT_ONCE}
    check_answers(values, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", our_values())
def test_the_same_answers_under_each_setting(name, expected):
    check_answers({name: our_values()[name]}, expected)


def test_a_program_is_traced_again_under_other_settings():
    near_dtype = []

    def fn(x, cache):
        near_dtype.append(jnp.asarray(1.0).dtype)
        return cached_attention(x, x, x, cache)

    x = jnp.ones((ROWS, 1, HKV, D))
    with Store("memory:", host_memory="32MiB") as store:
        near, cache = near_storage(fn, store=store), store.kv_cache(**SIZES, dtype=jnp.float32)
        _, cache = near(x, cache)
        with jax.enable_x64(True):
            _, cache = near(x, cache)
        near(x, cache)
    assert set(near_dtype) == {jnp.dtype("float32"), jnp.dtype("float64")}


@pytest.mark.slow
def test_in_memory_without_jit(expected):
    w, x, rows, n_new = arguments()
    with jax.disable_jit():
        memory = KVCache.zeros(*SIZES.values(), jnp.float32)
        out, _ = generate(w, x, memory, rows, n_new)
    np.testing.assert_allclose(out, expected[0], atol=1e-5)


def test_disabled_jit_is_refused_by_name():
    x = jnp.ones((ROWS, 1, HKV, D))
    step = lambda x, cache: cached_attention(x, x, x, cache)  # noqa: E731
    with (
        Store("memory:", host_memory="32MiB") as store,
        jax.disable_jit(),
        pytest.raises(CompilerError, match=r"jax.disable_jit is on"),
    ):
        near_storage(step, store=store)(x, store.kv_cache(**SIZES, dtype=jnp.float32))
