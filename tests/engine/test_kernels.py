"""Every attention kernel against float64, on one tile."""

import numpy as np
import pytest
from engine_oracle import KERNELS, NUMPY_DTYPES, attend, bits, int32, normal

from nspjax import _engine
from nspjax.errors import InvalidArgumentError

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}  # of float32; the inputs are rounded before


def run(kernel, dtype, q, k, v, first, last, *, first_token=0, begin=0, end=None, scale, softcap=0):
    end = len(k) if end is None else end
    return _engine.attend_tile(
        kernel, dtype, q, bits(k), bits(v), int32(first), int32(last),
        first_token, begin, end, scale, softcap,
    )  # fmt: skip


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
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_a_query_does_not_see_the_others(kernel, dtype):
    """Alone, or among 1 to 15 others, with more tokens visible to them: the same bits."""
    rng = np.random.default_rng(3)
    q, k, v = normal(rng, (16, 80)), normal(rng, (128, 80), dtype), normal(rng, (128, 80), dtype)
    first, last = np.full(16, 20), np.full(16, 101)
    first[1::2], last[1::2] = 0, 128
    together = run(kernel, dtype, q, k, v, first, last, scale=0.1)
    for n in (1, 2, 3, 5, 7, 9, 15):
        some = run(kernel, dtype, q[:n], k, v, first[:n], last[:n], scale=0.1)
        np.testing.assert_array_equal(some[0], together[0][:n])
        np.testing.assert_array_equal(some[1], together[1][:n])
    alone = run(kernel, dtype, q[:1], k, v, [20], [101], begin=20, end=101, scale=0.1)
    np.testing.assert_array_equal(alone[0], together[0][:1])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_every_16_bit_value(kernel, dtype):
    """All finite patterns, subnormals too, are read as the numbers that they are."""
    values = np.arange(1 << 16, dtype=np.uint16).view(NUMPY_DTYPES[dtype])
    values = values[np.isfinite(values.astype(np.float32))]
    for row in np.resize(values, (-(-len(values) // 24), 24)):
        q, v = np.zeros((1, 24), np.float32), row[None]
        out, _ = run(kernel, dtype, q, v, v, [0], [1], scale=1.0)  # of one token: its value
        np.testing.assert_array_equal(out[0], row.astype(np.float32))


def test_unknown_kernels_are_refused():
    with pytest.raises(InvalidArgumentError, match="use auto"):
        _engine.Store(["memory:"], 1 << 20, kernel="sse9")
