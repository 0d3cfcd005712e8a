"""`near_storage` on ordinary JAX functions, against the same functions in memory."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from layered_decode import GROUP, HKV, ROWS, SIZES, D, in_memory, prompt, step, stored, weights

from nspjax import KVCache, Store, cached_attention, near_storage
from nspjax.errors import (
    PipelineError,
)


def generate_while(w, x, caches, n_steps):
    def body(carry):
        i, x, caches = carry
        return i + 1, *step(w, jnp.tanh(x), caches)

    return lax.while_loop(lambda c: c[0] < n_steps, body, (jnp.int32(0), x, caches))[1:]


def generate_scan(w, x, caches, n_steps):
    def body(carry, _):
        x, caches = step(w, jnp.tanh(carry[0]), carry[1])
        return (x, caches), x

    return lax.scan(body, (x, caches), None, length=9)[0]


def generate_nested(w, x, caches, n_steps):
    inner = jax.jit(step)
    for i in range(3):
        x, caches = lax.cond(
            jnp.int32(i) < n_steps - 4,
            lambda x, c: inner(w, jnp.tanh(x), c),
            lambda x, c: (x, c),
            x,
            caches,
        )
    return x, caches


@pytest.mark.parametrize("generate", [generate_while, generate_scan, generate_nested])
@pytest.mark.parametrize("outer_jit", [False, True])
def test_prefill_then_loop(store, generate, outer_jit):
    """Ragged prefill of every row, then a loop of decode steps, equal to the same in memory."""

    def whole(w, x, caches, n_new, n_steps):
        x, caches = step(w, x, caches, n_new)
        last = jnp.take_along_axis(x, (n_new - 1)[:, None, None], axis=1)
        return generate(w, last, caches, n_steps)

    args = (jnp.array([17, 1, 9], jnp.int32), jnp.int32(6))
    w, x = weights(), prompt(17)
    expected, expected_caches = jax.jit(whole)(w, x, in_memory(), *args)
    near = near_storage(whole, store=store)
    near = jax.jit(near) if outer_jit else near
    out, caches = near(w, x, stored(store), *args)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for cache, reference in zip(caches, expected_caches, strict=True):
        fetched = store.fetch(cache)
        np.testing.assert_array_equal(fetched.lengths, reference.lengths)
        np.testing.assert_allclose(fetched.k, reference.k, atol=1e-5)
        np.testing.assert_allclose(fetched.v, reference.v, atol=1e-5)


def test_a_program_is_compiled_once(store, caplog):
    """Though the caches of the first call are not committed to a device, and those that it returns
    are."""
    near, w, caches = near_storage(step, store=store), weights(), stored(store)
    x = prompt(1)
    with jax.log_compiles():
        for _ in range(3):
            x, caches = near(w, x, caches)
    compiled = [r for r in caplog.records if "XLA compilation of jit(call)" in r.getMessage()]
    assert len(compiled) == 1


def test_arguments_on_another_device(tmp_path):
    """A program runs where its arguments are committed to, as jax.jit does."""
    program = """
import jax, numpy as np
from nspjax import Store, cached_attention, near_storage
with Store("memory:", host_memory="16MiB") as store:
    cache = store.kv_cache(batch=1, capacity_tokens=32, n_kv_heads=1, head_dim=8, dtype="float32")
    q = jax.device_put(np.ones((1, 1, 1, 8), np.float32), jax.devices()[1])
    near = near_storage(cached_attention, store=store)
    for _ in range(2):
        out, cache = near(q, q, q, cache)
        assert out.devices() == {jax.devices()[1]}, out.devices()
        np.testing.assert_array_equal(out, 1)
