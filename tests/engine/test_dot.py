"""`nspjax.dot` as XLA calls it: against float64, row by row the same, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nspjax import _engine
from nspjax.errors import InvalidArgumentError, engine_errors
from nspjax.runtime import register_targets

pytestmark = pytest.mark.skipif(not _engine.can_dot(), reason="this CPU has no AVX512-BF16")


@pytest.fixture(autouse=True)
def targets():
    register_targets()


def dot(x, w, transposed=False, n=None):
    n = w.shape[0 if transposed else 1] if n is None else n
    result = jax.ShapeDtypeStruct((x.shape[0], n), jnp.float32)
    return jax.ffi.ffi_call("nspjax.dot", result)(x, w, transposed=np.int64(transposed))


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 110),
    k=st.integers(1, 12).map(lambda i: 32 * i),
    n=st.integers(1, 70).map(lambda i: 32 * i),
    transposed=st.booleans(),
)
def test_against_float64(m, k, n, transposed):
    x, w = normal(m, m, k), normal(n, n, k) if transposed else normal(n, k, n)
    exact_x, exact_w = (np.asarray(a, np.float64) for a in (x, w))
    exact_w = exact_w.T if transposed else exact_w
    most = np.abs(exact_x) @ np.abs(exact_w)
    assert (np.abs(dot(x, w, transposed) - exact_x @ exact_w) <= 1e-6 * most).all()


@pytest.mark.parametrize("transposed", [False, True])
def test_a_row_is_the_same_among_any_others(transposed):
    """What a request is answered must not depend on its batch."""
    x, w = normal(0, 61, 256), normal(1, 256, 256)
    whole = dot(x, w, transposed)
    for rows in (slice(0, 1), slice(3, 10), slice(20, 61)):
        assert (dot(x[rows], w, transposed) == whole[rows]).all()


@pytest.mark.parametrize(
    ("x", "w", "n", "why"),
    [
        ((2, 64), (32, 64), 64, r"w is \[32, 64\], it must be \[K = 64, N\]"),
        ((2, 64), (64, 64), 32, r"out is \[2, 32\], it must be \[M = 2, N = 64\]"),
        ((2, 1, 64), (64, 64), 64, r"x is \[2, 1, 64\], it must be \[M, K\]"),
        ((2, 48), (48, 64), 64, "multiples of 32, got 48 to 64"),
        ((2, 64), (64, 40), 40, "multiples of 32, got 64 to 40"),
    ],
)
def test_shapes_that_are_refused(x, w, n, why):
    with pytest.raises(InvalidArgumentError, match=why), engine_errors():
        jax.block_until_ready(dot(jnp.ones(x, jnp.bfloat16), jnp.ones(w, jnp.bfloat16), n=n))
