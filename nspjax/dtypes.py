"""The element types of KV caches, as the engine's table has them (csrc/format/dtype.h)."""

from __future__ import annotations

import dataclasses

from nspjax import _engine


@dataclasses.dataclass(frozen=True)
class DType:
    """A row of the table."""

    name: str
    """in the engine and in files; in MLIR, of those that are appended: "bf16" """
    numpy: str
    """in NumPy with ml_dtypes, in JAX, on the command line: "bfloat16" """
    bits: int
    is_code: bool
    """An element is offset + scale * code, a whole number."""
    appended: bool
    """A cache can be of this type; in the others a store keeps full tiles."""


DTYPES = tuple(DType(**row) for row in _engine.dtypes())
APPENDED = tuple(dtype.numpy for dtype in DTYPES if dtype.appended)
STORED_ONLY = tuple(dtype.numpy for dtype in DTYPES if not dtype.appended)
BY_NAME = {dtype.name: dtype for dtype in DTYPES}
