"""What a module moves and computes, from its operations alone: traffic, without a rate.

Assumed: every row has as many tokens as one says (the caches' capacity if nothing is said), loops
run once (one that fetches a cache in chunks, as often as it has chunks), a store keeps what it is
given in the type it is given, no cache lies in host memory, what is appended is written once, and
of the computation only matrix products count, each with operands that lie in memory.
"""

from __future__ import annotations

import collections
import dataclasses
import math

from nspjax.compiler import mlir, nsp
from nspjax.compiler.nsp.execution import FETCH, Step, execution
from nspjax.errors import CompilerError
from nspjax.ops.attention import CACHED_ATTENTION


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one operation, or of several."""

    flops: int = 0
    """of the compute device"""
    link_bytes: int = 0
    """between the compute device and where the caches are: q, k, v, attention's output; K and V of
    the context where they are hauled; weights"""
    read_bytes: int = 0
    """from storage"""
    written_bytes: int = 0
    """to storage"""
    memory_bytes: int = 0
    """between the compute device and its memory: products' operands and results"""
    attended_bytes: int = 0
    """K and V that the compute device attends over itself"""

    def __add__(self, other: Cost) -> Cost:
        return Cost(*map(sum, zip(*map(dataclasses.astuple, (self, other)), strict=True)))

    def __mul__(self, times: int) -> Cost:
        return Cost(*(times * n for n in dataclasses.astuple(self)))


_NOTHING = Cost()


@dataclasses.dataclass(frozen=True)
class ModuleCosts:
    """Of one execution of a module."""

    operations: dict[str, int]
    """how many of each name: "stablehlo.add", "nsp.append"; a composite has its own name, and so
    has a custom call"""
    total: Cost


def module_costs(module: mlir.Module, context_tokens: int | None = None) -> ModuleCosts:
    """Count the operations of one execution, and what they move.

    context_tokens: how many tokens each row has; None: its cache's capacity.

    Raises:
      CompilerError: an attention whose cache is not known.
    """
    steps = execution(module)
    counts = collections.Counter(_name(step.op) for step in steps)
    total = sum(step_costs(module, steps, context_tokens), Cost())
    return ModuleCosts(dict(counts), total)


def step_costs(
    module: mlir.Module, steps: list[Step], context_tokens: int | None = None
) -> list[Cost]:
    """The cost of each step of an execution, see `module_costs`."""
    functions = mlir.functions(module)
    n_chunks = {
        step.loops[-1]: _n_chunks(step, context_tokens)
        for step in steps
        if step.kind is FETCH and step.loops
    }
    costs = []
    for step in steps:
        cost = _cost(step, context_tokens, functions)
        times = math.prod(n_chunks.get(loop, 1) for loop in step.loops)
        costs.append(cost * times if times != 1 else cost)
    return costs


def kv_bytes(step: Step, context_tokens: int | None = None) -> int:
    """K and V of all that a call on some rows of a cache attends over.

    Raises:
      CompilerError: the cache is not known.
    """
    cache = step.cache_type
    if cache is None:
        raise _unknown_cache(step)
    ((n_rows,), _) = mlir.tensor(step.operand("rows"))
    token_bytes = 2 * cache.n_kv_heads * cache.head_dim * mlir.element_bytes(cache.element)
    used_rows = n_rows * cache.used_share
    return int(used_rows * _attended_tokens(step, context_tokens) * token_bytes)


def capacity_tokens(module: mlir.Module) -> int | None:
    """The most tokens that a row of any cache can have, None where the module does not say."""
    marks = mlir.composites(module, CACHED_ATTENTION)
    found = {mlir.tensor(mark.operands[3])[0][1] for mark in marks}
    found |= {
        nsp.cache_shape(op)[1]
        for op in mlir.operations(module)
        if nsp.kind(op) is not None and "cache_shape" in op.attributes
    }
    return max(found, default=None)


def _name(op: mlir.Operation) -> str:
    return mlir.composite_name(op) or mlir.call_target(op) or op.name


