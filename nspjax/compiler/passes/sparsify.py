"""sparsify: attention of a decode step reads the part of V that matters."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from nspjax.compiler import mlir, nsp
from nspjax.compiler.passes.options import check_whole, option_name
from nspjax.errors import PipelineError

_LEAST_SHARE = 1e-6


@dataclasses.dataclass(frozen=True)
class Sparsify:
    """Have every nsp.attend of one query token a row read a part of V, and no K.

    Scores of all tokens come from K's codes in host memory, so caches must be made with
    `sketch=True`. V is read in blocks, those with the largest share of the softmax first; what is
    left out enters the answer by its weights and its mean V (docs/sparse.md). Attentions of several
    query tokens, such as prefill's, and those with a window stay as they are.
    """

    name: ClassVar[str] = "sparsify"
    stage: ClassVar[nsp.Stage] = nsp.Stage.OFFLOADED
    needs_sketches: ClassVar[bool] = True
    mass: float = 0.95
    """blocks are read until they, and what host memory has, are so much of the softmax, as it is
    estimated"""
    budget: float = 1.0
    """or until they are so much of a row's blocks"""
    block_tokens: int = 0
    """tokens of V in a block, a power of two from 16 to a tile's; 0: as many as a page has"""

    def __post_init__(self) -> None:
        for field in ("mass", "budget"):
            value = getattr(self, field)
            if not isinstance(value, float | int) or not _LEAST_SHARE <= value <= 1:
                raise PipelineError(
                    f"{self.name}: {option_name(field)} must be from {_LEAST_SHARE} to 1, "
                    f"got {value!r}"
                )
        check_whole(self, "block_tokens", least=0)
        if self.block_tokens and (self.block_tokens < 16 or self.block_tokens.bit_count() > 1):
            raise PipelineError(
                f"{self.name}: block-tokens must be a power of two from 16 on, or 0 to choose, "
                f"got {self.block_tokens}"
            )

    def run(self, module: mlir.Module) -> mlir.Module:
        for op in mlir.operations(module):
            if nsp.kind(op) is nsp.ATTEND and self._takes(op):
                nsp.set_attribute(op, "mass", float(self.mass))
                nsp.set_attribute(op, "budget", float(self.budget))
                nsp.set_attribute(op, "block_tokens", self.block_tokens)
        return module

    def _takes(self, op: mlir.Operation) -> bool:
        (_, n_tokens, _, _), _ = mlir.tensor(nsp.operand(op, "q"))
        return n_tokens == 1 and not nsp.attribute(op, "window")
