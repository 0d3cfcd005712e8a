"""What a module moves and computes, from its operations alone, lowered or not: traffic, without a
rate.

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
from nspjax.compiler.nsp.execution import Step, execution
from nspjax.compiler.nsp.traffic import Cost as Cost
from nspjax.compiler.nsp.traffic import attended_tokens, product_bytes
from nspjax.compiler.nsp.traffic import kv_bytes as kv_bytes
from nspjax.ops.attention import CACHED_ATTENTION


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
      CompilerError: an attention whose cache is not known, or an operation that is not.
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
        if step.kind is nsp.FETCH and step.loops
    }
    costs = []
    for step in steps:
        cost = _cost(step, context_tokens, functions)
        times = math.prod(n_chunks.get(loop, 1) for loop in step.loops)
        costs.append(cost * times if times != 1 else cost)
    return costs


def capacity_tokens(module: mlir.Module) -> int | None:
    """The most tokens that a row of any cache can have, None where the module does not say."""
    marks = mlir.composites(module, CACHED_ATTENTION)
    found = {mlir.tensor(mark.operands[3])[0][1] for mark in marks}
    found |= {
        nsp.cache_shape(op)[1]
        for op in mlir.operations(module)
        if nsp.call_kind(op) is not None and nsp.has_cache_attributes(op)
    }
    return max(found, default=None)


def _name(op: mlir.Operation) -> str:
    return mlir.composite_name(op) or mlir.call_target(op) or op.name


def _cost(step: Step, context_tokens: int | None, functions: dict[str, mlir.Operation]) -> Cost:
    if step.kind is None:
        return _products(step.op, functions)
    return step.kind.costs(step, context_tokens)


def _n_chunks(fetch: Step, context_tokens: int | None) -> int:
    chunk_tokens = mlir.tensor(fetch.result("k"))[0][1]
    return math.ceil(attended_tokens(fetch, context_tokens) / chunk_tokens)


def _products(op: mlir.Operation, functions: dict[str, mlir.Operation]) -> Cost:
    if op.name == "stablehlo.dot_general":
        flops = 2 * math.prod(mlir.tensor(op.results[0])[0]) * mlir.contracted_size(op)
        return Cost(flops=flops, memory_bytes=product_bytes(op))
    if op.name == "stablehlo.composite":
        body = functions[mlir.symbol(op.attributes["decomposition"])]
    elif op.name == "func.call":  # inside a decomposition; an execution has none
        body = functions[mlir.symbol(op.attributes["callee"])]
    else:
        return Cost()
    inner = (_products(op, functions) for op in mlir.operations(body))
    return sum((cost for cost in inner if cost != Cost()), Cost())
