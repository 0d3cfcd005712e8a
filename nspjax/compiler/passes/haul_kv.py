"""haul-kv: attention at the compute device, over K and V that are brought to it in chunks."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from nspjax.compiler import mlir, nsp
from nspjax.compiler.passes.options import check_whole


@dataclasses.dataclass(frozen=True)
class HaulKV:
    """Turn every nsp.attend into nsp.haul, FlexGen's way (arXiv 2303.06865): the baseline.

    Every key and value that is attended over crosses the link, in place of queries and results.
    """

    name: ClassVar[str] = "haul-kv"
    stage: ClassVar[nsp.Stage] = nsp.Stage.OFFLOADED
    after: ClassVar[tuple[str, ...]] = ("x-cache",)
    hauls: ClassVar[bool] = True
    chunk_tokens: int = 1024
    """how many tokens of each row are at the compute device at a time; best a multiple of a tile's,
    since a tile that two chunks have is read twice"""

    def __post_init__(self) -> None:
        check_whole(self, "chunk_tokens", least=1)

    def run(self, module: mlir.Module) -> mlir.Module:
        for op in mlir.operations(module):
            if nsp.kind(op) is nsp.ATTEND:
                haul = nsp.HAUL.build(
                    mlir.Builder(op),
                    **nsp.operands(op),
                    **_of_all(nsp.attributes(op)),
                    chunk_tokens=min(self.chunk_tokens, nsp.cache_shape(op)[1]),
                    after=nsp.after(op),
                )
                mlir.replace(op, list(haul.results))
        return module


def _of_all(attention: dict[str, Any]) -> dict[str, Any]:
    """What an attention that brings all of K and V has of one's attributes."""
    taken = {item.name for item in nsp.HAUL.attributes}
    return {name: value for name, value in attention.items() if name in taken}
