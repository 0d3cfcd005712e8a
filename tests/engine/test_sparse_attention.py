"""Attention that scores all tokens by sketches in host memory and reads a part of V."""

import ml_dtypes
import numpy as np
import pytest
from engine_oracle import KERNELS, fill, int32, normal
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sparse_cases import MEMORY, STORES, ask, peaked, sketched
from sparse_oracle import attend_sparsely


def oracle_tokens(store, k, v, lengths, tile, kv_dtype):
    """K as sketches have it, V as it is stored, [rows, tokens, H, D] in float32: what a float32
    cache of codes reads as, exact where no tile is full."""
    k, v = (x.astype(np.float32) for x in (k, v))
    if kv_dtype == "bf16":
        for row, n in enumerate(lengths):
            for x in (k, v):
                stored = x[row, : n // tile * tile]
                stored[:] = stored.astype(ml_dtypes.bfloat16)
    rows, capacity, heads, dim = k.shape
    codes = kv_dtype if kv_dtype in ("int8", "int4") else "int4"
    (twin,) = store.create_caches(1, rows, capacity, heads, dim, "f32", tile, codes)
    fill(store, twin, k, v, lengths)
    keys, values = np.zeros_like(k), v if codes != kv_dtype else np.zeros_like(v)
    for row, n in enumerate(lengths):
        keys[row, :n], read = store.read(twin, row, 0, n)
        if codes == kv_dtype:
            values[row, :n] = read
    return keys, values


def check(open_store, kind, *, lengths, heads, group, dim, dtype, kv_dtype, tile, block, mass,
          budget=1.0, kernel="auto", seed=0):  # fmt: skip
    rng = np.random.default_rng(seed)
    store = open_store(**{"host_memory": MEMORY, "kernel": kernel} | kind)
    rows, capacity = len(lengths), max(lengths)
    k, v = peaked(rng, rows, capacity, heads, dim, dtype)
    q = normal(rng, (rows, 1, heads * group, dim))
    q[..., 0] += 2
    (cache,) = store.create_caches(
        1, rows, capacity, heads, dim, dtype, tile, kv_dtype, sketch=True
    )
    version = fill(store, cache, k, v, lengths)
    n_stored = [n // tile * tile for n in lengths]
    keys, values = oracle_tokens(open_store(0, host_memory=MEMORY), k, v, lengths, tile, kv_dtype)
    scale, before = dim**-0.5, store.stats()
    out, lse = store.attend(cache, version, q, int32(range(rows)), int32(lengths) - 1,
                            int32(lengths), scale, mass=mass, budget=budget,
                            block_tokens=block)  # fmt: skip
    n_read, left_out, all_certain = 0, 0.0, True
    for row in range(rows):
        for head in range(heads):
            of_group = slice(head * group, (head + 1) * group)
            right = attend_sparsely(
                q[row, 0, of_group], keys[row, : lengths[row], head],
                values[row, : lengths[row], head], n_stored[row], scale=scale, mass=mass,
                budget=budget, block=block, tile=tile,
            )  # fmt: skip
            is_certain = right.margin > 1e-4  # whatever the last bits
            all_certain &= is_certain
            near = 1e-3  # kernels of codes round queries and weights to 16 bits
            if is_certain:
                np.testing.assert_allclose(out[row, 0, of_group], right.out, atol=near, rtol=near)
            np.testing.assert_allclose(lse[row, 0, of_group], right.lse, atol=near)
            n_read += right.n_read
            left_out += right.left_out
    counted = {name: after - before[name] for name, after in store.stats().items()
               if name.startswith("sparse_") or name == "left_out_ppb"}  # fmt: skip
    assert counted["sparse_heads"] == rows * heads
    assert counted["sparse_tokens"] == heads * sum(lengths)
    if not all_certain:
        return
    assert counted["sparse_tokens_read"] == n_read
    assert counted["left_out_ppb"] / 1e9 == pytest.approx(left_out, abs=1e-4 * rows * heads)


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize(("dtype", "kv_dtype"), [
    ("f32", ""), ("bf16", ""), ("f16", "bf16"), ("f32", "int8"), ("bf16", "int4"),
])  # fmt: skip
def test_it_is_what_the_formulas_say(open_store, kind, dtype, kv_dtype):
    check(open_store, kind, lengths=[700, 130, 512], heads=3, group=2, dim=64, dtype=dtype,
          kv_dtype=kv_dtype, tile=64, block=16, mass=0.9)  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dim", [20, 64, 80, 128, 256])
@pytest.mark.parametrize("kv_dtype", ["", "int4"])
def test_every_kernel(open_store, kernel, dim, kv_dtype):
    check(open_store, {"n_directories": 0}, lengths=[600], heads=1, group=4, dim=dim, dtype="f32",
          kv_dtype=kv_dtype, tile=128, block=32, mass=0.8, kernel=kernel)  # fmt: skip


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    lengths=st.lists(st.integers(1, 900), min_size=1, max_size=3),
    heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 8]),
    dim=st.sampled_from([8, 64, 96, 128]),
    types=st.sampled_from([("f32", ""), ("bf16", ""), ("bf16", "int8"), ("f32", "int4")]),
    tile=st.sampled_from([16, 32, 256, 512]),
    block=st.sampled_from([16, 32, 128]),
    mass=st.sampled_from([1e-6, 0.5, 0.9, 0.99, 1.0]),
    budget=st.sampled_from([1e-6, 0.1, 0.5, 1.0]),
    kind=st.sampled_from(STORES),
    seed=st.integers(0, 1000),
)
def test_of_any_shape(open_store, lengths, heads, group, dim, types, tile, block, mass, budget,
                      kind, seed):  # fmt: skip
    assume(block <= tile and not (mass == budget == 1.0))
    check(open_store, kind, lengths=lengths, heads=heads, group=group, dim=dim, dtype=types[0],
          kv_dtype=types[1], tile=tile, block=block, mass=mass, budget=budget,
          seed=seed)  # fmt: skip


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("kv_dtype", ["", "int4"])
def test_all_of_the_mass_is_the_dense_answer_to_the_bit(open_store, kind, kv_dtype):
    store = open_store(**{"host_memory": MEMORY} | kind)
    cache, version = sketched(store, kv_dtype=kv_dtype)
    (plain,) = store.create_caches(1, 2, 1024, 2, 64, "bf16", 128, kv_dtype)
    k, v = peaked(np.random.default_rng(1), 2, 1024, 2, 64, "bf16")
    dense = ask(store, plain, fill(store, plain, k, v, [1024] * 2))
    for got, right in zip(ask(store, cache, version, mass=1.0), dense, strict=True):
        np.testing.assert_array_equal(got, right)


