"""A function that computes values of a module again, for another batch of another size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from nspjax.compiler import mlir
from nspjax.compiler.batch.axis import Cloner, Key
from nspjax.compiler.batch.rules import Part
from nspjax.compiler.nsp.edges import BRANCHES, LOOP, unchanged
from nspjax.errors import OffloadError


@dataclasses.dataclass(frozen=True)
class BatchFunction:
    """function: takes the given values, then `captured`, of the module, which it needs whole."""

    function: mlir.Operation
    captured: list[mlir.Value]


def batch_function(
    module: mlir.Module,
    name: str,
    results: Sequence[mlir.Value],
    given: Sequence[Sequence[mlir.Value]],
    size: int,
) -> BatchFunction:
    """Make a function of `size` batch rows that computes `results` from the values given.

    The batch is the first axis of all. Each of `given` is one argument of the function, [size, ...]
    like its values, which are all taken for the same: each row of the results must follow from the
    same row of the arguments and from what no call changes, that is from constants and weights.
    Arguments of main are taken for weights, unless they are a single integer or a row of them.

    Raises:
      OffloadError: a result follows from something else, or by an operation without a rule.
    """
    whole = Part(0, 0, size)
    arguments = [_resized(values[0], size) for values in given]
    fn, block = mlir.new_function(module, name, arguments)
    last = mlir.terminator(block)
    captured: dict[mlir.Value, mlir.Value] = {}
    leaves = {value for values in given for value in values}
    constants = _Constants(module, leaves)

    def capture(value: mlir.Value) -> mlir.Value:
        constants.check(value)
        if value not in captured:
            copied = _copied_constant(value, last)
            captured[value] = mlir.add_argument(block, value.type) if copied is None else copied
        return captured[value]

    def leaf(value: mlir.Value, part: Part) -> mlir.Value:
        if mlir.tensor(value)[0][part.axis] != 1:
            raise OffloadError(f"{_origin(value)}, of which the other batch's part is unknown")
        return _repeated(capture(value), part, last)

    made: dict[Key, mlir.Value] = {
        (hash(value), whole): argument
        for values, argument in zip(given, block.arguments, strict=True)
        for value in values
    }
    cloner = Cloner(same_batch=False, leaf=leaf, whole=capture, anchor=lambda _: last, made=made)
    mlir.Builder(last).op("func.return", [cloner.clone(value, whole) for value in results], [])
    last.erase()
    mlir.update_function_types(module)
    return BatchFunction(fn, [value for value, now in captured.items() if mlir.is_argument(now)])


def _resized(value: mlir.Value, size: int) -> mlir.Type:
    shape, element = mlir.tensor(value)
    return mlir.tensor_type((size, *shape[1:]), element, value.type.context)


def _copied_constant(value: mlir.Value, anchor: mlir.Operation) -> mlir.Value | None:
    if mlir.is_argument(value) or mlir.maker(value).name != "stablehlo.constant":
        return None
    return mlir.rebuild(mlir.maker(value), anchor, [], [mlir.tensor(value)[0]])[0]


def _repeated(value: mlir.Value, part: Part, anchor: mlir.Operation) -> mlir.Value:
    shape, element = mlir.tensor(value)
    kind = mlir.tensor_type(part.shape(shape), element, anchor.context)
    axes = {"broadcast_dimensions": mlir.attribute(tuple(range(len(shape))), anchor.context)}
    return mlir.Builder(anchor).op("stablehlo.broadcast_in_dim", [value], [kind], axes)[0]


def _origin(value: mlir.Value) -> str:
    if mlir.is_argument(value):
        return f"an argument of {mlir.maker(value).name}"
    op = mlir.maker(value)
    return f"what {op.name} at {mlir.source_line(op)} gives"


@dataclasses.dataclass
class _Constants:
    """Tells what is the same in every call: it follows from constants and weights alone."""

    module: mlir.Module
    changing: set[mlir.Value]
    checked: set[mlir.Value] = dataclasses.field(default_factory=set)

    def check(self, value: mlir.Value) -> None:
        """Refuse a value that may be another one in the next call."""
        work = [value]
        while work:
            value = work.pop()
            if value in self.checked:
                continue
            self.checked.add(value)
            if value in self.changing:
                raise OffloadError("a value in which batch rows or tokens are mixed")
            work += self._argument(value) if mlir.is_argument(value) else self._made(value)

    def _made(self, value: mlir.Value) -> list[mlir.Value]:
        op = mlir.maker(value)
        if op.name == LOOP:
            return self._carried(value)
        if not op.name.startswith("stablehlo.") or op.name in _UNKNOWN:
            raise OffloadError(_origin(value))
        inside = set(mlir.operations(op)) if len(op.regions) else {op}
        return [v for v in mlir.used_values(op) if mlir.maker(v) not in inside]

    def _argument(self, value: mlir.Value) -> list[mlir.Value]:
        around = mlir.maker(value)
        if around.name == LOOP:
            return self._carried(value)
        shape, element = mlir.tensor(value)
        if around.name != "func.func" or (element[0] == "i" and len(shape) < 2):
            raise OffloadError(f"{_origin(value)}, {value.type}, which the next call may change")
        return []

    def _carried(self, value: mlir.Value) -> list[mlir.Value]:
        """What a loop carries, if every iteration has the same."""
        before = unchanged(value)
        if before is None:
            line = mlir.source_line(mlir.maker(value))
            raise OffloadError(f"what the loop at {line} changes")
        return [before]


_UNKNOWN = {"stablehlo.custom_call", "stablehlo.composite", *BRANCHES}