"""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float32", {"window": 5}),
        ("float32", {"softcap": 2.0, "scale": 0.4}),
        ("bfloat16", {}),
        ("float16", {}),
    ],
)
def test_options_and_dtypes(store, dtype, options):
    """Prefill, an extension of stored rows, decode: with a window, a soft cap, a scale."""
    with_options = functools.partial(step, **options)
    near, reference = near_storage(with_options, store=store), jax.jit(with_options)
    memory, caches, w = in_memory(dtype), stored(store, dtype), weights()
    for n_tokens, n_new in [(9, [9, 4, 1]), (6, [2, 0, 6]), (1, [1, 1, 0])]:
        x, n_new = prompt(n_tokens, seed=n_tokens), jnp.array(n_new, jnp.int32)
        expected, memory = reference(w, x, memory, n_new)
        out, caches = near(w, x, caches, n_new)
        real = np.arange(n_tokens) < np.asarray(n_new)[:, None]
        np.testing.assert_allclose(out[real], expected[real], atol=1e-5)


def test_some_rows_and_a_restart(store):
    """Prefill into chosen rows; a row whose length is set back to 0 starts over."""

    def into_rows(x, cache, rows):
        return cached_attention(x, x[:, :, :HKV], x[:, :, :HKV], cache, rows=rows)

    near, reference = near_storage(into_rows, store=store), jax.jit(into_rows)
    cache, memory = store.kv_cache(**SIZES, dtype=jnp.float32), in_memory()[0]
    for rows, restart in [((2, 0), False), ((1, 2), False), ((2, 1), True)]:
        x = jax.random.normal(jax.random.key(sum(rows)), (2, 6, HKV * GROUP, D))
        rows = jnp.array(rows, jnp.int32)
        if restart:
            cache = cache.with_lengths(cache.lengths.at[2].set(0))
            memory = memory.with_lengths(memory.lengths.at[2].set(0))
        out, cache = near(x, cache, rows)
        expected, memory = reference(x, memory, rows)
        np.testing.assert_allclose(out, expected, atol=1e-5)
    assert store.fetch(cache).lengths.tolist() == [6, 12, 6]


def test_donated_arguments(store):
    near = jax.jit(near_storage(step, store=store), donate_argnums=(1, 2))
    w, x, caches = weights(), prompt(1), stored(store)
    expected, _ = jax.jit(step)(w, x, in_memory())
    out, after = near(w, x.copy(), caches)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    assert caches[0].k.is_deleted()
    near(w, out, after)


def test_put_and_fetch(store):
    _, caches = jax.jit(step)(weights(), prompt(5), in_memory(jnp.bfloat16))
    back = store.fetch(store.put(caches[0]))
    np.testing.assert_array_equal(back.k, caches[0].k)
    np.testing.assert_array_equal(back.lengths, caches[0].lengths)


def test_caches_that_are_only_passed_on(store):
    """Unused, returned as it came, carried idle through a loop; typed keys beside them."""

    def partly(x, used, idle, unused, key):
        def body(_, carry):
            x, used, idle = carry
            out, used = cached_attention(x, x[:, :, :HKV], x[:, :, :HKV], used)
            return out, used, idle

        out, used, idle = lax.fori_loop(0, 3, body, (x, used, idle))
        key, draw = jax.random.split(key)
        return out + jax.random.normal(draw), [used, idle], key

    caches = store.kv_caches(3, **SIZES, dtype=jnp.float32)
    memory = [KVCache.zeros(*SIZES.values(), jnp.float32) for _ in range(3)]
    x, key = jnp.ones((ROWS, 1, HKV * GROUP, D)), jax.random.key(3)
    expected, _, next_key = jax.jit(partly)(x, *memory, key)
    out, (used, idle), near_key = near_storage(partly, store=store)(x, *caches, key)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    assert jax.random.key_data(near_key).tolist() == jax.random.key_data(next_key).tolist()
    assert store.fetch(used).lengths.tolist() == [3] * ROWS
    assert store.fetch(idle).lengths.tolist() == [0] * ROWS


def test_pipelines_and_dumps(tmp_path, capsys):
    with pytest.raises(PipelineError, match="'typo'"), Store("memory:") as store:
        near_storage(step, store=store, pipeline="offload-kv,typo")
    with Store("memory:") as store:
        near = near_storage(
            step, store=store, dump_dir=tmp_path / "ir", print_ir_after="offload-kv"
        )
        exported = near.exported(weights(), prompt(1), stored(store))
        near(weights(), prompt(1), stored(store))
    assert "nspjax.attend" in exported.mlir_module()
    assert (tmp_path / "ir/program-1/03-lower-to-ffi.mlir").exists()
    assert capsys.readouterr().out.count("// ---- after offload-kv") == 1  # compiled once
