"""NaN, infinities and subnormal numbers anywhere: as softmax's plain arithmetic has them.

On one tile with every kernel, and over stores, where results of tiles, tails, segments and devices
are merged. What a query does not see adds nothing, whatever it is.
"""

import numpy as np
import pytest
from engine_oracle import KERNELS, NUMPY_DTYPES, PlainCache, append, attend, bits, int32, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from not_finite import assert_plain, odd_values, put

from nspjax import _engine
from nspjax.dtypes import DTYPES

KV_TYPES = [dtype.name for dtype in DTYPES]
CODES = [dtype.name for dtype in DTYPES if dtype.is_code]

# NumPy's word for a signalling NaN
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in cast")


def as_stored(k, v, kv_type):
    tokens, head_dim = k.shape
    tile = np.zeros(_engine.head_tile_bytes("f32", head_dim, tokens), np.uint8)
    tile = _engine.pack_head("f32", tokens, k, v, 0, tile)
    tile = _engine.convert_head("f32", kv_type, head_dim, tokens, tile)
    tile = _engine.convert_head(kv_type, "f32", head_dim, tokens, tile)
    return _engine.unpack_head("f32", head_dim, tokens, tile, 0, tokens)


def attend_tile(kernel, kv_type, q, k, v, first, last, scale, softcap):
    dtype = "f32" if kv_type in CODES else kv_type
    begin, end = max(min(first), 0), min(max(last), len(k))
    return _engine.attend_tile(
        kernel, dtype, q, bits(k), bits(v), int32(first), int32(last), 0, min(begin, end), end,
        scale, softcap, kv_type, 0,
    )  # fmt: skip


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_one_tile(kernel, kv_type, data):
    dtype = "f32" if kv_type in CODES else kv_type
    tokens = data.draw(st.sampled_from([16, 64, 512] if kv_type in CODES else [1, 5, 33, 70, 300]))
    head_dim = data.draw(st.sampled_from([1, 7, 16, 24, 64, 80]))
    n = data.draw(st.integers(1, 9))
    place = st.integers(0, tokens)
    if data.draw(st.booleans()):
        seen = data.draw(st.lists(st.tuples(place, place), min_size=n, max_size=n))
    else:
        seen = [(0, tokens)] * n
    first, last = np.array(seen).T
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    q = put(normal(rng, (n, head_dim)), "f32", data.draw(odd_values))
    if data.draw(st.booleans()):
        q[: n // 2 + 1] = q[: n // 2 + 1].astype(NUMPY_DTYPES["bf16"])  # exact, among others
    k, v = (put(normal(rng, (tokens, head_dim), dtype), dtype, data.draw(odd_values)) for _ in "kv")
    options = data.draw(st.sampled_from([(0.3, 0.0), (-0.3, 0.0), (0.3, 2.0), (0.0, 0.0)]))
    if kv_type in CODES and options[1]:  # may be NaN where a softcap would bound it (kernel.h)
        q[np.isinf(q).any(1)] = np.nan

    got = attend_tile(kernel, kv_type, q, k, v, first, last, *options)
    stored = as_stored(k, v, kv_type) if kv_type in CODES else (k, v)
    assert_plain(got, attend(q, *stored, first, last, *options), 2e-3 if kv_type in CODES else 3e-5)
    alone = attend_tile(kernel, kv_type, q[:1], k, v, first[:1], last[:1], *options)
    for one, together in zip(alone, got, strict=True):
        np.testing.assert_array_equal(one, together[:1])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_all_scores_minus_infinity(kernel, kv_type):
    """That is no query that saw nothing, which has 0 and -inf."""
    rng = np.random.default_rng(0)
    dtype = "f32" if kv_type in CODES else kv_type
    k, v = (normal(rng, (64, 16), dtype) for _ in "kv")
    q = np.abs(normal(rng, (3, 16)))
    first, last = [0, 10, 10], [64, 11, 10]
    if kv_type not in CODES:  # there K is never infinite
        k[:] = -np.inf
    else:
        q[:] = np.inf
    out, lse = attend_tile(kernel, kv_type, q, k, v, first, last, 0.25, 0.0)
    assert np.isnan(out[:2]).all()
    assert (out[2] == 0).all()
    assert lse[2] == -np.inf
    if kv_type not in CODES:
        assert (lse[:2] == -np.inf).all()


ROWS, CAPACITY, HEADS, GROUP, D = 2, 400, 2, 2, 16


@st.composite
def stores(draw):
    return {
        "kernel": draw(st.sampled_from(KERNELS)),
        "devices": ["memory:"] * draw(st.integers(1, 3)),
        "pinned_bytes": draw(st.sampled_from([0, 20000, 1 << 20])),
        "threads": 2,
    }


@settings(max_examples=150, deadline=None)
@given(
    setting=stores(),
    dtype=st.sampled_from(["f32", "bf16", "f16"]),
    kv_dtype=st.sampled_from(["", "", "int8", "int4"]),
    lengths=st.lists(st.integers(1, CAPACITY), min_size=ROWS, max_size=ROWS),
    n_tokens=st.sampled_from([1, 3]),
    options=st.sampled_from([{}, {"window": 7}, {"window": 100}, {"softcap": 3.0}]),
    odd=st.tuples(odd_values, odd_values, odd_values),
    behind=st.booleans(),
    seed=st.integers(0, 99),
)
def test_over_a_store(setting, dtype, kv_dtype, lengths, n_tokens, options, odd, behind, seed):
    """Tiles of 16 tokens; what lies behind `length` is NaN at times."""
    dtype = "f32" if kv_dtype else dtype  # as it is read: exactly
    rng = np.random.default_rng(seed)
    q, k, v = (
        put(normal(rng, (ROWS, n, h, D), dtype), dtype, values)
        for n, h, values in zip(
            (n_tokens, CAPACITY, CAPACITY), (HEADS * GROUP, HEADS, HEADS), odd, strict=True
        )
    )
    stored = [CAPACITY] * ROWS if behind else lengths
    for row, n in enumerate(lengths):
        k[row, n:] = v[row, n:] = np.nan
    store = _engine.Store(setting.pop("devices"), 4 << 20, **setting)
    try:
        (cache,) = store.create_caches(1, ROWS, CAPACITY, HEADS, D, dtype, 16, kv_dtype)
        version = append(store, cache, 0, k, v, range(ROWS), [0] * ROWS, stored)
        held = PlainCache.empty(ROWS, CAPACITY, HEADS, D, "f32")
        for row, n in enumerate(stored):
            read = store.read(cache, row, 0, n)
            held.k[row, :n], held.v[row, :n] = (as_f32(x, dtype) for x in read)
        position = np.maximum(int32(lengths) - n_tokens, 0).astype(np.int32)
        where = range(ROWS), position, int32(lengths), 0.3
        got = store.attend(cache, version, bits(q), int32(where[0]), *where[1:], **options)
    finally:
        store.close()
    if not ("softcap" in options and kv_dtype and np.isinf(as_f32(q, dtype)).any()):  # see above
        assert_plain(got, held.attend(q, *where, **options), 2e-3 if kv_dtype else 3e-5)
    if not kv_dtype:
        same_bits(held, k, v, lengths)
    else:
        only_those_tokens(held, k, v, lengths)


def as_f32(x, dtype):
    return x.view(NUMPY_DTYPES[dtype]).astype(np.float32)


def same_bits(held, k, v, lengths):
    for row, n in enumerate(lengths):
        np.testing.assert_array_equal(held.k[row, :n], k[row, :n].astype(np.float32))
        np.testing.assert_array_equal(held.v[row, :n], v[row, :n].astype(np.float32))


def only_those_tokens(held, k, v, lengths):
    """Codes: V is not finite for the tokens (of a head) that have such a number, and no others."""
    for row, n in enumerate(lengths):
        odd = ~(np.isfinite(k[row, :n]) & np.isfinite(v[row, :n])).all(-1)
        full = n // 16 * 16
        np.testing.assert_array_equal(~np.isfinite(held.v[row, :full]).all(-1), odd[:full])
        assert np.isfinite(held.k[row, :full]).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_scores_overflow_where_scaled_queries_do(kernel, dtype):
    """q * scale . k is finite, q . k is not."""
    q = np.full((1, 1, 1, 64), 3.0, np.float32)
    k = np.full((1, 2, 1, 64), 0, NUMPY_DTYPES[dtype])
    v = np.stack([np.zeros(64), np.ones(64)])[None, :, None].astype(NUMPY_DTYPES[dtype])
    k[0, 1] = 1e37
    store = _engine.Store(["memory:"], 1 << 20, kernel=kernel)
    (cache,) = store.create_caches(1, 1, 64, 1, 64, dtype, 16)
    version = append(store, cache, 0, k, v, [0], [0], [2])
    out, _ = store.attend(cache, version, q, int32([0]), int32([1]), int32([2]), 0.125)
    store.close()
    np.testing.assert_array_equal(out, np.ones_like(out))
