"""lower-to-ffi: `nsp` operations become XLA custom calls to the engine's typed-FFI handlers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from nspjax.compiler import mlir, nsp
from nspjax.compiler.lowering import EXPANSIONS
from nspjax.compiler.nsp.verify import Verifier


@dataclasses.dataclass(frozen=True)
class LowerToFFI:
    """Turn every `nsp` operation into a `stablehlo.custom_call`; the last pass of a pipeline.

    `nsp.append` calls the engine's `nspjax.append`, and so on. Its operands go along, those that
    only order it too, and so do its attributes. What it says of its cache stays on the call, for
    tools; the engine and XLA do not look at it. What the engine has no handler for is replaced by
    its expansion first, see `nspjax.compiler.lowering`.
    """

    name: ClassVar[str] = "lower-to-ffi"
    stage: ClassVar[nsp.Stage] = nsp.Stage.LOWERED
    after: ClassVar[tuple[str, ...]] = ("sparsify", "offload-weights", "host-dot")

    def run(self, module: mlir.Module) -> mlir.Module:
        expanded = [op for op in mlir.operations(module) if op.name in EXPANSIONS]
        for op in expanded:
            EXPANSIONS[op.name](module, op)
        if expanded:
            mlir.remove_unused_functions(module)
        verifier = Verifier()
        for op in mlir.operations(module):
            if (kind := nsp.kind(op)) is not None:
                verifier.operation(op)
                _lower(op, kind)
        return module


def _lower(op: mlir.Operation, kind: nsp.Op) -> None:
    assert kind.target is not None, f"{op.name} has an expansion"
    given = nsp.attributes(op)
    config = {item.name: given.pop(item.name) for item in kind.attributes if item.for_engine}
    mlir.replace(op, mlir.custom_call(op, kind.target, config, notes=given))
