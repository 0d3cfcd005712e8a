"""lower-to-ffi: `nsp` operations become XLA custom calls to the engine's typed-FFI handlers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from nspjax.compiler import mlir
from nspjax.compiler.passes.offload_kv import APPEND, ATTEND
from nspjax.runtime.targets import APPEND_TARGET, ATTEND_TARGET

_TARGETS = {APPEND: APPEND_TARGET, ATTEND: ATTEND_TARGET}


@dataclasses.dataclass(frozen=True)
class LowerToFFI:
    """Turn every `nsp` operation into a `stablehlo.custom_call`; the last pass of a pipeline."""

    name: ClassVar[str] = "lower-to-ffi"

    def run(self, module: mlir.Module) -> mlir.Module:
        for op in mlir.operations(module):
            if op.name in _TARGETS:
                mlir.replace(op, mlir.custom_call(op, _TARGETS[op.name]))
        return module
