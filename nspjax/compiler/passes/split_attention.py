"""split-attention: attention at the device begins early and is waited for late."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from nspjax.compiler import mlir, nsp
from nspjax.compiler.nsp.dependence import Dependence, members
from nspjax.compiler.nsp.layer_blocks import layer_blocks, operations_of

_REARRANGES = {
    "stablehlo.broadcast_in_dim",
    "stablehlo.concatenate",
    "stablehlo.constant",
    "stablehlo.convert",
    "stablehlo.iota",
    "stablehlo.reshape",
    "stablehlo.slice",
    "stablehlo.transpose",
}
_FLOATS = ("f32", "bf16", "f16", "f64")


@dataclasses.dataclass(frozen=True)
class SplitAttention:
    """Cut every nsp.attend into nsp.attend_start and nsp.attend_wait.

    The start comes right after the last of its operands, the wait right before the first use of
    what it gives, and everything independent runs between. An operation is independent of an
    attention if it is in the same block, before the next one that needs this one's result, and

    - the start does not need it, and it does not need the result, nor that of a later attention;
    - it computes with something that the start was computed with, or comes from: preparing a weight
      is no work of this step, and would only be done twice or kept for long;
    - it is work: an `nsp` operation, or one that gives floats and does more than rearrange them.

    XLA orders by data alone, so the wait takes the last operation of each independent chain as an
    operand, which makes it run before the wait blocks a thread. With one stream of decoding rows
    nothing is independent. In prefill it is the attention over the new tokens, and their append; in
    a block with parallel attention and MLP, the MLP; for rows in two halves, the other half.
    """

    name: ClassVar[str] = "split-attention"
    stage: ClassVar[nsp.Stage] = nsp.Stage.SCHEDULED
    after: ClassVar[tuple[str, ...]] = ("sparsify",)

    def run(self, module: mlir.Module) -> mlir.Module:
        for block in layer_blocks(module):
            attends = [op for op in operations_of(block) if nsp.kind(op) is nsp.ATTEND]
            for attend in attends:
                _split(attend)
            if attends:
                _schedule(block)
        return module


def _split(attend: mlir.Operation) -> None:
    build = mlir.Builder(attend)
    start = nsp.ATTEND_START.build(
        build, **nsp.operands(attend), **nsp.attributes(attend), after=nsp.after(attend)
    )
    types = {name: nsp.result(attend, name).type for name in ("out", "lse")}
    wait = nsp.ATTEND_WAIT.build(build, ticket=nsp.result(start, "ticket"), types=types)
    mlir.replace(attend, [*wait.results, *nsp.next_handle(start)])


def _schedule(block: mlir.Block) -> None:
    """Hold what is independent before each wait, and put the operations in an order to match."""
    found = Dependence.of(block)
    waits = _waits(found)
    held = {start: _last_independent(found, start, waits) for start in waits}
    needs = [set(members(bits & ((1 << len(found.ops)) - 1))) for bits in found.needs]
    ops = list(found.ops)
    for start, wait in waits.items():
        values = [ops[at].results[0] for at in held[start]]
        if values:
            ops[wait] = mlir.add_operands(ops[wait], values)
            needs[wait].update(held[start])
    order = _order(needs, set(waits), set(waits.values()))
    if order != list(range(len(ops))):
        for at in order[:-1]:
            ops[at].move_before(ops[order[-1]])  # the terminator


def _waits(found: Dependence) -> dict[int, int]:
    """The wait of each start, by position, the starts in textual order."""
    waits = {}
    for i, op in enumerate(found.ops):
        if nsp.kind(op) is nsp.ATTEND_WAIT:
            start = found.maker(nsp.operand(op, "ticket"))
            if start is not None:  # not one that was carried in
                waits[start] = i
    return dict(sorted(waits.items()))


def _last_independent(found: Dependence, start: int, waits: dict[int, int]) -> list[int]:
    """The last operations of the chains that may run between a start and its wait."""
    end = next(
        (other for other in waits if found.ancestors[other] & 1 << waits[start]),
        len(found.ops) - 1,
    )
    # what depends on a later result may not be waited for here: that would go round in a circle
    results = sum(1 << wait for begun, wait in waits.items() if begun >= start)
    shared = found.ancestors[start] & ~(1 << start)
    begin = max(members(found.needs[start] & ((1 << start) - 1)), default=-1)
    independent = [
        i
        for i in range(begin + 1, end)
        if not found.ancestors[start] & 1 << i
        and not found.needs_any(i, results)
        and found.needs_any(i, shared)
        and _is_work(found.ops[i])
    ]
    chains = 0
    for i in independent:
        chains |= found.ancestors[i] & ~(1 << i)
    return [i for i in independent if not chains & 1 << i]


def _is_work(op: mlir.Operation) -> bool:
    if nsp.is_of_a_layer(op):
        return nsp.kind(op) is not nsp.ATTEND_WAIT
    if op.name in _REARRANGES:
        return False
    return any(mlir.element_type(result) in _FLOATS for result in op.results)


def _order(needs: Sequence[set[int]], starts: set[int], waits: set[int]) -> list[int]:
    """The order as it was, but starts as soon as they can be, and waits only when asked for."""
    order: list[int] = []
    done = [False] * len(needs)
    missing = {start: len(needs[start]) for start in starts}
    users: dict[int, list[int]] = {}
    for start in sorted(starts):
        for at in needs[start]:
            users.setdefault(at, []).append(start)

    def emit(i: int) -> None:
        stack = [i]
        while stack:
            at = stack[-1]
            first = [] if done[at] else [need for need in sorted(needs[at]) if not done[need]]
            if first:
                stack += reversed(first)
                continue
            stack.pop()
            if not done[at]:
                done[at] = True
                order.append(at)
                for start in users.get(at, ()):
                    missing[start] -= 1
                    if not missing[start]:
                        stack.append(start)

    last = len(needs) - 1
    for i in range(last):
        if i not in waits:
            emit(i)
    for i in range(len(needs)):
        emit(i)
    return order
