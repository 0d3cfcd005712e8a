"""host-dot: products of few rows with bf16 weights are computed by the engine's kernel."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from nspjax.compiler import mlir, nsp
from nspjax.compiler.passes.options import check_whole


@dataclasses.dataclass(frozen=True)
class HostDot:
    """Turn products of few rows with a bf16 matrix into nsp.dot.

    A decode step multiplies a few rows with all weights, which should cost what reading the weights
    does. XLA's CPU backend is far from that (bench/host_dot.py). The sums are float32 as before,
    maybe in another order. Other products stay XLA's: those of more rows, of other types, of
    matrices whose sizes are no multiples of 32; all of them on a CPU without AVX512-BF16.
    """

    name: ClassVar[str] = "host-dot"
    after: ClassVar[tuple[str, ...]] = ("offload-weights",)
    most_rows: int = 64
    """with more rows XLA's products are as fast"""

    def __post_init__(self) -> None:
        check_whole(self, "most_rows", least=1)

    def run(self, module: mlir.Module) -> mlir.Module:
        from nspjax import _engine

        if _engine.can_dot():
            for op in mlir.operations(module):
                if op.name == "stablehlo.dot_general" and self._takes(op, _engine.DOT_MULTIPLE):
                    _replace(op)
        return module

    def _takes(self, op: mlir.Operation, multiple: int) -> bool:
        x_shape, x_element = mlir.tensor(op.operands[0])
        w_shape, w_element = mlir.tensor(op.operands[1])
        given = mlir.dot_dimensions(op)
        return (
            x_element == w_element == "bf16"
            and mlir.tensor(op.results[0])[1] in ("bf16", "f32")
            and not given.left_batching
            and given.left_contracting == (len(x_shape) - 1,)
            and len(w_shape) == 2
            and len(given.right_contracting) == 1
            and all(size % multiple == 0 for size in w_shape)
            and 0 < math.prod(x_shape[:-1]) <= self.most_rows
        )


def _replace(op: mlir.Operation) -> None:
    """nsp.dot of x [..., k] as rows; its result in the shape and type that `op` had."""
    build = mlir.Builder(op)
    x, w = op.operands
    transposed = mlir.dot_dimensions(op).right_contracting == (1,)
    if (before := _before_transpose(w)) is not None:
        w, transposed = before, not transposed
    x_shape, x_element = mlir.tensor(x)
    shape, element = mlir.tensor(op.results[0])
    n_rows = math.prod(x_shape[:-1])
    rows = _cast(build, "stablehlo.reshape", x, (n_rows, x_shape[-1]), x_element)
    dot = nsp.DOT.build(build, x=rows, w=w, transposed=transposed)
    out = _cast(build, "stablehlo.reshape", nsp.result(dot, "out"), shape, "f32")
    mlir.replace(op, [_cast(build, "stablehlo.convert", out, shape, element)])


def _before_transpose(matrix: mlir.Value) -> mlir.Value | None:
    """Of what it is the transpose: the kernel reads either, and so nothing is moved."""
    made_by = mlir.definition(matrix)
    if made_by is None or made_by.name != "stablehlo.transpose":
        return None
    turned = mlir.integers(made_by.attributes["permutation"]) == (1, 0)
    return made_by.operands[0] if turned else None


def _cast(
    build: mlir.Builder, name: str, value: mlir.Value, shape: tuple[int, ...], element: str
) -> mlir.Value:
    """The value in that shape and type; itself if it has them."""
    if mlir.tensor(value) == (shape, element):
        return value
    kind = mlir.tensor_type(shape, element, build.anchor.context)
    return build.op(name, [value], [kind])[0]
