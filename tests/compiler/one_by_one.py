"""A pass for tests: attention that was split is whole again, for engines and orders without it."""

import dataclasses
from typing import ClassVar

from nspjax.compiler import mlir, nsp


@dataclasses.dataclass(frozen=True)
class JoinAttention:
    """Turn nsp.attend_start and nsp.attend_wait back into nsp.attend."""

    name: ClassVar[str] = "join-attention"

    def run(self, module):
        starts = [op for op in mlir.operations(module) if nsp.kind(op) is nsp.ATTEND_START]
        for op in starts:
            if op:
                waits = [
                    use.owner.operation
                    for use in nsp.result(op, "ticket").uses
                    if nsp.kind(use.owner.operation) is nsp.ATTEND_WAIT and not use.operand_number
                ]
                (wait,) = waits
                made = nsp.ATTEND.build(
                    mlir.Builder(op),
                    **nsp.operands(op),
                    **nsp.attributes(op),
                    after=nsp.after(op),
                )
                out, lse, *handle = made.results
                mlir.replace(wait, [out, lse])
                mlir.replace(op, [handle[0], *handle])
        return module
