"""The table of element types against those who gave the types their names: ml_dtypes, JAX, MLIR."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from nspjax import _engine
from nspjax.dtypes import APPENDED, DTYPES, STORED_ONLY

FLOATS = [dtype for dtype in DTYPES if not dtype.is_code]
# of float32: signs, halves between two bf16 or two f16, subnormals, what overflows
SPECIAL = [
    0.0, -0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 65504.0, 65519.9, 65520.0,
    2**-14, 2**-24, 2**-25, 1.5 * 2**-24, 1e-40, 3e38, np.inf, -np.inf, np.nan,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_names_and_bits(dtype):
    assert jnp.dtype(dtype.numpy).name == dtype.numpy
    info = ml_dtypes.iinfo if dtype.is_code else ml_dtypes.finfo
    assert info(jnp.dtype(dtype.numpy)).bits == dtype.bits
    if dtype.appended:
        text = jax.jit(lambda x: x).lower(jax.ShapeDtypeStruct((2,), dtype.numpy)).as_text()
        assert f"tensor<2x{dtype.name}>" in text


def test_every_type_is_appended_or_stored_only():
    assert len(APPENDED) + len(STORED_ONLY) == len(DTYPES) == len({dtype.name for dtype in DTYPES})


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.name)
def test_float32_is_rounded_as_ml_dtypes_does(dtype):
    random = np.random.default_rng(0).integers(0, 2**32, 16 * 64 - len(SPECIAL), np.uint32)
    x = np.concatenate([np.array(SPECIAL, np.float32), random.view(np.float32)]).reshape(16, 64)
    empty = np.zeros(_engine.head_tile_bytes("f32", 64, 16), np.uint8)
    stored = _engine.convert_head(
        "f32", dtype.name, 64, 16, _engine.pack_head("f32", 16, x, x, 0, empty)
    )
    back = _engine.convert_head(dtype.name, "f32", 64, 16, stored)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(jnp.dtype(dtype.numpy)).astype(np.float32)
    for got in _engine.unpack_head("f32", 64, 16, back, 0, 16):
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(np.signbit(got)[~np.isnan(x)], np.signbit(x)[~np.isnan(x)])
