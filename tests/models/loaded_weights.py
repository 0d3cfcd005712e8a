"""What a decoder that was loaded holds."""

from __future__ import annotations

import jax
import numpy as np
from flax import nnx


def weights_of(decoder) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.split(decoder)[1])]


def assert_same(a, b) -> None:
    for x, y in zip(weights_of(a), weights_of(b), strict=True):
        np.testing.assert_array_equal(x, y)
