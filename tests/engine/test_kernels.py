"""Every attention kernel against float64, on one tile."""

import numpy as np
import pytest
from engine_oracle import KERNELS, NUMPY_DTYPES, attend, bits, int32, normal

from nspjax import _engine
from nspjax.dtypes import DTYPES
from nspjax.errors import InvalidArgumentError

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}  # of float32; the inputs are rounded before


# int8, int4: queries and weights are rounded to 16 bits of their largest
CODE_TOLERANCE = {"rtol": 3e-4, "atol": 3e-4}


def run(kernel, dtype, q, k, v, first, last, *, first_token=0, begin=0, end=None, scale, softcap=0,
        kv_type="", tile_tokens=0):  # fmt: skip
    end = len(k) if end is None else end
    return _engine.attend_tile(
        kernel, dtype, q, bits(k), bits(v), int32(first), int32(last),
        first_token, begin, end, scale, softcap, kv_type, tile_tokens,
    )  # fmt: skip


def as_stored(k, v, kv_type):
    """float32 k, v [tokens, D], a full tile, as int8 or int4 have them."""
    tokens, head_dim = k.shape
    tile = np.zeros(_engine.head_tile_bytes("f32", head_dim, tokens), np.uint8)
    tile = _engine.pack_head("f32", tokens, k, v, 0, tile)
    tile = _engine.convert_head("f32", kv_type, head_dim, tokens, tile)
    tile = _engine.convert_head(kv_type, "f32", head_dim, tokens, tile)
    return _engine.unpack_head("f32", head_dim, tokens, tile, 0, tokens)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("head_dim", [1, 16, 24, 48, 64, 80, 128, 256])
def test_against_float64(kernel, dtype, head_dim):
    """Groups of query heads x one or several tokens x lengths around the block size."""
    rng = np.random.default_rng(head_dim)
    k, v = normal(rng, (256, head_dim), dtype), normal(rng, (256, head_dim), dtype)
    for group in (1, 3, 4, 5, 8):
        for n_tokens, length in [(1, 1), (1, 17), (1, 64), (3, 65), (2, 200), (1, 256)]:
            q = normal(rng, (group * n_tokens, head_dim))
            last = np.repeat(length - n_tokens + 1 + np.arange(n_tokens), group)
            scale = head_dim**-0.5
            got = run(kernel, dtype, q, k, v, 0 * last, last, end=length, scale=scale)
            expected = attend(q, k, v, 0 * last, last, scale)
            np.testing.assert_allclose(got[0], expected[0], **TOLERANCE)
            np.testing.assert_allclose(got[1], expected[1], **TOLERANCE)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kv_type", [dtype.name for dtype in DTYPES if dtype.is_code])
