"""Attention that scores all tokens by sketches in host memory and reads a part of V."""

import contextlib

import ml_dtypes
import numpy as np
import pytest
from engine_oracle import KERNELS, bits, fill, int32, normal
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sparse_oracle import attend_sparsely

from nspjax.errors import InvalidArgumentError, StoreDamagedError, StoreFullError

STORES = [
    {"n_directories": 0},
    {"n_directories": 1},
    {"n_directories": 1, "pinned_bytes": -1},
    {"n_directories": 2},
]
MEMORY = 64 << 20


def peaked(rng, rows, tokens, heads, dim, dtype="f32"):
    """Keys of which some are much like any query's first channels, as heavy hitters are."""
    k = normal(rng, (rows, tokens, heads, dim))
    heavy = rng.random((rows, tokens, heads)) < 0.05
    k[..., 0] += 6 * heavy
    v = normal(rng, (rows, tokens, heads, dim)) + 0.5
    return k.astype(normal(rng, (1,), dtype).dtype), v.astype(normal(rng, (1,), dtype).dtype)


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


def sketched(store, *, rows=2, capacity=1024, heads=2, dim=64, dtype="bf16", tile=128, kv_dtype=""):
    (cache,) = store.create_caches(
        1, rows, capacity, heads, dim, dtype, tile, kv_dtype, sketch=True
    )
    k, v = peaked(np.random.default_rng(1), rows, capacity, heads, dim, dtype)
    return cache, fill(store, cache, k, v, [capacity] * rows)


def ask(store, cache, version, rows=2, heads=2, dim=64, seed=2, length=1024, **how):
    q = normal(np.random.default_rng(seed), (rows, 1, heads, dim))
    q[..., 0] += 2
    at = int32([length] * rows)
    return store.attend(cache, version, q, int32(range(rows)), at - 1, at, dim**-0.5, **how)


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


def test_less_is_read_than_all(open_store):
    """Pages of V, and no K: by the device's own count."""
    store = open_store(1, host_memory=MEMORY)
    cache, version = sketched(store)
    store.flush()
    before = store.stats()["bytes_read"]
    ask(store, cache, version, mass=0.9, budget=0.1, block_tokens=32)
    read = store.stats()["bytes_read"] - before
    ask(store, cache, version)
    dense = store.stats()["bytes_read"] - before - read
    assert dense == 2 * 2 * 2 * 1024 * 64 * 2  # rows, K and V, heads, tokens, channels, bytes
    assert 0 < read < dense / 4


def test_rows_that_share_tiles_read_them_once(open_store):
    store = open_store(1, host_memory=MEMORY)
    cache, version = sketched(store, rows=4)
    version = store.share_prefix(cache, version, 0, int32([1, 2, 3]), 1024)
    store.flush()
    q = np.repeat(normal(np.random.default_rng(5), (1, 1, 2, 64)), 4, 0)

    def read_of(rows):
        before = store.stats()["bytes_read"]
        at = int32([1024] * rows)
        out, _ = store.attend(cache, version, q[:rows], int32(range(rows)), at - 1, at, 0.125,
                              mass=0.7)  # fmt: skip
        return store.stats()["bytes_read"] - before, out

    (one, alone), (four, together) = read_of(1), read_of(4)
    assert four == one
    np.testing.assert_array_equal(together, np.repeat(alone, 4, 0))


def test_cut_taken_and_imported_rows_have_the_sketches_of_what_they_have(open_store):
    store = open_store(1, host_memory=MEMORY)
    cache, version = sketched(store)
    tiles = store.export_tiles(cache, version, 1, 0, 8)
    right = ask(store, cache, version, mass=0.8)[0]
    (other,) = store.create_caches(1, 2, 1024, 2, 64, "bf16", 128, "", sketch=True)
    store.import_tiles(other, 0, 0, 0, tiles)
    empty = np.zeros((1, 0, 2, 64), np.uint16)
    after = store.append(other, 0, empty, empty, int32([0]), int32([1024]), int32([0]))
    q = normal(np.random.default_rng(2), (2, 1, 2, 64))
    q[..., 0] += 2
    imported = store.attend(other, after, q[1:], int32([0]), int32([1023]), int32([1024]), 0.125,
                            mass=0.8)[0]  # fmt: skip
    np.testing.assert_array_equal(imported[0], right[1])

    version = store.take_rows(cache, version, int32([1, 1]), int32([1024, 1024]))
    taken = ask(store, cache, version, mass=0.8)
    alone = store.attend(cache, version, q[1:], int32([1]), int32([1023]), int32([1024]), 0.125,
                         mass=0.8)[0]  # fmt: skip
    np.testing.assert_array_equal(taken[0][1], right[1])
    np.testing.assert_array_equal(alone[0], right[1])

    version = store.truncate(cache, version, int32([0]), int32([300]))
    k, v = peaked(np.random.default_rng(9), 1, 724, 2, 64, "bf16")
    version = store.append(cache, version, bits(k), bits(v), int32([0]), int32([300]), int32([724]))
    fresh_k, fresh_v = peaked(np.random.default_rng(1), 2, 1024, 2, 64, "bf16")
    (fresh,) = store.create_caches(1, 1, 1024, 2, 64, "bf16", 128, "", sketch=True)
    whole = [np.concatenate([of[1:, :300], more], 1) for of, more in ((fresh_k, k), (fresh_v, v))]
    fresh_version = fill(store, fresh, *whole, [1024])
    np.testing.assert_array_equal(
        ask(store, cache, version, rows=1, mass=0.8)[0],
        ask(store, fresh, fresh_version, rows=1, mass=0.8)[0],
    )


