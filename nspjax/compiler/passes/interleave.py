"""interleave: the batch is cut into groups whose computation and attention take turns."""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar

from nspjax.compiler import mlir, nsp
from nspjax.compiler.batch.axis import Cloner, joined, rows_of_batch
from nspjax.compiler.batch.rules import Part
from nspjax.compiler.passes.options import check_whole


@dataclasses.dataclass(frozen=True)
class InterleaveBatch:
    """While one group of the batch is at the device, another one's projections and MLP run.

    Every decode attention that split-attention has split becomes one for each of `groups` groups
    of rows, and so does, by demand, what leads from one layer's attention to the next one's. The
    order, with groups A and B: start A, start B, wait for A, A's part of the next layer, start A
    there, wait for B, and so on; XLA orders by data alone, so the waits have it as operands. What
    else needs the whole batch joins the groups' rows. Attentions that take turns already are left
    as they are.
    """

    groups: int = 2
    """how many parts the batch is cut into"""
    name: ClassVar[str] = "interleave"
    stage: ClassVar[nsp.Stage] = nsp.Stage.SCHEDULED
    after: ClassVar[tuple[str, ...]] = ("split-attention",)

    def __post_init__(self) -> None:
        check_whole(self, "groups", least=1)

    def run(self, module: mlir.Module) -> mlir.Module:
        if self.groups == 1 or not any(map(decodes_a_batch, mlir.operations(module))):
            return module
        mlir.inline_calls(module, needed=nsp.is_of_a_layer)
        # all found before any is changed: other blocks may go with what is dropped
        for block, splits in [(block, _splits(block)) for block in mlir.blocks(module)]:
            if splits:
                _Block(block, splits, self.groups).interleave()
        mlir.remove_unused_functions(module)
        return module


def decodes_a_batch(op: mlir.Operation) -> bool:
    """Whether an operation begins the attention of several rows' next tokens."""
    if nsp.kind(op) is not nsp.ATTEND_START:
        return False
    batch, n_tokens = mlir.tensor(nsp.operand(op, "q"))[0][:2]
    return n_tokens == 1 and batch > 1


@dataclasses.dataclass(frozen=True)
class _Split:
    """One decode attention: the append right in front of it, if there is one, start and wait."""

    append: mlir.Operation | None
    start: mlir.Operation
    wait: mlir.Operation

    @property
    def batch(self) -> int:
        return mlir.tensor(nsp.operand(self.start, "q"))[0][0]

    @property
    def operations(self) -> list[mlir.Operation]:
        """Those that are replaced, last first."""
        return [self.wait, self.start, *([self.append] if self.append is not None else [])]


def _splits(block: mlir.Block) -> list[_Split]:
    """The decode attentions of a block, as they follow each other, of the first one's batch."""
    found = []
    for op in (op.operation for op in block.operations):
        if decodes_a_batch(op):
            users = [use.owner.operation for use in nsp.result(op, "ticket").uses]
            if len(users) > 1:  # the block's attentions take turns already
                return []
            wait = users[0]
            maker = mlir.maker(nsp.operand(op, "handle_k"))
            of_it = nsp.kind(maker) is nsp.APPEND and maker.block == block
            split = _Split(maker if of_it else None, op, wait)
            if wait.block == block and (not found or split.batch == found[0].batch):
                found.append(split)
    return found