def test_the_answer_depends_on_nothing_else(open_store):
    """Neither on threads, on neighbours, on devices nor on what is pinned."""
    answers = []
    for threads, kind, pinned in [(1, 0, 0), (4, 1, 0), (3, 2, 0), (2, 1, 3 << 18), (1, 1, -1)]:
        store = open_store(kind, host_memory=MEMORY, threads=threads, pinned_bytes=pinned)
        cache, version = sketched(store)
        both = ask(store, cache, version, mass=0.9)
        alone = ask(store, cache, version, rows=1, mass=0.9)
        np.testing.assert_array_equal(both[0][:1], alone[0])
        answers.append(both[0])
    for other in answers[1:]:
        np.testing.assert_array_equal(other, answers[0])


@pytest.mark.parametrize("kv_dtype", ["", "int8"])
def test_what_is_no_number_reaches_the_answer(open_store, kv_dtype):
    store = open_store(1, host_memory=MEMORY)
    (cache,) = store.create_caches(1, 1, 512, 1, 64, "f32", 128, kv_dtype, sketch=True)
    for which in "kv":
        k, v = peaked(np.random.default_rng(1), 1, 512, 1, 64)
        (k if which == "k" else v)[0, 200, 0, 7] = np.nan
        version = store.append(cache, store.version(cache), k, v, int32([0]), int32([0]),
                               int32([512]))  # fmt: skip
        out, _ = ask(store, cache, version, rows=1, heads=1, length=512, mass=0.5)
        assert np.isnan(out[..., 7]).all()
        # in a cache of codes a token's V has one scale
        assert np.isfinite(out[..., 6]).all() == (which == "v" and not kv_dtype)


@pytest.mark.parametrize("kv_dtype", ["", "int4"])
@pytest.mark.parametrize("seen", [1, 66, 900, 1001])
def test_a_query_that_does_not_see_the_last_tokens(open_store, kv_dtype, seen):
    """Nor does their V, whatever it is, enter by the mean of their tile."""
    store = open_store(1, host_memory=MEMORY)
    k, v = peaked(np.random.default_rng(1), 1, 1024, 1, 64)
    answers = []
    for unseen in (0.0, 1e6):
        v[0, seen:] = unseen
        (cache,) = store.create_caches(1, 1, 1024, 1, 64, "f32", 128, kv_dtype, sketch=True)
        version = fill(store, cache, k, v, [1024])
        q = normal(np.random.default_rng(2), (1, 1, 1, 64))
        out, _ = store.attend(cache, version, q, int32([0]), int32([seen - 1]), int32([1024]),
                              0.125, mass=0.3, block_tokens=16)  # fmt: skip
        answers.append(out)
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize(("dim", "kv_dtype", "tokens"), [
    (64, "", 32), (64, "int4", 128), (128, "int8", 32), (20, "", 64), (256, "f32", 16),
])  # fmt: skip
def test_a_block_is_as_many_tokens_as_a_page_has(open_store, dim, kv_dtype, tokens):
    store = open_store(0, host_memory=MEMORY)
    dtype = "f32" if kv_dtype == "f32" else "bf16"
    cache, version = sketched(store, dim=dim, dtype=dtype, kv_dtype=kv_dtype, heads=1, rows=1)
    how = {"rows": 1, "heads": 1, "dim": dim, "mass": 0.6}
    chosen, _ = ask(store, cache, version, **how)
    np.testing.assert_array_equal(chosen, ask(store, cache, version, block_tokens=tokens, **how)[0])
    other, _ = ask(store, cache, version, block_tokens=16 if tokens > 16 else 64, **how)
    assert (other != chosen).any()