def test_a_flip_in_what_is_read_is_found(open_store):
    """In a page of V that is read it is an error; the answer is right where it is not."""
    store = open_store(1, host_memory=MEMORY)
    cache, version = sketched(store, rows=1, heads=1, tile=256)
    right = ask(store, cache, version, rows=1, heads=1, mass=0.5, block_tokens=32)[0]
    store.flush()
    (device,) = store.devices()
    errors = []
    for page in range(8 * 8):  # of the first tile: 8 of K, 8 of V
        offset = 4096 + page * 4096 + 100
        with open(device["path"], "r+b") as file:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 4]))
        try:
            got = ask(store, cache, version, rows=1, heads=1, mass=0.5, block_tokens=32)[0]
            np.testing.assert_array_equal(got, right)
        except StoreDamagedError as error:
            errors.append((f"offset {offset - 100} of {device['path']}", str(error)))
        with open(device["path"], "r+b") as file:
            file.seek(offset)
            file.write(byte)
    assert 0 < len(errors) < 20
    assert all(where in message for where, message in errors)


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


@pytest.mark.parametrize(("how", "message"), [
    ({"mass": 0.0}, r"mass 0 and budget 1: each must be more than 0 and at most 1"),
    ({"mass": 1.5}, r"mass 1.5 and budget 1"),
    ({"budget": -1.0}, r"budget -1"),
    ({"mass": float("nan")}, r"mass nan"),
    ({"mass": 0.5, "block_tokens": 8}, r"block_tokens 8: it must be a power of two from 16 to a"),
    ({"mass": 0.5, "block_tokens": 48}, r"block_tokens 48"),
    ({"mass": 0.5, "block_tokens": 256}, r"to a tile's 128"),
    ({"mass": 0.5, "window": 7}, r"and window 7: give one query token and no window"),
])  # fmt: skip
def test_what_cannot_be_is_refused(open_store, how, message):
    store = open_store(0, host_memory=MEMORY)
    cache, version = sketched(store)
    with pytest.raises(InvalidArgumentError, match=message):
        ask(store, cache, version, **how)


def test_a_cache_without_sketches_and_several_query_tokens_are_refused(open_store):
    store = open_store(0, host_memory=MEMORY)
    (plain,) = store.create_caches(1, 2, 1024, 2, 64, "f32", 128)
    version = fill(store, plain, *peaked(np.random.default_rng(0), 2, 1024, 2, 64), [1024] * 2)
    with pytest.raises(
        InvalidArgumentError, match="made without a sketch: make it with sketch=True, or"
    ):
        ask(store, plain, version, mass=0.5)
    cache, version = sketched(store)
    with pytest.raises(InvalidArgumentError, match="2 query tokens and window 0"):
        store.attend(cache, version, np.zeros((2, 2, 2, 64), np.float32), int32([0, 1]),
                     int32([1022] * 2), int32([1024] * 2), 0.1, mass=0.5)  # fmt: skip
    with pytest.raises(InvalidArgumentError, match="of which a window is kept has no sketch"):
        store.create_caches(1, 2, 1024, 2, 64, "f32", 128, "", window_tokens=64, sketch=True)
    with pytest.raises(InvalidArgumentError, match="tile_tokens is 8"):
        store.create_caches(1, 2, 1024, 2, 64, "f32", 8, "", sketch=True)


def test_sketches_are_in_the_budget(open_store):
    """Counted before anything is made, told, and given back."""
    store = open_store(1, host_memory=MEMORY)
    shape = (3, 4, 1024, 2, 64, "bf16", 128)
    plain, more = (store.cache_needs(*shape, sketch=sketch) for sketch in (False, True))
    assert store.cache_needs(3, 4, 1024, 2, 256, "bf16")["tile_tokens"] == 64
    assert store.cache_needs(3, 4, 1024, 2, 256, "bf16", sketch=True)["tile_tokens"] == 256
    codes, scales, v_sum = 128 * 64 // 2, 64 * 4, 64 * 4
    sketches = 3 * 4 * 8 * 2 * (codes + scales + v_sum)
    assert more["host_bytes"] - plain["host_bytes"] == sketches
    assert more["device_bytes"] == plain["device_bytes"]
    assert store.stats()["sketch_bytes"] == 0
    caches = store.create_caches(*shape, sketch=True)
    stats = store.stats()
    assert stats["sketch_bytes"] == sketches
    assert stats["host_bytes"] == stats["staging_bytes"] + stats["tail_bytes"] + sketches
    for cache in caches:
        store.drop_cache(cache)
    assert store.stats()["sketch_bytes"] == 0
    large = (3, 64, 1 << 16, 2, 64, "bf16", 128)
    with pytest.raises(StoreFullError, match=r"for the sketches of what is stored, and staging"):
        store.create_caches(*large, sketch=True)
    store.cache_needs(*large, sketch=False)


def test_a_row_that_needs_room_beside_what_it_shares_is_refused_where_there_is_none(open_store):
    """Nothing is taken by the call that fails, however often it is made."""
    store = open_store(1, host_memory=16 << 20)
    cache, version = sketched(store, rows=2, heads=8)
    version = store.share_prefix(cache, version, 0, int32([1]), 1024)
    for heads in (8, 1):  # until nothing is left
        with contextlib.suppress(StoreFullError):
            while True:
                store.create_caches(1, 1, 1024, heads, 64, "bf16", 128, "", sketch=True)
    before = store.stats()["sketch_bytes"], store.devices()[0]["reserved_bytes"]
    k, v = map(bits, peaked(np.random.default_rng(1), 1, 512, 8, 64, "bf16"))
    for _ in range(3):
        with pytest.raises(StoreFullError, match="of host memory for a sketch beside the tiles"):
            store.append(cache, version, k, v, int32([0]), int32([128]), int32([512]))
    assert (store.stats()["sketch_bytes"], store.devices()[0]["reserved_bytes"]) == before
