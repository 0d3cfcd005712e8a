"""Bit patterns that are no ordinary numbers, and how results with them are compared."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

NUMPY_DTYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}
MANTISSA_BITS = {"f32": 23, "bf16": 7, "f16": 10}
KINDS = ("nan", "inf", "subnormal", "zero")

odd_values = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 1),  # sign
        st.integers(0, 2**23 - 1),  # payload, quiet or signalling
        st.integers(0, 2**16),  # place, token and channel
        st.integers(0, 2**16),
    ),
    max_size=4,
)


def pattern(kind: str, sign: int, payload: int, dtype: str) -> int:
    """The bits of such a number of a dtype."""
    mantissa = MANTISSA_BITS[dtype]
    exponent = (1 << ((32 if dtype == "f32" else 16) - 1 - mantissa)) - 1
    bits = sign << (32 if dtype == "f32" else 16) - 1
    if kind in ("nan", "inf"):
        bits |= exponent << mantissa
    if kind in ("nan", "subnormal"):
        bits |= payload >> (23 - mantissa) or 1
    return bits


def without_subnormals(values):
    """XLA reads subnormal numbers as 0, of which the product with an infinity is another one."""
    return [(kind if kind != "subnormal" else "zero", *rest) for kind, *rest in values]


def put(array: np.ndarray, dtype: str, values) -> np.ndarray:
    """array [..., tokens, D] of a dtype with `odd_values` in it; the last place is often taken."""
    bits = array.copy().view(np.uint32 if dtype == "f32" else np.uint16)
    rows = bits.reshape(-1, bits.shape[-1])
    for kind, sign, payload, token, channel in values:
        rows[token % len(rows), channel % rows.shape[1]] = pattern(kind, sign, payload, dtype)
    return bits.view(NUMPY_DTYPES[dtype])


def assert_plain(got, expected, tolerance: float = 3e-5) -> None:
    """out and lse: NaN where softmax's plain arithmetic has NaN, else equal, infinities too."""
    out, want = np.asarray(got[0], np.float64), expected[0]
    np.testing.assert_array_equal(np.isnan(out), np.isnan(want))
    np.testing.assert_allclose(out, want, rtol=tolerance, atol=tolerance)
    # the sum of a query whose channels are not all NaN
    number = ~np.isnan(want).all(-1)
    np.testing.assert_allclose(got[1][number], expected[1][number], rtol=tolerance, atol=tolerance)
