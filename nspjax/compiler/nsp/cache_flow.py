"""Which values of a module carry a KV cache, found from the marks by definition and use."""

from __future__ import annotations

import dataclasses

from nspjax.compiler import mlir
from nspjax.errors import OffloadError
from nspjax.ops.attention import CACHED_ATTENTION

_CARRIES = ("stablehlo.while", "stablehlo.optimization_barrier")
_BRANCHES = ("stablehlo.if", "stablehlo.case")
_CACHE_OPERANDS = (3, 4)  # of a cached_attention mark: cache.k, cache.v
_CACHE_RESULTS = (1, 2)
_BETWEEN_CALLS = (
    "between calls, reorder rows (beams) with Store.share_prefix, roll them back with "
    "with_lengths, read a stored cache with Store.fetch"
)
_UNMARKED = "a model that does not call it needs raise-attention as the first pass of its pipeline"


def cache_values(module: mlir.Module, marks: list[mlir.Operation]) -> list[mlir.Value]:
    """Every value that carries a cache: arguments, results, loop carries, branch results.

    They are followed from the marks, and from the arguments that the caller says are caches.

    Raises:
      OffloadError: a cache is made or read by an operation that is not ours.
    """
    flow = _Flow(module)
    for argument in mlir.cache_arguments(module):
        flow.add(argument)
    for mark in marks:
        for index in _CACHE_OPERANDS:
            flow.add(mark.operands[index])
        for index in _CACHE_RESULTS:
            flow.add(mark.results[index])
    while flow.work:
        value = flow.work.pop()
        flow.follow_definition(value)
        for use in value.uses:
            flow.follow_use(use.owner.operation, use.operand_number)
    return list(flow.seen.values())


@dataclasses.dataclass
class _Flow:
    module: mlir.Module
    seen: dict[int, mlir.Value] = dataclasses.field(default_factory=dict)
    work: list[mlir.Value] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.functions = mlir.functions(self.module)
        self.calls: dict[str, list[mlir.Operation]] = {name: [] for name in self.functions}
        for op in mlir.operations(self.module):
            if op.name == "func.call":
                self.calls[mlir.symbol(op.attributes["callee"])].append(op)

    def add(self, value: mlir.Value) -> None:
        if hash(value) not in self.seen:
            self.seen[hash(value)] = value
            self.work.append(value)

    def follow_definition(self, value: mlir.Value) -> None:
        if isinstance(value.owner, mlir.Block):
            owner, index = value.owner.owner.operation, mlir.BlockArgument(value).arg_number
            if owner.name == "func.func":
                for call in self.calls[mlir.string(owner.attributes["sym_name"])]:
                    self.add(call.operands[index])
                return
        else:
            owner = value.owner.operation
            index = list(map(hash, owner.results)).index(hash(value))
        if owner.name in _CARRIES:
            self._carry(owner, index)
        elif owner.name in _BRANCHES:
            self._branch_result(owner, index)
        elif owner.name == "func.call":
            body = self.functions[mlir.symbol(owner.attributes["callee"])].regions[0].blocks[0]
            self.add(mlir.terminator(body).operands[index])
        elif not _is_mark(owner):
            raise _made_elsewhere(owner)

    def follow_use(self, user: mlir.Operation, index: int) -> None:
        if user.name in _CARRIES:
            self._carry(user, index)
        elif user.name == "stablehlo.return":
            parent = mlir.parent(user)
            if parent.name in _BRANCHES:
                self._branch_result(parent, index)
            elif parent.name in _CARRIES:
                self._carry(parent, index)
            else:
                raise _read_elsewhere(parent)
        elif user.name == "func.return":
            name = mlir.string(mlir.parent(user).attributes["sym_name"])
            for call in self.calls[name]:
                self.add(call.results[index])
        elif user.name == "func.call":
            body = self.functions[mlir.symbol(user.attributes["callee"])].regions[0].blocks[0]
            self.add(body.arguments[index])
        elif not (_is_mark(user) and index in _CACHE_OPERANDS):
            raise _read_elsewhere(user)

    def _carry(self, loop: mlir.Operation, index: int) -> None:
        self.add(loop.operands[index])
        self.add(loop.results[index])
        for region in loop.regions:
            self.add(region.blocks[0].arguments[index])
        if len(loop.regions) == 2:  # a while: condition, body
            self.add(mlir.terminator(loop.regions[1].blocks[0]).operands[index])

    def _branch_result(self, branch: mlir.Operation, index: int) -> None:
        self.add(branch.results[index])
        for region in branch.regions:
            self.add(mlir.terminator(region.blocks[0]).operands[index])


def _is_mark(op: mlir.Operation) -> bool:
    return mlir.composite_name(op) == CACHED_ATTENTION


def _made_elsewhere(op: mlir.Operation) -> OffloadError:
    how = f"a KV cache is made by {op.name} at {mlir.source_line(op)}"
    if op.name == "stablehlo.constant":
        how = "a KV cache is a constant of the function, closed over or made of NumPy's zeros"
    return OffloadError(
        f"{how}; inside near_storage a cache must come in as an argument: make it with "
        f"Store.kv_cache; {_BETWEEN_CALLS}; {_UNMARKED}"
    )


def _read_elsewhere(op: mlir.Operation) -> OffloadError:
    return OffloadError(
        f"a KV cache is read by {op.name} at {mlir.source_line(op)}; inside near_storage only "
        "nspjax.ops.cached_attention may use cache.k and cache.v: keep other arrays beside the "
        "cache, and caches in a list, one a layer (not stacked for lax.scan over layers); "
        f"{_BETWEEN_CALLS}; {_UNMARKED}"
    )