def _cost(step: Step, context_tokens: int | None, functions: dict[str, mlir.Operation]) -> Cost:
    kind = step.kind
    if kind is None:
        return _products(step.op, functions)
    if kind is nsp.APPEND:
        moved = mlir.tensor_bytes(step.operand("k")) + mlir.tensor_bytes(step.operand("v"))
        moved = int(moved * step.cache_type.used_share) if step.cache_type is not None else moved
        return Cost(link_bytes=moved, written_bytes=moved)
    if kind is nsp.ATTEND_WAIT:
        return Cost(link_bytes=_output_bytes(step))
    if kind in nsp.READS:
        return _attention_cost(step, context_tokens)
    if kind is FETCH:
        moved = mlir.tensor_bytes(step.result("k")) + mlir.tensor_bytes(step.result("v"))
        return Cost(link_bytes=moved, read_bytes=moved)
    if kind is nsp.DOT:
        ((m, k), _), ((_, n), _) = map(mlir.tensor, (step.operand("x"), step.result("out")))
        return Cost(flops=2 * m * k * n, memory_bytes=_operand_bytes(step.op, 2))
    if kind is nsp.LOAD:
        moved = mlir.tensor_bytes(step.result("value"))
        return Cost(link_bytes=moved, read_bytes=moved)
    return Cost()


def _attention_cost(step: Step, context_tokens: int | None) -> Cost:
    query = step.operand("q")
    (batch, n_tokens, n_heads, head_dim), _ = mlir.tensor(query)
    read = kv_bytes(step, context_tokens)
    if step.kind is nsp.HAUL:
        attended = _attended_tokens(step, context_tokens)
        flops = 4 * batch * n_tokens * n_heads * head_dim * attended
        return Cost(flops=flops, link_bytes=read, read_bytes=read, attended_bytes=read)
    crossing = mlir.tensor_bytes(query)
    if step.kind is nsp.ATTEND:
        crossing += _output_bytes(step)
    return Cost(link_bytes=crossing, read_bytes=read)


def _output_bytes(step: Step) -> int:
    return mlir.tensor_bytes(step.result("out")) + mlir.tensor_bytes(step.result("lse"))


def _attended_tokens(step: Step, context_tokens: int | None) -> int:
    """Of each row: what it is said to have, at most the cache's capacity and the window."""
    capacity = step.cache_type.capacity_tokens if step.cache_type is not None else None
    known = [limit for limit in (context_tokens, capacity) if limit is not None]
    if not known:
        raise _unknown_cache(step)
    return min(*known, int(step.number("window")) or known[0])


def _unknown_cache(step: Step) -> CompilerError:
    return CompilerError(
        f"{step.op.name} at {mlir.source_line(step.op)} does not say what cache is behind its "
        "handles: a pass that makes it puts nsp.cache_attributes(...) of another on it"
    )


def _n_chunks(fetch: Step, context_tokens: int | None) -> int:
    chunk_tokens = mlir.tensor(fetch.result("k"))[0][1]
    return math.ceil(_attended_tokens(fetch, context_tokens) / chunk_tokens)


def _products(op: mlir.Operation, functions: dict[str, mlir.Operation]) -> Cost:
    if op.name == "stablehlo.dot_general":
        flops = 2 * math.prod(mlir.tensor(op.results[0])[0]) * mlir.contracted_size(op)
        return Cost(flops=flops, memory_bytes=_operand_bytes(op, 2))
    if op.name == "stablehlo.composite":
        body = functions[mlir.symbol(op.attributes["decomposition"])]
    elif op.name == "func.call":  # inside a decomposition; an execution has none
        body = functions[mlir.symbol(op.attributes["callee"])]
    else:
        return _NOTHING
    inner = (_products(op, functions) for op in mlir.operations(body))
    return sum((cost for cost in inner if cost is not _NOTHING), Cost())


def _operand_bytes(op: mlir.Operation, n_operands: int) -> int:
    """Of the first operands and the result."""
    return sum(map(mlir.tensor_bytes, [*list(op.operands)[:n_operands], op.results[0]]))
