"""lower-to-ffi: `nsp` operations become XLA custom calls to the engine's typed-FFI handlers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from nspjax.compiler import mlir, nsp
from nspjax.compiler.lowering import EXPANSIONS


@dataclasses.dataclass(frozen=True)
class LowerToFFI:
    """Turn every `nsp` operation into a `stablehlo.custom_call`; the last pass of a pipeline.

    `nsp.append` calls the engine's `nspjax.append`, and so on. Its operands go along, those that
    only order it too; so do the attributes of its kind, which are numbers, and no others. What the
    engine has no handler for is replaced by its expansion, see `nspjax.compiler.lowering`.
    """

    name: ClassVar[str] = "lower-to-ffi"

    def run(self, module: mlir.Module) -> mlir.Module:
        for op in mlir.operations(module):
            if op.name in EXPANSIONS:
                EXPANSIONS[op.name](module, op)
            elif (kind := nsp.kind(op)) is not None:
                target = op.name.replace("nsp.", "nspjax.", 1)
                mlir.replace(op, mlir.custom_call(op, target, kind.attributes))
        return module