@dataclasses.dataclass
class _Block:
    block: mlir.Block
    splits: list[_Split]
    n_groups: int

    def __post_init__(self) -> None:
        batch = self.splits[0].batch
        n = min(self.n_groups, batch)
        bounds = [batch * i // n for i in range(n + 1)]
        self.groups = [Part(0, *bounds[i : i + 2]) for i in range(n)]
        self.cloner = rows_of_batch()
        self.starts: list[list[mlir.Operation]] = []
        self.waits: list[list[mlir.Operation]] = []

    def interleave(self) -> None:
        others = [op.operation for op in self.block.operations]
        for split in self.splits:
            self._cut(split)
        replaced = {hash(op) for split in self.splits for op in split.operations}
        self._join([op for op in others if hash(op) not in replaced])
        for split in reversed(self.splits):
            for op in split.operations:
                op.erase()
        mlir.erase_unused(self.block)
        self._take_turns()
        mlir.sort_by_use(self.block)

    def _cut(self, split: _Split) -> None:
        """One append, start and wait for each group; the handles go through the groups."""
        first = split.start if split.append is None else split.append
        handles = list(nsp.handle(first))
        starts, results, appended = [], [], []
        for group in self.groups:
            if split.append is not None:
                handles = appended = self._of_group(split.append, split.start, handles, group)
            ticket, *handles = self._of_group(split.start, split.start, handles, group)
            starts.append(mlir.maker(ticket))
            kinds = [group.shape(mlir.tensor(result)[0]) for result in split.wait.results]
            given = [ticket, *nsp.after(split.wait)]
            results.append(mlir.rebuild(split.wait, split.wait, given, kinds))
        for old, new in zip(nsp.next_handle(split.start), handles, strict=True):
            old.replace_all_uses_with(new)
        if split.append is not None:  # what reads its handles beside the start
            for old, new in zip(split.append.results, appended, strict=True):
                old.replace_all_uses_except(new, split.start)
        for old, *parts in zip(split.wait.results, *results, strict=True):
            old.replace_all_uses_with(joined(parts, 0, split.wait))
        self.starts.append(starts)
        self.waits.append([mlir.maker(out) for out, _ in results])

    def _of_group(self, op, anchor, handles, group: Part) -> list[mlir.Value]:
        own = [value for value in nsp.operands(op).values() if value not in nsp.handle(op)]
        rows = [self.cloner.clone(value, group) for value in own]
        shapes = [mlir.tensor(result)[0] for result in op.results]
        return mlir.rebuild(op, anchor, [*handles, *rows, *nsp.after(op)], shapes)

    def _join(self, others: list[mlir.Operation]) -> None:
        """Cut what follows the waits, too, as far as the rules go; join it for what is behind."""
        waits = {hash(result) for group in self.waits for op in group for result in op.results}
        axes = _Following(self.cloner, self.groups, _dependent(self.block, waits)).axes(others)
        cut = {hash(op) for op in others if any(hash(result) in axes for result in op.results)}
        for op in others:
            for result in op.results:
                if (axis := axes.get(hash(result))) is None:
                    continue
                uses = [use for use in result.uses if hash(use.owner.operation) not in cut]
                if not uses:
                    continue
                parts = [self.cloner.clone(result, group.on(axis)) for group in self.groups]
                whole = joined(parts, axis, op)
                for use in uses:
                    use.owner.operation.operands[use.operand_number] = whole

    def _take_turns(self) -> None:
        """Give each wait the start that comes before it, where that does not need the wait."""
        n = len(self.groups)
        order = {hash(op): i for i, op in enumerate(itertools.chain(*self.waits))}
        latest: dict[int, int] = {}  # the last wait, by its place in the order, that a value needs
        for op in (op.operation for op in self.block.operations):
            needs = max((latest.get(hash(value), -1) for value in mlir.used_values(op)), default=-1)
            latest.update((hash(result), order.get(hash(op), needs)) for result in op.results)
        for layer, waits in enumerate(self.waits):
            for group, wait in enumerate(waits):
                before = (layer, n - 1) if group == 0 else (layer + 1, group - 1)
                if before[0] == len(self.starts):
                    continue
                ticket = nsp.result(self.starts[before[0]][before[1]], "ticket")
                if latest[hash(ticket)] < order[hash(wait)]:
                    mlir.add_operands(wait, [ticket])


def _dependent(block: mlir.Block, roots: set[int]) -> set[int]:
    """What of a block needs one of `roots`, and these; values by their hash."""
    found = set(roots)
    for op in (op.operation for op in block.operations):
        if any(hash(value) in found for value in mlir.used_values(op)):
            found.update(map(hash, op.results))
    return found


@dataclasses.dataclass
class _Following:
    """Finds what can be had for one group without waiting for another one's attention."""

    cloner: Cloner
    groups: list[Part]
    dependent: set[int]
    """values that need a wait"""
    known: dict[tuple[int, Part], bool] = dataclasses.field(default_factory=dict)

    def axes(self, ops: list[mlir.Operation]) -> dict[int, int]:
        """The batch's axis in the results, by their hash, that follow from the waits group by
        group."""
        batch, found = self.groups[-1].end, {}
        for op in ops:
            for result in op.results:
                if hash(result) not in self.dependent:
                    continue
                for axis, extent in enumerate(mlir.tensor(result)[0]):
                    parts = [group.on(axis) for group in self.groups]
                    if extent == batch and all(self._free(result, part) for part in parts):
                        found[hash(result)] = axis
                        break
        return found

    def _free(self, value: mlir.Value, part: Part) -> bool:
        """A part can be made by rules alone from parts of what the waits gave."""
        key = (hash(value), part)
        if key not in self.known:
            self.known[key] = hash(value) not in self.dependent or self._made_free(value, part)
        return self.known[key]

    def _made_free(self, value: mlir.Value, part: Part) -> bool:
        how = self.cloner.how(value, part)
        if how is None or isinstance(how, mlir.Value):
            return how is not None
        operands = mlir.maker(value).operands
        return all(
            hash(operands[i]) not in self.dependent
            if (of_it := how.operands[i]) is None
            else self._free(operands[i], of_it)
            for i in (range(len(operands)) if how.kept is None else how.kept)
        )
