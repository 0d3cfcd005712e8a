"""The order inside a tile: what goes in comes out, exactly or within half a step of its scale."""

from itertools import pairwise

import numpy as np
import pytest
from engine_oracle import NUMPY_DTYPES, bits, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from nspjax import _engine
from nspjax.dtypes import DTYPES
from nspjax.errors import InvalidArgumentError

LEVELS = {dtype.name: 2**dtype.bits - 1 for dtype in DTYPES if dtype.is_code}
FLOATS = [dtype.name for dtype in DTYPES if dtype.appended]


def pack(kv_type, tile_tokens, k, v, begin=0, tile=None):
    if tile is None:
        size = _engine.head_tile_bytes(kv_type, k.shape[1], tile_tokens)
        tile = np.full(size, 0xFF, np.uint8)  # NaN everywhere
    return _engine.pack_head(kv_type, tile_tokens, bits(k), bits(v), begin, tile)


def unpack(kv_type, head_dim, tile_tokens, tile, begin, end):
    pair = _engine.unpack_head(kv_type, head_dim, tile_tokens, tile, begin, end)
    return tuple(x.view(NUMPY_DTYPES[kv_type]) for x in pair)


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(bits(a), bits(b))


@st.composite
def pieces(draw):
    """A tile's shape and how its tokens arrive: runs that begin where the one before ended."""
    tile_tokens = 1 << draw(st.integers(0, 8))
    cuts = draw(st.lists(st.integers(0, tile_tokens), max_size=4))
    head_dim = draw(st.one_of(st.integers(1, 40), st.sampled_from([64, 80, 128])))
    return draw(st.sampled_from(FLOATS)), head_dim, tile_tokens, sorted({0, *cuts, tile_tokens})


