"""x-cache: for a share of the rows X is stored in place of K and V, which are made again."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from nspjax.compiler import mlir, nsp
from nspjax.compiler.passes.options import check_whole
from nspjax.compiler.x_cache.finding import is_of_a_layer, layers_of
from nspjax.compiler.x_cache.fraction import AUTO, auto_share, checked_fraction, rows_with_x
from nspjax.compiler.x_cache.rewriting import Layers
from nspjax.errors import OffloadError
from nspjax.ops.projection import PROJECT_KV


@dataclasses.dataclass(frozen=True)
class XCache:
    """Keep X, the input of project_kv, in place of K and V for the last rows of every cache.

    X has half their size with multi-head attention. Attention over these rows is at the compute
    device, independent of what the store does for the others: chunks of X are fetched, K and V are
    computed from them as the model does it, a rotation with the tokens' own positions, and the
    partial results are merged by log-sum-exp. It is exact. This is the cooperative X-cache of HILOS
    (arXiv 2502.09921). All programs that share a cache need the same fraction.

    What a model does between project_kv and cached_attention may depend, beside X, on the lengths
    of the caches, which are taken for the tokens' positions, and on weights: all arguments of the
    program but single integers count as such.

    Rows whose X is kept cannot be taken for others: a program with take_rows is refused, or left as
    it is where the fraction is `auto`.
    """

    name: ClassVar[str] = "x-cache"
    stage: ClassVar[nsp.Stage] = nsp.Stage.OFFLOADED
    fraction: str = AUTO
    """of the cache's rows, rounded; `auto`: what measured rates say pays, 0 without them"""
    chunk_tokens: int = 512
    """of each row, how many are recomputed at a time"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", checked_fraction(self.fraction))
        check_whole(self, "chunk_tokens", least=1)

    @property
    def needs_rates(self) -> bool:
        return self.fraction == AUTO

    @property
    def keeps_x(self) -> bool:
        return self.fraction == AUTO or float(self.fraction) > 0

    def run(self, module: mlir.Module) -> mlir.Module:
        appends = [op for op in mlir.operations(module) if nsp.kind(op) is nsp.APPEND]
        takes = [op for op in mlir.operations(module) if nsp.kind(op) is nsp.TAKE_ROWS]
        if takes and self.fraction == AUTO:
            return module
        share = auto_share(module) if self.fraction == AUTO else float(self.fraction)
        if not any(rows_with_x(share, nsp.cache_shape(op)[0]) for op in appends):
            return module
        if takes:
            raise OffloadError(
                "x-cache keeps X for the last rows of a cache, K and V for the others, and "
                f"take_rows at {mlir.source_line(takes[0])} may take one kind of row for the "
                "other: leave x-cache out of the pipeline, or say x-cache{fraction=0}"
            )
        mlir.inline_calls(module, needed=is_of_a_layer, keep={PROJECT_KV})
        mlir.merge_equal(module)
        layers = Layers(module, self.chunk_tokens)
        for attend, append in layers_of(module):
            n_rows = nsp.cache_shape(append)[0]
            layers.rewrite(attend, append, n_rows - rows_with_x(share, n_rows))
        mlir.update_function_types(module)
        mlir.remove_unused_functions(module)
        return module