@pytest.mark.parametrize("head_dim", [1, 7, 16, 24, 64, 80, 128, 520])
def test_codes_against_float64(kernel, kv_type, head_dim):
    """Over what the tile holds, not over what went in; windows that cut words of codes."""
    rng = np.random.default_rng(head_dim)
    for tokens in (16, 64, 256):
        k, v = normal(rng, (tokens, head_dim)) + 3, normal(rng, (tokens, head_dim)) - 1
        stored = as_stored(k, v, kv_type)
        for n in (1, 3, 4, 13):
            q = normal(rng, (n, head_dim))
            first = rng.integers(0, tokens // 2, n)
            last = rng.integers(tokens // 2, tokens, n) + 1
            scale = head_dim**-0.5
            got = run(kernel, "f32", q, k, v, first, last, scale=scale, kv_type=kv_type)
            expected = attend(q, *stored, first, last, scale)
            np.testing.assert_allclose(got[0], expected[0], **CODE_TOLERANCE)
            np.testing.assert_allclose(got[1], expected[1], **CODE_TOLERANCE)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_small_tiles(kernel, dtype):
    """Fewer tokens than lanes, and a few of those."""
    rng = np.random.default_rng(5)
    for tile_tokens in (1, 2, 4, 8, 16, 32):
        for length in {1, tile_tokens // 2 + 1, tile_tokens}:
            for head_dim in (5, 64):
                k, v = (normal(rng, (length, head_dim), dtype) for _ in "kv")
                q, last = normal(rng, (6, head_dim)), rng.integers(0, length + 1, 6)
                got = run(
                    kernel, dtype, q, k, v, 0 * last, last, scale=0.2, tile_tokens=tile_tokens
                )
                expected = attend(q, k, v, 0 * last, last, 0.2)
                np.testing.assert_allclose(got[0], expected[0], **TOLERANCE)
                np.testing.assert_allclose(got[1], expected[1], **TOLERANCE)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("head_dim", [64, 4096])
def test_many_queries(kernel, head_dim):
    """More than are prepared at once: a query's result is what it is alone."""
    rng = np.random.default_rng(6)
    n = 2000 if head_dim == 64 else 9
    k, v = (normal(rng, (64, head_dim), "bf16") for _ in "kv")
    q, last = normal(rng, (n, head_dim)), rng.integers(0, 65, n)
    got = run(kernel, "bf16", q, k, v, 0 * last, last, scale=head_dim**-0.5)
    expected = attend(q, k, v, 0 * last, last, head_dim**-0.5)
    np.testing.assert_allclose(got[0], expected[0], **TOLERANCE)
    for i in (0, n // 2, n - 1):
        alone = run(kernel, "bf16", q[i : i + 1], k, v, [0], last[i : i + 1], scale=head_dim**-0.5)
        np.testing.assert_array_equal(alone[0][0], got[0][i])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("head_dim", [24, 64])
@pytest.mark.parametrize("softcap", [0.0, 0.5, 30.0])
def test_windows_and_softcap(kernel, head_dim, softcap):
    """A tile in the middle of a row; what no query sees is NaN, and must not be touched."""
    rng = np.random.default_rng(1)
    k, v = normal(rng, (96, head_dim)), normal(rng, (96, head_dim))
    begin, end, first_token = 13, 83, 1000
    k[:begin] = k[end:] = v[:begin] = v[end:] = np.nan
    first = np.array([1013, 1013, 1050, 1064, 990, 1090, 1083])
    last = np.array([1014, 1083, 1051, 1100, 1020, 1100, 1083])
    q = 4 * normal(rng, (len(first), head_dim))
    out, lse = run(kernel, "f32", q, k, v, first, last, first_token=first_token,
                   begin=begin, end=end, scale=0.5, softcap=softcap)  # fmt: skip
    expected = attend(
        q, k[begin:end], v[begin:end], first - first_token - begin, last - first_token - begin,
        0.5, softcap,
    )  # fmt: skip
    np.testing.assert_allclose(out, expected[0], **TOLERANCE)
    np.testing.assert_allclose(lse, expected[1], **TOLERANCE)
    assert np.all(lse[-2:] == -np.inf)
    assert np.all(out[-2:] == 0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_large_and_small_scores(kernel):
    """Scores to +-20000 neither overflow nor lose the largest."""
    rng = np.random.default_rng(2)
    q, k, v = (normal(rng, (n, 32)) for n in (4, 128, 128))
    out, lse = run(kernel, "f32", q, k, v, [0] * 4, [128] * 4, scale=1000.0)
    expected = attend(q * np.float32(1000), k, v, [0] * 4, [128] * 4, 1.0)
    np.testing.assert_allclose(lse, expected[1], rtol=1e-6)
    np.testing.assert_allclose(out, expected[0], atol=1e-2)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kv_type", [dtype.name for dtype in DTYPES])
def test_a_query_does_not_see_the_others(kernel, kv_type):
    """Alone, or among 1 to 15 others, with more tokens visible to them: the same bits."""
    rng = np.random.default_rng(3)
    dtype = kv_type if kv_type in NUMPY_DTYPES else "f32"
    q, k, v = normal(rng, (16, 80)), normal(rng, (128, 80), dtype), normal(rng, (128, 80), dtype)
    q[:8] = q[:8].astype(NUMPY_DTYPES["bf16"])  # exact in bf16, among others that are not
    first, last = np.full(16, 20), np.full(16, 101)
    first[1::2], last[1::2] = 0, 128
    together = run(kernel, dtype, q, k, v, first, last, scale=0.1, kv_type=kv_type)
    for n in (1, 2, 3, 5, 7, 9, 15):
        some = run(kernel, dtype, q[:n], k, v, first[:n], last[:n], scale=0.1, kv_type=kv_type)
        np.testing.assert_array_equal(some[0], together[0][:n])
        np.testing.assert_array_equal(some[1], together[1][:n])
    alone = run(kernel, dtype, q[:1], k, v, [20], [101], begin=20, end=101, scale=0.1,
                kv_type=kv_type)  # fmt: skip
    np.testing.assert_array_equal(alone[0], together[0][:1])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_every_16_bit_value(kernel, dtype):
    """All finite patterns, subnormals too, are read as the numbers that they are.

    In V. In K, avx512_bf16 reads bf16's subnormals as 0 (kernel.h): no score would show them.
    """
    values = np.arange(1 << 16, dtype=np.uint16).view(NUMPY_DTYPES[dtype])
    values = values[np.isfinite(values.astype(np.float32))]
    for row in np.resize(values, (-(-len(values) // 24), 24)):
        q, v = np.zeros((1, 24), np.float32), row[None]
        out, _ = run(kernel, dtype, q, v, v, [0], [1], scale=1.0)  # of one token: its value
        np.testing.assert_array_equal(out[0], row.astype(np.float32))


def test_unknown_kernels_are_refused():
    with pytest.raises(InvalidArgumentError, match="use auto"):
        _engine.Store(["memory:"], 1 << 20, kernel="sse9")