@settings(max_examples=150, deadline=None)
@given(pieces(), st.integers(0, 2**32))
def test_float_tiles_give_back_what_they_got(piece, seed):
    kv_type, head_dim, tile_tokens, cuts = piece
    rng = np.random.default_rng(seed)
    k, v = (normal(rng, (tile_tokens, head_dim), kv_type) for _ in "kv")
    k[rng.random(k.shape) < 0.05], v[rng.random(v.shape) < 0.05] = np.nan, np.inf
    tile = None
    for begin, end in pairwise(cuts):
        tile = pack(kv_type, tile_tokens, k[begin:end], v[begin:end], begin, tile)
        assert_same(unpack(kv_type, head_dim, tile_tokens, tile, 0, end), (k[:end], v[:end]))
    begin, end = cuts[len(cuts) // 2 - 1], cuts[-1]
    assert_same(unpack(kv_type, head_dim, tile_tokens, tile, begin, end), (k[begin:], v[begin:]))

    # the first n tokens over another tile: the others stay
    other = [normal(rng, k.shape, kv_type) for _ in "kv"]
    n = cuts[len(cuts) // 2]
    copied = _engine.copy_head_tokens(
        kv_type, head_dim, tile_tokens, tile, n, pack(kv_type, tile_tokens, *other)
    )
    expected = [np.concatenate([a[:n], b[n:]]) for a, b in zip((k, v), other, strict=True)]
    assert_same(unpack(kv_type, head_dim, tile_tokens, copied, 0, tile_tokens), expected)


def test_the_order_is_the_documented_one():
    """By the words of head_tile.h, for a tile with more than one run of lanes and odd channels."""
    head_dim, tokens = 5, 128
    k, v = np.arange(2 * tokens * head_dim, dtype=np.uint16).reshape(2, tokens, head_dim)
    tile = _engine.pack_head(
        "bf16", tokens, k, v, 0, np.zeros(_engine.head_tile_bytes("bf16", 5, 128), np.uint8)
    ).view(np.uint16)
    k_section = tile[: tokens * 6].reshape(2, 3, 64, 2)  # [run][channel word][lane][channel]
    v_section = tile[tokens * 6 :].reshape(tokens // 2, head_dim, 2)  # [token word][channel][token]
    padded = np.pad(k, ((0, 0), (0, 1)))
    np.testing.assert_array_equal(k_section, padded.reshape(2, 64, 3, 2).transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(v_section, v.reshape(-1, 2, head_dim).transpose(0, 2, 1))


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(FLOATS), st.sampled_from(list(LEVELS)), st.integers(1, 70), st.integers(4, 7),
    st.floats(-30, 30), st.floats(0, 100), st.integers(0, 2**32),
)  # fmt: skip
def test_codes_are_off_by_half_a_step(kv_type, to_type, head_dim, log_tokens, power, bias, seed):
    """K's scale belongs to a channel, V's to a token; a bias costs its own rounding to bf16."""
    tokens = 1 << log_tokens
    rng = np.random.default_rng(seed)
    scale = 2.0 ** (power if kv_type != "f16" else power / 4)
    k, v = (
        (scale * (bias + rng.standard_normal((tokens, head_dim)))).astype(NUMPY_DTYPES[kv_type])
        for _ in "kv"
    )
    tile = _engine.convert_head(kv_type, to_type, head_dim, tokens, pack(kv_type, tokens, k, v))
    read = unpack(
        "f32", head_dim, tokens,
        _engine.convert_head(to_type, "f32", head_dim, tokens, tile), 0, tokens,
    )  # fmt: skip
    for x, got, axis in ((k, read[0], 0), (v, read[1], 1)):
        x = x.astype(np.float64)
        least, most = x.min(axis, keepdims=True), x.max(axis, keepdims=True)
        largest = np.maximum(abs(least), abs(most))
        below = (LEVELS[to_type] + 1) / 2
        # the offset is within 2^-8 of itself, which the scale makes up for; it is rounded up
        step = ((most - least) / LEVELS[to_type] + largest * 2**-8 / (below - 1)) * (1 + 2**-7)
        assert np.all(abs(got - x) <= step / 2 + 1e-5 * largest)


@pytest.mark.parametrize("to_type", list(LEVELS))
def test_what_is_not_finite_is_nan_by_itself(to_type):
    """A token with such an element in K or V has NaN for V; neighbours do not notice."""
    rng = np.random.default_rng(0)
    k, v = (normal(rng, (16, 8)) for _ in "kv")

    def through(k, v):
        tile = _engine.convert_head("f32", to_type, 8, 16, pack("f32", 16, k, v))
        return unpack("f32", 8, 16, _engine.convert_head(to_type, "f32", 8, 16, tile), 0, 16)

    odd_k, odd_v = k.copy(), v.copy()
    odd_k[3, :3] = [np.nan, np.inf, -np.inf]
    odd_k[5, 0], odd_v[9, 7], odd_v[15, 0] = -np.inf, np.nan, np.inf
    odd = [3, 5, 9, 15]
    got_k, got_v = through(odd_k, odd_v)
    assert np.isfinite(got_k).all()
    np.testing.assert_array_equal(np.isnan(got_v).all(1), np.isin(np.arange(16), odd))
    # as if those elements were some of the others
    odd_k[3, :3], odd_k[5, 0] = k[0, :3], k[0, 0]
    others = np.delete(np.arange(16), odd)
    for got, expected in zip((got_k, got_v), through(odd_k, v), strict=True):
        np.testing.assert_array_equal(got[others], expected[others])
    for bad in (np.full((16, 8), np.nan), np.full((16, 8), -np.inf)):
        got_k, got_v = through(bad.astype(np.float32), v)
        np.testing.assert_array_equal(got_k, 0)
        assert np.isnan(got_v).all()
    # the largest and the smallest numbers have scales too
    huge = np.where(rng.random((16, 8)) < 0.5, -1e38, 1e38).astype(np.float32)
    tiny = np.full((16, 8), 1e-44, np.float32)
    for x in through(huge, tiny):
        assert np.isfinite(x).all()
    np.testing.assert_allclose(through(huge, tiny)[0], huge, rtol=0.1)


@pytest.mark.parametrize("to_type", ["bf16", "f16"])
def test_floats_are_rounded_to_the_nearest(to_type):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((64, 40)) * 2.0 ** rng.integers(-30, 18, (64, 40))).astype(np.float32)
    x[0, :4] = [65519.99, 65520.0, 6e-8, 2.9e-8]
    tile = _engine.convert_head("f32", to_type, 40, 64, pack("f32", 64, x, x))
    with np.errstate(over="ignore"):
        expected = x.astype(NUMPY_DTYPES[to_type])
    assert_same(unpack(to_type, 40, 64, tile, 0, 64), (expected, expected))


@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_quantised_tiles_are_small(head_dim):
    for tile_tokens in (64, 128, 256):
        plain = _engine.head_tile_bytes("bf16", head_dim, tile_tokens)
        assert plain == 2 * 2 * head_dim * tile_tokens
        assert plain >= 1.8 * _engine.head_tile_bytes("int8", head_dim, tile_tokens)
        least = 3.2 if head_dim < 64 else 3.5
        assert plain >= least * _engine.head_tile_bytes("int4", head_dim, tile_tokens)


def test_bad_tiles_are_refused():
    with pytest.raises(InvalidArgumentError, match="power of two from 1 to 1024"):
        _engine.head_tile_bytes("f32", 8, 24)
    with pytest.raises(InvalidArgumentError, match="power of two from 16"):
        _engine.head_tile_bytes("int4", 8, 8)
    with pytest.raises(InvalidArgumentError, match="head_dim is 0"):
        _engine.head_tile_bytes("f32", 0, 16)
    with pytest.raises(InvalidArgumentError, match="use f32, bf16, f16, int8"):
        _engine.head_tile_bytes("int2", 8, 16)
