"""Operations copied, inlined, put in order, and dropped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from jax.extend.mlir import ir, passmanager

from nspjax.compiler.mlir.reading import (
    Attribute,
    Block,
    Module,
    Operation,
    Type,
    Value,
    composite_name,
    functions,
    operations,
    symbol,
    tensor,
    terminator,
)
from nspjax.compiler.mlir.writing import inline_call, tensor_type
from nspjax.errors import CompilerError


def used_values(op: Operation) -> Iterator[Value]:
    """What an operation and those inside its regions read."""
    for inner in operations(op) if len(op.regions) else (op,):
        yield from inner.operands


def unused(op: Operation) -> bool:
    """Nothing reads any result."""
    return all(next(iter(result.uses), None) is None for result in op.results)


def rebuild(
    op: Operation,
    anchor: Operation,
    operands: Sequence[Value],
    shapes: Sequence[Sequence[int]],
    attributes: Mapping[str, Attribute] | None = None,
) -> list[Value]:
    """A copy of `op` before `anchor`: other operands, results of other shapes, some other
    attributes."""
    with op.location:
        made = op.clone(ir.InsertionPoint(anchor))
    for index, operand in enumerate(operands):
        made.operands[index] = operand
    for result, shape in zip(made.results, shapes, strict=True):
        result.set_type(tensor_type(shape, tensor(result)[1], op.context))
    for name, value in (attributes or {}).items():
        made.attributes[name] = value
    return list(made.results)


def new_function(module: Module, name: str, arguments: Sequence[Type]) -> tuple[Operation, Block]:
    """A private function without operations but a return of nothing, and its block."""
    with ir.Location.unknown(module.context):
        kind = ir.FunctionType.get(list(arguments), [])
        attributes = {
            "sym_name": ir.StringAttr.get(name),
            "sym_visibility": ir.StringAttr.get("private"),
            "function_type": ir.TypeAttr.get(kind),
        }
        with ir.InsertionPoint(module.body):
            fn = Operation.create("func.func", regions=1, attributes=attributes)
        locations = [ir.Location.unknown()] * len(arguments)
        block = Block.create_at_start(fn.regions[0], list(arguments), locations)
        with ir.InsertionPoint(block):
            Operation.create("func.return")
    return fn, block


def add_argument(block: Block, kind: Type) -> Value:
    """A further argument of a block."""
    return block.add_argument(kind, ir.Location.unknown(kind.context))


def merge_equal(module: Module) -> None:
    """Compute once what is computed twice in the same place."""
    with module.context:
        passmanager.PassManager.parse("builtin.module(cse)").run(module.operation)


def inline_calls(
    module: Module, *, needed: Callable[[Operation], bool], keep: Collection[str] = ()
) -> None:
    """Put the bodies of functions where they are called, as XLA will do.

    Composites, too, but for those named in `keep`. A function with a loop stays one, as nothing
    looks into loops, unless it has an operation that is `needed` in sight of the others.
    """
    named, inline = functions(module), {}

    def flatten(name: str) -> bool:
        """Make a function flat; whether it is to be inlined itself."""
        if name not in inline:
            for op in operations(named[name]):
                callee = _callee(op, keep)
                if callee is not None and flatten(callee):
                    inline_call(op, named[callee])
            ops = list(operations(named[name]))
            loops = any(op.name in ("stablehlo.while", "func.call") for op in ops)
            inline[name] = not loops or any(map(needed, ops))
        return inline[name]

    for name in named:
        flatten(name)


def _callee(op: Operation, keep: Collection[str]) -> str | None:
    if op.name == "func.call":
        return symbol(op.attributes["callee"])
    if op.name == "stablehlo.composite" and composite_name(op) not in keep:
        return symbol(op.attributes["decomposition"])
    return None


def sort_by_use(block: Block) -> None:
    """Put the operations of a block in an order in which every value is made before it is used;
    what may stay where it is, stays.

    Raises:
      CompilerError: two operations need each other.
    """
    ops = [op.operation for op in block.operations]
    maker = {hash(result): index for index, op in enumerate(ops) for result in op.results}
    needs = [[maker[hash(v)] for v in used_values(op) if hash(v) in maker] for op in ops]
    order: list[int] = []
    state = [0] * len(ops)  # 1: what it needs is being placed; 2: placed
    for index in range(len(ops)):
        stack = [index]
        while stack:
            top = stack[-1]
            if state[top] == 2:
                stack.pop()
                continue
            first_time, state[top] = state[top] == 0, 1
            left = [i for i in needs[top] if state[i] != 2 and i != top]
            if left and not first_time:
                raise CompilerError(f"operations that need each other: {ops[top].name}")
            if not left:
                state[top] = 2
                order.append(top)
                stack.pop()
            stack += reversed(left)
    last = terminator(block)
    for index in order:
        if hash(ops[index]) != hash(last):
            ops[index].move_before(last)


def erase_unused(block: Block) -> None:
    """Drop the StableHLO operations that nothing reads, and what only they read."""
    for op in reversed([op.operation for op in block.operations]):
        if op.name != "stablehlo.return" and unused(op) and _only_computes(op):
            op.erase()


def _only_computes(op: Operation) -> bool:
    inside = operations(op) if len(op.regions) else (op,)
    return all(o.name.startswith("stablehlo.") and o.name not in _MAY_ACT for o in inside)


_MAY_ACT = {"stablehlo.custom_call", "stablehlo.composite"}
