"""The operations of a module in the order in which one execution meets them.

Calls are followed at every call, the body of a loop is met once, and of a branch's regions the
longest. The engine's calls are seen before and after lower-to-ffi alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from nspjax.compiler import mlir, nsp
from nspjax.compiler.nsp.edges import BARRIER, CALL, LOOP, Edges


@dataclasses.dataclass(frozen=True)
class CacheType:
    """What a handle stands for. Shape: [S, C, Hkv, D]."""

    n_rows: int
    capacity_tokens: int
    n_kv_heads: int
    head_dim: int
    element: str
    """as MLIR spells it"""
    used_rows: int | None = None
    """where X is kept for some rows: those that are in this cache, or in the one of X"""

    @property
    def used_share(self) -> float:
        """Of the rows of a call, those that have anything in this cache."""
        return 1.0 if self.used_rows is None else self.used_rows / self.n_rows


@dataclasses.dataclass(frozen=True)
class Step:
    """An operation as it is executed once. Values have numbers: those of a called function have
    others in each call."""

    op: mlir.Operation
    kind: nsp.Op | None
    """which of the dialect's operations it is, or was before it was lowered"""
    operands: tuple[int, ...]
    results: tuple[int, ...]
    loops: tuple[int, ...]
    """numbers of the `while`s around it, the outermost first"""
    cache: int | None = None
    """the number of its cache, the same for all handles that follow from one another"""
    cache_type: CacheType | None = None
    x_of: int | None = None
    """the cache whose companion of X this one is"""

    def operand(self, name: str) -> mlir.Value:
        assert self.kind is not None
        return self.op.operands[self.kind.operand_index(name)]

    def result(self, name: str) -> mlir.Value:
        assert self.kind is not None
        return self.op.results[self.kind.result_index(name)]

    def number(self, attribute: str) -> float:
        """A number that it has as an attribute, 0 where it has none of that name."""
        known = self.kind is not None and any(a.name == attribute for a in self.kind.attributes)
        return nsp.attribute(self.op, attribute) if known else 0


def execution(module: mlir.Module) -> list[Step]:
    """The steps of main; calls, loops, branches and terminators themselves are none.

    Raises:
      CompilerError: an operation with a name of ours that is none of the dialect's.
    """
    main = mlir.function(module, "main").regions[0].blocks[0]
    walk = _Walk(Edges(module))
    walk.name(main.arguments)
    walk.block(main, ())
    walk.share_rows()
    return [
        dataclasses.replace(
            step, cache_type=walk.types.get(step.cache), x_of=walk.x_of.get(step.cache)
        )
        if step.cache is not None
        else step
        for step in walk.steps
    ]


class _Walk:
    def __init__(self, edges: Edges):
        self.steps: list[Step] = []
        self.types: dict[int, CacheType] = {}
        self.x_of: dict[int, int] = {}
        """by the cache of X, the one whose companion it is"""
        self._edges = edges
        self._numbers: dict[int, int] = {}
        self._caches: dict[int, int] = {}
        """by a handle's number; a handle that is not here is the first of its cache"""
        self._n_values = 0
        self._n_loops = 0

    def name(self, values: Sequence[mlir.Value]) -> tuple[int, ...]:
        """New numbers for these values."""
        numbers = tuple(range(self._n_values, self._n_values + len(values)))
        self._n_values += len(values)
        self._bind(values, numbers)
        return numbers

    def share_rows(self) -> None:
        """Tell caches from their companions of X, by what is fetched of these."""
        for step in self.steps:
            if step.kind is nsp.FETCH and step.cache in self.x_of:
                ((fetched_rows,), _) = mlir.tensor(step.operand("rows"))
                kv, x = self.x_of[step.cache], step.cache
                for cache, is_x in ((kv, False), (x, True)):
                    if (found := self.types.get(cache)) is not None:
                        used = fetched_rows if is_x else found.n_rows - fetched_rows
                        self.types[cache] = dataclasses.replace(found, used_rows=max(used, 0))

    def block(self, block: mlir.Block, loops: tuple[int, ...]) -> None:
        for view in list(block.operations)[:-1]:
            self._operation(view.operation, loops)

    def _bind(self, values: Sequence[mlir.Value], numbers: Sequence[int]) -> None:
        self._numbers.update(zip(map(hash, values), numbers, strict=True))

    def _numbers_of(self, values: Sequence[mlir.Value]) -> tuple[int, ...]:
        return tuple(self._numbers[hash(value)] for value in values)

    def _operation(self, op: mlir.Operation, loops: tuple[int, ...]) -> None:
        operands = self._numbers_of(op.operands)
        blocks = self._edges.blocks(op)
        if op.name == LOOP:
            self._n_loops += 1
            self._enter(op, blocks[1], operands, (*loops, self._n_loops))
        elif blocks:
            longest = max(blocks, key=lambda block: len(list(block.operations)))
            self._enter(op, longest, operands if op.name == CALL else (), loops)
        elif op.name == BARRIER:
            self._bind(op.results, operands)
        else:
            step = Step(op, nsp.call_kind(op), operands, self.name(op.results), loops)
            self.steps.append(self._with_cache(step))

    def _enter(
        self,
        op: mlir.Operation,
        block: mlir.Block,
        operands: tuple[int, ...],
        loops: tuple[int, ...],
    ) -> None:
        self._bind(block.arguments, operands)
        self.block(block, loops)
        self._bind(op.results, self._numbers_of(mlir.terminator(block).operands))

    def _with_cache(self, step: Step) -> Step:
        if step.kind is None or not step.kind.has_cache:
            return step
        handle = step.operands[step.kind.operand_index("handle_k")]
        cache = self._caches.get(handle, handle)
        if step.kind.gives_handle:
            self._caches[step.results[step.kind.result_index("handle_k")]] = cache
        if nsp.has_cache_attributes(step.op):
            n_rows, capacity_tokens, n_kv_heads, head_dim = nsp.cache_shape(step.op)
            element = nsp.cache_dtype(step.op)
            found = CacheType(n_rows, capacity_tokens, n_kv_heads, head_dim, element)
            self.types.setdefault(cache, found)
        if step.kind is nsp.X_CACHE:
            self.x_of[step.results[0]] = cache
        return dataclasses.replace(step, cache=cache)
