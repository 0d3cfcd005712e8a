"""What an operation's operands must be for its result to be a part along one axis: local rules.

A rule says of one operation: part P of its result is the same operation applied to these parts of
its operands, with these attributes. There are none for operations that mix what lies along the
axis, nor for those that nobody needed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from nspjax.compiler import mlir


@dataclasses.dataclass(frozen=True)
class Part:
    """[begin, end) along one axis of a value."""

    axis: int
    begin: int
    end: int

    @property
    def extent(self) -> int:
        return self.end - self.begin

    def shape(self, whole: Sequence[int]) -> tuple[int, ...]:
        """The shape of this part of a value of shape `whole`."""
        return (*whole[: self.axis], self.extent, *whole[self.axis + 1 :])

    def on(self, axis: int) -> Part:
        return dataclasses.replace(self, axis=axis)

    def shifted(self, by: int) -> Part:
        return Part(self.axis, self.begin + by, self.end + by)


@dataclasses.dataclass(frozen=True)
class Step:
    """How to make a part of an operation's result.

    operands: for each the part that is needed; None is the whole operand. kept: which of the
    operands the new operation has, None for all. attributes: those that change.
    """

    operands: tuple[Part | None, ...]
    attributes: dict[str, mlir.Attribute] = dataclasses.field(default_factory=dict)
    kept: tuple[int, ...] | None = None


Rule = Callable[[mlir.Operation, Part, bool], Step | None]


def step(op: mlir.Operation, part: Part, same_batch: bool) -> Step | None:
    """How to make `part` of every result of `op`; None where no rule says.

    same_batch: the part is rows [begin, end) of the batch that the module has. Otherwise it is the
    whole of another batch, of another size: what takes a slice of the batch has no rule then.
    """
    rule = _RULES.get(op.name)
    shapes = {mlir.tensor(result)[0] for result in op.results}
    if rule is None or len(shapes) != 1:
        return None
    return rule(op, part, same_batch)


def _shape(value: mlir.Value) -> tuple[int, ...]:
    return mlir.tensor(value)[0]


def _result(op: mlir.Operation) -> tuple[int, ...]:
    return _shape(op.results[0])


def _elementwise(op: mlir.Operation, part: Part, _: bool) -> Step | None:
    shape, parts = _result(op), []
    for operand in op.operands:
        given = _shape(operand)
        if given and given != shape:
            return None
        parts.append(part if given else None)
    return Step(tuple(parts))


def _broadcast(op: mlir.Operation, part: Part, _: bool) -> Step:
    where = mlir.integers(op.attributes["broadcast_dimensions"])
    if part.axis not in where:
        return Step((None,))
    axis = where.index(part.axis)
    repeated = _shape(op.operands[0])[axis] == 1 and _result(op)[part.axis] != 1
    return Step((None if repeated else part.on(axis),))


def _reshape(op: mlir.Operation, part: Part, _: bool) -> Step | None:
    """What lies in front of the axis stays: it is alone, merged with what follows, or split."""
    shape, given = _result(op), _shape(op.operands[0])
    before, stride = math.prod(shape[: part.axis]), math.prod(shape[part.axis + 1 :])
    fitting = []
    for axis in range(len(given)):
        of_one = math.prod(given[axis + 1 :])
        whole = part.begin * stride % of_one == part.end * stride % of_one == 0
        if math.prod(given[:axis]) == before and whole:
            found = Part(axis, part.begin * stride // of_one, part.end * stride // of_one)
            # another axis of extent 1 may lie beside it: prefer what looks most alike
            fitting.append((of_one != stride, axis != part.axis, axis, found))
    return Step((min(fitting)[-1],)) if fitting else None


def _transpose(op: mlir.Operation, part: Part, _: bool) -> Step:
    return Step((part.on(mlir.integers(op.attributes["permutation"])[part.axis]),))


def _reverse(op: mlir.Operation, part: Part, _: bool) -> Step | None:
    return None if part.axis in mlir.integers(op.attributes["dimensions"]) else Step((part,))


def _dot_general(op: mlir.Operation, part: Part, _: bool) -> Step:
    dims = mlir.dot_dimensions(op)
    n_batching = len(dims.left_batching)
    if part.axis < n_batching:
        left, right = dims.left_batching[part.axis], dims.right_batching[part.axis]
        return Step((part.on(left), part.on(right)))
    left_free, right_free = (
        [axis for axis in range(len(_shape(operand))) if axis not in used]
        for operand, used in zip(
            op.operands,
            (
                dims.left_batching + dims.left_contracting,
                dims.right_batching + dims.right_contracting,
            ),
            strict=True,
        )
    )
    at = part.axis - n_batching
    if at < len(left_free):
        return Step((part.on(left_free[at]), None))
    return Step((None, part.on(right_free[at - len(left_free)])))


def _reduce(op: mlir.Operation, part: Part, _: bool) -> Step:
    gone = mlir.integers(op.attributes["dimensions"])
    given = _shape(op.operands[0])
    axis = [axis for axis in range(len(given)) if axis not in gone][part.axis]
    n_inputs = len(op.operands) // 2
    return Step((part.on(axis),) * n_inputs + (None,) * n_inputs)


def _sort(op: mlir.Operation, part: Part, _: bool) -> Step | None:
    along = mlir.number(op.attributes["dimension"]) % len(_result(op))
    return None if along == part.axis else Step((part,) * len(op.operands))


def _iota(op: mlir.Operation, part: Part, _: bool) -> Step | None:
    return None if mlir.number(op.attributes["iota_dimension"]) == part.axis else Step(())


def _constant(op: mlir.Operation, part: Part, _: bool) -> Step | None:
    shape, element = mlir.tensor(op.results[0])
    kind = mlir.tensor_type(part.shape(shape), element, op.context)
    value = mlir.splat(op.attributes["value"], kind)
    return None if value is None else Step((), {"value": value})


def _slice(op: mlir.Operation, part: Part, same_batch: bool) -> Step | None:
    names = ("start_indices", "limit_indices", "strides")
    start, limit, strides = (list(mlir.integers(op.attributes[name])) for name in names)
    axis, given = part.axis, _shape(op.operands[0])
    all_of_it = (start[axis], limit[axis], strides[axis]) == (0, given[axis], 1)
    if strides[axis] != 1 or not (all_of_it or same_batch):
        return None
    needed = part.shifted(start[axis])
    start[axis], limit[axis] = 0, part.extent
    return Step((needed,), _int_attributes(op, start_indices=start, limit_indices=limit))


def _pad(op: mlir.Operation, part: Part, _: bool) -> Step | None:
    names = ("edge_padding_low", "edge_padding_high", "interior_padding")
    if any(mlir.integers(op.attributes[name])[part.axis] for name in names):
        return None
    return Step((part, None))


def _concatenate(op: mlir.Operation, part: Part, same_batch: bool) -> Step | None:
    if mlir.number(op.attributes["dimension"]) != part.axis:
        return Step((part,) * len(op.operands))
    if not same_batch:
        return None
    parts, kept, at = [], [], 0
    for index, operand in enumerate(op.operands):
        extent = _shape(operand)[part.axis]
        begin, end = max(part.begin - at, 0), min(part.end - at, extent)
        if begin < end:
            kept.append(index)
        parts.append(Part(part.axis, begin, end) if begin < end else None)
        at += extent
    return Step(tuple(parts), kept=tuple(kept))


def _dynamic_slice(op: mlir.Operation, part: Part, _: bool) -> Step | None:
    sizes = list(mlir.integers(op.attributes["slice_sizes"]))
    if sizes[part.axis] != _shape(op.operands[0])[part.axis]:
        return None  # where it begins matters; of the whole axis it can only begin at 0
    sizes[part.axis] = part.extent
    rest = (None,) * (len(op.operands) - 1)
    return Step((part, *rest), _int_attributes(op, slice_sizes=sizes))


def _dynamic_update_slice(op: mlir.Operation, part: Part, _: bool) -> Step | None:
    if _shape(op.operands[0])[part.axis] != _shape(op.operands[1])[part.axis]:
        return None
    return Step((part, part) + (None,) * (len(op.operands) - 2))


def _gather(op: mlir.Operation, part: Part, _: bool) -> Step | None:
    dims, rank = mlir.gather_dimensions(op), len(_result(op))
    operand, indices = op.operands
    if part.axis in dims.offset:
        gone = dims.collapsed + dims.operand_batching
        of_slice = [axis for axis in range(len(_shape(operand))) if axis not in gone]
        axis = of_slice[dims.offset.index(part.axis)]
        sizes = list(mlir.integers(op.attributes["slice_sizes"]))
        if sizes[axis] != _shape(operand)[axis]:
            return None
        sizes[axis] = part.extent
        return Step((part.on(axis), None), _int_attributes(op, slice_sizes=sizes))
    batch_axes = [axis for axis in range(rank) if axis not in dims.offset]
    of_index = [axis for axis in range(len(_shape(indices))) if axis != dims.index_vector]
    axis = of_index[batch_axes.index(part.axis)]
    if axis in dims.index_batching:
        on_operand = dims.operand_batching[dims.index_batching.index(axis)]
        return Step((part.on(on_operand), part.on(axis)))
    return Step((None, part.on(axis)))


def _int_attributes(op: mlir.Operation, **values: list[int]) -> dict[str, mlir.Attribute]:
    return {name: mlir.attribute(tuple(value), op.context) for name, value in values.items()}


_ELEMENTWISE = (
    "abs add and atan2 cbrt ceil clamp compare complex convert cosine count_leading_zeros "
    "divide exponential exponential_minus_one floor imag is_finite log log_plus_one logistic "
    "maximum minimum multiply negate not or popcnt power real reduce_precision remainder "
    "round_nearest_afz round_nearest_even rsqrt select shift_left shift_right_arithmetic "
    "shift_right_logical sign sine sqrt subtract tan tanh xor"
)

_RULES: dict[str, Rule] = {
    **{f"stablehlo.{name}": _elementwise for name in _ELEMENTWISE.split()},
    "stablehlo.broadcast_in_dim": _broadcast,
    "stablehlo.concatenate": _concatenate,
    "stablehlo.constant": _constant,
    "stablehlo.dot_general": _dot_general,
    "stablehlo.dynamic_slice": _dynamic_slice,
    "stablehlo.dynamic_update_slice": _dynamic_update_slice,
    "stablehlo.gather": _gather,
    "stablehlo.iota": _iota,
    "stablehlo.pad": _pad,
    "stablehlo.reduce": _reduce,
    "stablehlo.reshape": _reshape,
    "stablehlo.reverse": _reverse,
    "stablehlo.slice": _slice,
    "stablehlo.sort": _sort,
    "stablehlo.transpose": _transpose,
}
