"""Values for a part of the batch, made on demand by building what makes them again.

Right by construction: each rule of `rules` is local, and where there is none the part of a
value is a slice of it (`rows_of_batch`), or the module is refused (`another_batch`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from nspjax.compiler import mlir
from nspjax.compiler.batch.rules import Part, Step, step

Key = tuple[int, Part]


@dataclasses.dataclass
class Cloner:
    """Makes parts of values, each once. While it is in use, nothing may be erased.

    leaf: the part of a value whose maker has no rule. whole: a value that is needed as it is.
    anchor: the operation in front of which the copy of another one goes.
    """

    same_batch: bool
    leaf: Callable[[mlir.Value, Part], mlir.Value]
    whole: Callable[[mlir.Value], mlir.Value]
    anchor: Callable[[mlir.Operation], mlir.Operation]
    made: dict[Key, mlir.Value] = dataclasses.field(default_factory=dict)

    def clone(self, value: mlir.Value, part: Part) -> mlir.Value:
        """`part` of a value."""
        stack = [(value, part)]
        while stack:
            top, of_top = stack[-1]
            needed = self._needed(top, of_top)
            if needed:
                stack += needed
            else:
                stack.pop()
        return self.made[hash(value), part]

    def _needed(self, value: mlir.Value, part: Part) -> list[tuple[mlir.Value, Part]]:
        """What must be made before, or else nothing: then it is made."""
        key = (hash(value), part)
        if key in self.made:
            return []
        how = self.how(value, part)
        if how is None:
            self.made[key] = self.leaf(value, part)
            return []
        if isinstance(how, mlir.Value):
            self.made[key] = how
            return []
        op = mlir.maker(value)
        needed = [
            (operand, of_it)
            for operand, of_it in zip(op.operands, how.operands, strict=True)
            if of_it is not None and (hash(operand), of_it) not in self.made
        ]
        if not needed:
            for result, new in zip(op.results, self._built(op, part, how), strict=True):
                self.made[hash(result), part] = new
        return needed

    def how(self, value: mlir.Value, part: Part) -> Step | mlir.Value | None:
        """How a part is made: by a step, being the value itself, or not by any rule."""
        if self.same_batch and part.extent == mlir.tensor(value)[0][part.axis]:
            return value
        if mlir.is_argument(value):
            return None
        return step(mlir.maker(value), part, self.same_batch)

    def _built(self, op: mlir.Operation, part: Part, how: Step) -> list[mlir.Value]:
        indices = range(len(how.operands)) if how.kept is None else how.kept
        operands = [
            self.whole(op.operands[i])
            if (of_it := how.operands[i]) is None
            else self.made[hash(op.operands[i]), of_it]
            for i in indices
        ]
        if how.kept is not None and len(operands) == 1:
            return operands  # of what was joined, one alone
        shapes = [part.shape(mlir.tensor(result)[0]) for result in op.results]
        if how.kept is not None:
            kinds = [
                mlir.tensor_type(shape, mlir.tensor(result)[1], op.context)
                for shape, result in zip(shapes, op.results, strict=True)
            ]
            axis = {"dimension": op.attributes["dimension"]}
            return mlir.Builder(self.anchor(op)).op(op.name, operands, kinds, axis)
        return mlir.rebuild(op, self.anchor(op), operands, shapes, how.attributes)


def rows_of_batch() -> Cloner:
    """Parts are rows [begin, end) of the module's own batch, made beside the whole."""
    return Cloner(
        same_batch=True, leaf=_sliced, whole=lambda value: value, anchor=lambda maker: maker
    )


def _sliced(value: mlir.Value, part: Part) -> mlir.Value:
    shape, element = mlir.tensor(value)
    start, limit = [0] * len(shape), list(shape)
    start[part.axis], limit[part.axis] = part.begin, part.end
    owner = value.owner
    if isinstance(owner, mlir.Block):
        build = mlir.Builder(owner.operations[0].operation)
    else:
        build = mlir.Builder(owner.operation, behind=True)
    context = build.anchor.context
    return build.op(
        "stablehlo.slice",
        [value],
        [mlir.tensor_type(part.shape(shape), element, context)],
        {
            "start_indices": mlir.attribute(tuple(start), context),
            "limit_indices": mlir.attribute(tuple(limit), context),
            "strides": mlir.attribute((1,) * len(shape), context),
        },
    )[0]


def joined(parts: list[mlir.Value], axis: int, anchor: mlir.Operation) -> mlir.Value:
    """Parts side by side along an axis, made in front of `anchor`."""
    shape, element = mlir.tensor(parts[0])
    extent = sum(mlir.tensor(part)[0][axis] for part in parts)
    kind = mlir.tensor_type((*shape[:axis], extent, *shape[axis + 1 :]), element, anchor.context)
    dimension = {"dimension": mlir.attribute(axis, anchor.context)}
    return mlir.Builder(anchor).op("stablehlo.concatenate", parts, [kind], dimension)[0]
