"""Opening, closing, dropping, at any time and from any thread."""

import gc
import os
import pathlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from engine_oracle import append, fill, int32, normal

from nspjax import _engine
from nspjax.errors import StoreClosedError, StoreDamagedError
from nspjax.runtime.targets import register_targets

HEADS, D, TOKENS = 2, 64, 2000


def filled(store, rows=2):
    rng = np.random.default_rng(0)
    (cache,) = store.create_caches(1, rows, TOKENS, HEADS, D, "f32")
    k, v = (normal(rng, (rows, TOKENS, HEADS, D)) for _ in "kv")
    return cache, fill(store, cache, k, v, [TOKENS] * rows)


def attend(store, cache, version, row=0):
    q = np.ones((1, 1, HEADS, D), np.float32)
    return store.attend(cache, version, q, int32([row]), int32([TOKENS]), int32([TOKENS]), 0.1)


@pytest.mark.parametrize("n_directories", [0, 2])
def test_closed_while_in_use(open_store, n_directories):
    """Calls in other threads end well, or find the store closed."""
    store = open_store(n_directories)
    cache, version = filled(store)
    outcomes, started = [], threading.Barrier(4)

    def work():
        started.wait()
        try:
            while True:
                attend(store, cache, version)
        except StoreClosedError:
            outcomes.append("closed")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait()
    for _ in range(20):
        attend(store, cache, version)
    store.close()
    for thread in threads:
        thread.join(timeout=60)
    assert outcomes == ["closed"] * 3


def test_many_threads_on_one_store(open_store):
    """Each has a cache of its own and appends and reads there; one store serves all."""
    store = open_store(2, threads=2)
    caches = store.create_caches(4, 1, 512, HEADS, D, "f32", 16)
    failures = []

    def work(seed):
        rng, version = np.random.default_rng(seed), 0
        k, v = (normal(rng, (1, 512, HEADS, D)) for _ in "kv")
        for begin in range(0, 512, 7):
            n = min(7, 512 - begin)
            part = slice(begin, begin + n)
            version = append(
                store, caches[seed], version, k[:, part], v[:, part], [0], [begin], [n]
            )
            stored = store.read(caches[seed], 0, 0, begin + n)
            if not np.array_equal(stored[0], k[0, : begin + n]):
                failures.append((seed, begin))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_caches_come_and_go(open_store):
    """The room of a dropped cache is used again, its contents are not seen again."""
    store = open_store(1)
    path = store.devices()[0]["path"]
    keep, keep_version = filled(store)
    expected = attend(store, keep, keep_version)
    sizes = set()
    for _ in range(5):
        cache, version = filled(store, rows=3)
        attend(store, cache, version)
        sizes.add(os.stat(path).st_size)
        store.drop_cache(cache)
    assert len(sizes) == 1
    for now, before in zip(attend(store, keep, keep_version), expected, strict=True):
        np.testing.assert_array_equal(now, before)


def descriptors_and_threads():
    """Without the threads that io_uring has in the kernel, which come and go."""
    gc.collect()
    names = [task.read_text() for task in pathlib.Path("/proc/self/task").glob("*/comm")]
    return psutil.Process().num_fds(), sum(not name.startswith("iou-") for name in names)


@pytest.mark.parametrize("io", ["uring", "pread"])
def test_nothing_leaks(tmp_path, io):
    """File descriptors, threads, mappings and memory after many stores, closed or forgotten."""
    process = psutil.Process()

    def cycle(close):
        store = _engine.Store([str(tmp_path)], 4 << 20, io=io)
        attend(store, *filled(store))
        if close:
            store.close()

    for i in range(5):
        cycle(close=i % 2)
    before, memory = descriptors_and_threads(), process.memory_info().rss
    for i in range(40):
        cycle(close=i % 2)
    assert descriptors_and_threads() == before
    assert process.memory_info().rss - memory < 8 << 20


def test_a_failed_open_leaks_nothing(tmp_path):
    (tmp_path / "nspjax.kv").write_bytes(b"not ours")
    before = descriptors_and_threads()
    for _ in range(10):
        with pytest.raises(StoreDamagedError):
            _engine.Store(["memory:", str(tmp_path)], 4 << 20)
    assert descriptors_and_threads() == before


def test_a_forgotten_store_in_a_compiled_program():
    """A handle outlives its store: the custom call says so."""
    register_targets()
    store = _engine.Store(["memory:"], 4 << 20)
    cache, version = filled(store)
    keys, values = map(jnp.asarray, store.cache_handles(cache, version))
    q, one = jnp.ones((1, 1, HEADS, D)), jnp.array([0], jnp.int32)

    @jax.jit
    def call(keys, values, q, length):
        results = [
            jax.ShapeDtypeStruct(q.shape, jnp.float32),
            jax.ShapeDtypeStruct(q.shape[:3], jnp.float32),
            keys, values,
        ]  # fmt: skip
        attributes = {
            "scale": np.float32(0.1), "window": 0, "softcap": np.float32(0), "read_ahead": 1,
            "mass": np.float32(1), "budget": np.float32(1), "block_tokens": 0,
        }  # fmt: skip
        return jax.ffi.ffi_call("nspjax.attend", results)(
            keys, values, q, one, length, length, **attributes
        )

    out, lse, *handles = call(keys, values, q, jnp.array([TOKENS], jnp.int32))
    expected = attend(store, cache, version)
    np.testing.assert_array_equal(out, expected[0])
    np.testing.assert_array_equal(lse, expected[1])
    np.testing.assert_array_equal(handles, [keys, values])
    del store
    gc.collect()
    # once a program ran well, jit's fast path reports failures as ValueError
    failures = (jax.errors.JaxRuntimeError, ValueError)
    with pytest.raises(failures, match=r"\[nspjax:StoreClosed\] store \d+"):
        jax.block_until_ready(call(keys, values, q, jnp.array([TOKENS], jnp.int32)))
