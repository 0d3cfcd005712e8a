"""What a schedule must not do: use a handle twice, read too early, wait for ever.

Each hazard is refused with the operation and its source line.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from nspjax.compiler import mlir, nsp
from nspjax.compiler.nsp import handles
from nspjax.compiler.nsp.dependence import Dependence
from nspjax.compiler.nsp.edges import RETURNS, Edges
from nspjax.compiler.nsp.single_use import are_alternatives, is_before, is_repeated, uses_up
from nspjax.errors import ScheduleError


def check_schedule(module: mlir.Module) -> None:
    """Refuse a module that could give wrong results; `passes/verify_schedule.py` lists how.

    Raises:
      ScheduleError: says where.
    """
    edges = Edges(module)
    blocks: dict[mlir.Block, list[mlir.Operation]] = {}
    for op in mlir.operations(module):
        kind = nsp.kind(op)
        if kind is None:
            continue
        blocks.setdefault(op.block, []).append(op)
        for handle in nsp.handle(op) if kind.has_cache else ():
            _check_taken_once(handle, edges)
        if kind is nsp.ATTEND_START:
            _check_waited_once(op)
    for block, ops in blocks.items():
        _check_reads(ops)
        _check_held(ops)
        _check_looks(block, ops)


# ---- handles ------------------------------------------------------------------------------------


def _check_taken_once(handle: mlir.Value, edges: Edges) -> None:
    takers = [user for user, n in _uses(handle) if uses_up(user, n, edges, _takes)]
    for op in takers:
        if is_repeated(op, handle):
            raise _refused(op, "uses up, in a loop, a handle that the loop does not carry")
    for one, other in itertools.combinations(takers, 2):
        if are_alternatives(one, other, handle):
            continue
        early, late = (one, other) if is_before(one, other) else (other, one)
        if nsp.kind(early) is nsp.APPEND and nsp.kind(late) in nsp.READS:
            raise _refused(
                late,
                f"reads the handle from before {_named(early)}: it would not see what that appends",
            )
        raise _refused(late, f"uses up a handle that {_named(early)} uses up too")


def _uses(value: mlir.Value) -> Iterator[tuple[mlir.Operation, int]]:
    """Who reads a value, and as which operand."""
    for use in value.uses:
        user = use.owner.operation
        kind = nsp.kind(user)
        if kind is None or use.operand_number < len(kind.operands):
            yield user, use.operand_number


def _takes(user: mlir.Operation, number: int) -> bool:
    if nsp.kind(user) is None:
        return user.name not in RETURNS
    return handles.takes(user)


# ---- tickets ------------------------------------------------------------------------------------


def _check_waited_once(start: mlir.Operation) -> None:
    users = [user for user, _ in _uses(nsp.result(start, "ticket"))]
    if not users:
        raise _refused(start, "gives a ticket that nothing waits for")
    if len(users) > 1:
        raise _refused(users[1], f"waits for {_named(start)}, and so does {_named(users[0])}")
    if users[0].block != start.block:
        raise _refused(
            users[0], f"waits in another block than {_named(start)} for a ticket not carried there"
        )


# ---- what is in one block -----------------------------------------------------------------------


def _check_reads(ops: list[mlir.Operation]) -> None:
    """A decode step's attention counts the token of its own append: it must come after it."""
    appends: dict[tuple[mlir.Value, mlir.Value], list[mlir.Operation]] = {}
    for op in ops:
        if nsp.kind(op) is nsp.APPEND and mlir.tensor(nsp.operand(op, "k"))[0][1] == 1:
            key = handles.root(op), nsp.operand(op, "start")
            appends.setdefault(key, []).append(op)
    for read in ops:
        if nsp.kind(read) in nsp.READS and mlir.tensor(nsp.operand(read, "q"))[0][1] == 1:
            key = handles.root(read), nsp.operand(read, "position")
            same = appends.get(key, ())
            for append in same:
                # after a rollback another append has the same start
                if is_before(read, append) and not any(is_before(a, read) for a in same):
                    raise _refused(read, f"reads the token that {_named(append)} adds later")


def _check_held(ops: list[mlir.Operation]) -> None:
    written = {handles.root(op) for op in ops if nsp.kind(op) is nsp.WRITEBACK}
    for op in ops:
        held = nsp.kind(op) is nsp.APPEND and nsp.attribute(op, "hold")
        if held and handles.root(op) not in written:
            raise _refused(op, "holds tokens back, and nothing in its block writes them")


def _check_looks(block: mlir.Block, ops: list[mlir.Operation]) -> None:
    looks = [op for op in ops if _must_come_before_changes(op)]
    if not looks:
        return
    found = Dependence.of(block)
    for op in looks:
        change = handles.next_change(nsp.handle(op), block)
        if change is not None and not found.needs_any(found.index[change], 1 << found.index[op]):
            raise _refused(op, f"has a handle that {_named(change)} may have made stale by then")


def _must_come_before_changes(op: mlir.Operation) -> bool:
    kind = nsp.kind(op)
    return kind is not None and kind.effect is nsp.Effect.LOOKS and kind.is_ordered


def _named(op: mlir.Operation) -> str:
    return f"{op.name} at {mlir.source_line(op)}"


def _refused(op: mlir.Operation, hazard: str) -> ScheduleError:
    return ScheduleError(
        f"{_named(op)} {hazard}; a pass left the schedule so: see which with --print-ir-after=all"
    )
