"""The dimension numbers of StableHLO operations, as Python values."""

from __future__ import annotations

import dataclasses

from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo

from nspjax.compiler.mlir.reading import Attribute, Operation, Type


@dataclasses.dataclass(frozen=True)
class DotDimensions:
    """What a dot_general pairs up. Its result is batching, then left free, then right free."""

    left_batching: tuple[int, ...]
    right_batching: tuple[int, ...]
    left_contracting: tuple[int, ...]
    right_contracting: tuple[int, ...]


def dot_dimensions(op: Operation) -> DotDimensions:
    given = stablehlo.DotDimensionNumbers(op.attributes["dot_dimension_numbers"])
    return DotDimensions(
        tuple(given.lhs_batching_dimensions),
        tuple(given.rhs_batching_dimensions),
        tuple(given.lhs_contracting_dimensions),
        tuple(given.rhs_contracting_dimensions),
    )


@dataclasses.dataclass(frozen=True)
class GatherDimensions:
    """Where a gather's result dimensions come from; `offset` ones are of the operand's slices."""

    offset: tuple[int, ...]
    collapsed: tuple[int, ...]
    operand_batching: tuple[int, ...]
    index_batching: tuple[int, ...]
    index_vector: int


def gather_dimensions(op: Operation) -> GatherDimensions:
    given = stablehlo.GatherDimensionNumbers(op.attributes["dimension_numbers"])
    return GatherDimensions(
        tuple(given.offset_dims),
        tuple(given.collapsed_slice_dims),
        tuple(given.operand_batching_dims),
        tuple(given.start_indices_batching_dims),
        given.index_vector_dim,
    )


def splat(value: Attribute, kind: Type) -> Attribute | None:
    """A constant whose elements are all alike, in another shape; None if they are not."""
    dense = ir.DenseElementsAttr(value)
    if not dense.is_splat:
        return None
    return ir.DenseElementsAttr.get_splat(kind, dense.get_splat_value())
