"""`nsp` operations that the engine has no handler for, as JAX functions that call it."""

from __future__ import annotations

from collections.abc import Callable

from nspjax.compiler import mlir, nsp
from nspjax.compiler.lowering.haul import expand_haul

Expansion = Callable[[mlir.Module, mlir.Operation], None]
"""Replaces the operation by what it stands for, for which the engine has calls."""

EXPANSIONS: dict[str, Expansion] = {nsp.HAUL.name: expand_haul}
"""By the name of the operation."""
