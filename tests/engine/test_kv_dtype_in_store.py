"""Caches whose full tiles are stored in another type than the one that is appended."""

import numpy as np
import pytest
from engine_oracle import PlainCache, append, int32, normal

from nspjax.dtypes import DTYPES
from nspjax.errors import InvalidArgumentError

ROWS, CAPACITY, HEADS, GROUP, D = 3, 400, 2, 4, 64
# of values from a standard normal distribution, K by channel over 32 tokens, V by token
LARGEST_ERROR = {"int8": 0.02, "int4": 0.35, "bf16": 0.02, "f16": 0.002}


def test_every_type_is_tried():
    assert set(LARGEST_ERROR) == {dtype.name for dtype in DTYPES} - {"f32"}


def as_read(store, cache, lengths, dtype="f32"):
    """What the store says it holds: full tiles dequantised, tails as appended."""
    held = PlainCache.empty(ROWS, CAPACITY, HEADS, D, dtype)
    for row, n in enumerate(lengths):
        k, v = store.read(cache, row, 0, n)
        held.k[row, :n], held.v[row, :n], held.lengths[row] = k, v, n
    return held


@pytest.mark.parametrize("kv_dtype", LARGEST_ERROR)
@pytest.mark.parametrize(
    "kind",
    [{"n_directories": 0}, {"n_directories": 2}, {"n_directories": 1, "pinned_bytes": 40000}],
)
def test_attention_is_over_what_is_stored(open_store, kind, kv_dtype):
    """float64 attention over the tokens as read gives the same; and those are near the appended."""
    rng = np.random.default_rng(0)
    store = open_store(**kind)
    (cache,) = store.create_caches(1, ROWS, CAPACITY, HEADS, D, "f32", 32, kv_dtype)
    given = PlainCache.empty(ROWS, CAPACITY, HEADS, D, "f32")
    version = 0
    # prefill, token by token over a tile's end, a cut into a full tile, a share
    appends = [(200, [0, 0, 0], [200, 31, 64]), (9, [200, 31, 64], [9, 1, 0]),
               (30, [150, 10, 64], [30, 30, 30])]  # fmt: skip
    for n_tokens, start, n_new in appends:
        k, v = (normal(rng, (ROWS, n_tokens, HEADS, D)) for _ in "kv")
        given.append(k, v, range(ROWS), start, n_new)
        version = append(store, cache, version, k, v, range(ROWS), start, n_new)
    if kind["n_directories"] < 2:
        version = store.share_prefix(cache, version, 0, int32([1]), 170)
        given.k[1], given.v[1], given.lengths[1] = given.k[0], given.v[0], 170
    store.flush()
    held = as_read(store, cache, given.lengths)
    for row, n in enumerate(given.lengths):
        for a, b in ((held.k, given.k), (held.v, given.v)):
            assert np.abs(a[row, :n] - b[row, :n]).max() < 2 * LARGEST_ERROR[kv_dtype]
    q = normal(rng, (ROWS, 2, HEADS * GROUP, D))
    lengths = int32(given.lengths)
    got = store.attend(cache, version, q, int32(range(ROWS)), lengths - 2, lengths, 0.125)
    expected = held.attend(q, range(ROWS), lengths - 2, lengths, 0.125)
    tolerance = 3e-4 if kv_dtype in ("int8", "int4") else 3e-5  # far below what quantising costs
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_fewer_bytes(open_store):
    store = open_store(1, host_memory=64 << 20)
    written = {}
    for kv_dtype in ("bf16", "int8", "int4"):
        (cache,) = store.create_caches(1, 1, 4096, 8, 128, "bf16", 128, kv_dtype)
        before = store.stats()["bytes_written"]
        store.fill_synthetic(cache, 4096)
        store.flush()
        written[kv_dtype] = store.stats()["bytes_written"] - before
    assert written["bf16"] >= 1.9 * written["int8"]
    assert written["bf16"] >= 3.5 * written["int4"]


def test_newest_tokens_are_as_appended(open_store):
    rng = np.random.default_rng(1)
    store = open_store(1)
    (cache,) = store.create_caches(1, 1, 128, HEADS, D, "bf16", 64, "int4")
    k, v = (normal(rng, (1, 100, HEADS, D), "bf16") for _ in "kv")
    append(store, cache, 0, k, v, [0], [0], [100])
    read_k, read_v = store.read(cache, 0, 64, 100)
    np.testing.assert_array_equal(read_k, k[0, 64:].view(np.uint16))
    np.testing.assert_array_equal(read_v, v[0, 64:].view(np.uint16))


def test_refusals(open_store):
    store = open_store()
    with pytest.raises(InvalidArgumentError, match='"int2": use f32, bf16, f16, int8'):
        store.create_caches(1, 1, 64, 1, D, "bf16", 16, "int2")
    for tile_tokens in (1, 8):
        with pytest.raises(
            InvalidArgumentError, match=f"tile_tokens is {tile_tokens}: .*power of two from 16"
        ):
            store.create_caches(1, 1, 64, 1, D, "bf16", tile_tokens, "int8")
    assert store.stats()["host_bytes"] == store.stats()["staging_bytes"]
