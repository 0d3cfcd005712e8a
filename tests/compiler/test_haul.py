"""haul-kv: attention at the compute device over K and V in chunks, equal to the same in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from nspjax import KVCache, Store, cached_attention, near_storage
from nspjax.compiler import Pipeline
from nspjax.runtime.trace import TraceKind

ROWS, CAPACITY, D = 4, 160, 16
CHUNK = 32
PIPELINE = f"offload-kv,haul-kv{{chunk-tokens={CHUNK}}},lower-to-ffi"
# past prompts, extensions, decode steps; rows that idle; a row that stays empty for long
STEPS = [
    (70, [70, 33, 1, 0]),
    (1, [1, 0, 1, 0]),
    (40, [40, 31, 0, 5]),
    (1, [1, 1, 1, 1]),
    (1, [1, 0, 0, 1]),
]


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path, host_memory="16MiB", pinned=0) as store:
        yield store


def attended(q, k, v, n_new, cache, **options):
    return cached_attention(q, k, v, cache, n_new=n_new, **options)


def random_inputs(seed, n_tokens, heads, kv_heads, dtype):
    rng = np.random.default_rng(seed)
    sizes = [(ROWS, n_tokens, h, D) for h in (heads, kv_heads, kv_heads)]
    return [jnp.asarray(rng.standard_normal(size), dtype) for size in sizes]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "options"),
    [
        (2, 2, {}),
        (6, 2, {"window": 7}),
        (4, 1, {"softcap": 2.0, "scale": 0.4}),
        (4, 2, {"window": 50, "softcap": 1.0}),
    ],
)
def test_equal_to_memory(store, heads, kv_heads, options):
    compare(store, heads, kv_heads, jnp.float32, options, atol=2e-6)


@pytest.mark.parametrize(("dtype", "atol"), [(jnp.bfloat16, 2e-2), (jnp.float16, 2e-3)])
def test_equal_in_16_bits(store, dtype, atol):
    compare(store, 4, 2, dtype, {"window": 40}, atol)


def compare(store, heads, kv_heads, dtype, options, atol):
    fn = functools.partial(attended, **options)
    near, reference = near_storage(fn, store=store, pipeline=PIPELINE), jax.jit(fn)
    sizes = {"batch": ROWS, "capacity_tokens": CAPACITY, "n_kv_heads": kv_heads, "head_dim": D}
    cache = store.kv_cache(**sizes, dtype=dtype, interval_tokens=16)
    memory = KVCache.zeros(ROWS, CAPACITY, kv_heads, D, dtype)
    for seed, (n_tokens, n_new) in enumerate(STEPS):
        inputs = random_inputs(seed, n_tokens, heads, kv_heads, dtype)
        new = jnp.array(n_new, jnp.int32)
        out, cache = near(*inputs, new, cache)
        expected, memory = reference(*inputs, new, memory)
        real = np.arange(n_tokens) < np.asarray(n_new)[:, None]
        got, wanted = (np.asarray(x, np.float32)[real] for x in (out, expected))
        np.testing.assert_allclose(got, wanted, atol=atol)
    kinds = store.trace()["kind"]
    assert TraceKind.fetch in kinds
    assert TraceKind.attend not in kinds


def test_the_number_of_chunks_follows_from_the_lengths(store):
    """Not from the capacity; a window leaves out those before it."""
    sizes = {"batch": ROWS, "capacity_tokens": CAPACITY, "n_kv_heads": 2, "head_dim": D}
    inputs, new = random_inputs(0, 1, 2, 2, jnp.float32), jnp.ones(ROWS, jnp.int32)
    for window, n_chunks in [(None, [1, 3, 4, 5]), (20, [1, 2, 1, 2])]:
        fn = functools.partial(attended, window=window)
        near = near_storage(fn, store=store, pipeline=PIPELINE)
        for n_tokens, wanted in zip([0, 80, 127, 136], n_chunks, strict=True):
            cache = store.kv_cache(**sizes, dtype=jnp.float32)
            cache = store.fill_synthetic(cache, n_tokens)
            n_before = n_fetches(store)
            near(*inputs, new, cache)  # attends over one token more
            assert n_fetches(store) - n_before == wanted


def n_fetches(store) -> int:
    return int((store.trace()["kind"] == TraceKind.fetch).sum())


def test_several_layers_in_a_loop(store):
    """Handles go through two loops, and every layer's fetches come after its append."""

    def whole(q, k, v, caches, n_steps):
        def body(carry):
            i, q, caches = carry
            after = []
            for cache in caches:
                out, cache = cached_attention(q, k + i, v - i, cache)
                q, after = jnp.tanh(out), [*after, cache]
            return i + 1, q, after

        return lax.while_loop(lambda c: c[0] < n_steps, body, (jnp.int32(0), q, caches))[1:]

    sizes = {"batch": ROWS, "capacity_tokens": CAPACITY, "n_kv_heads": 2, "head_dim": D}
    inputs = random_inputs(0, 1, 4, 2, jnp.float32)
    memory = [KVCache.zeros(ROWS, CAPACITY, 2, D, jnp.float32) for _ in range(3)]
    expected, _ = jax.jit(whole)(*inputs, memory, jnp.int32(90))
    near = near_storage(whole, store=store, pipeline=PIPELINE)
    caches = store.kv_caches(3, **sizes, dtype=jnp.float32, interval_tokens=16)
    out, caches = near(*inputs, caches, jnp.int32(90))
    np.testing.assert_allclose(out, expected, atol=2e-5)
    assert caches[2].lengths.tolist() == ROWS * [90]


def test_what_is_hauled_crosses_the_link(store):
    """Every key and value that is on the device, once a step, in place of queries and results."""
    sizes = {"batch": ROWS, "capacity_tokens": CAPACITY, "n_kv_heads": 2, "head_dim": D}
    cache = store.kv_cache(**sizes, dtype=jnp.float32, interval_tokens=16)
    cache = store.fill_synthetic(cache, 128)
    store.flush()
    near = near_storage(attended, store=store, pipeline=PIPELINE)
    written = store.stats().bytes_written
    for step in range(3):
        inputs = random_inputs(step, 1, 2, 2, jnp.float32)
        _, cache = near(*inputs, jnp.ones(ROWS, jnp.int32), cache)
        assert store.stats().link_bytes == (step + 2) * written
        assert store.stats().bytes_read == (step + 1) * written


def test_chunk_tokens():
    assert str(Pipeline.parse("haul-kv{chunk-tokens=512}")) == "haul-kv{chunk-tokens=512}"
    assert str(Pipeline.parse("haul-kv{chunk-tokens=1024}")) == "haul-kv"
