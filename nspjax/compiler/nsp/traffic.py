"""What operations move and compute: the rules that `nsp/ops.py` names.

A rule is of one execution of one operation, as `nsp/execution.py` meets it. context_tokens: what
each row has; None: its cache's capacity.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from nspjax.compiler import mlir
from nspjax.errors import CompilerError

if TYPE_CHECKING:
    from nspjax.compiler.nsp.execution import Step


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
        return Cost(*(each * times for each in dataclasses.astuple(self)))


def appended(step: Step, _: int | None) -> Cost:
    moved = mlir.tensor_bytes(step.operand("k")) + mlir.tensor_bytes(step.operand("v"))
    if step.cache_type is not None:
        moved = int(moved * step.cache_type.used_share)
    return Cost(link_bytes=moved, written_bytes=moved)


def attended(step: Step, context_tokens: int | None) -> Cost:
    return begun(step, context_tokens) + waited(step, context_tokens)


def begun(step: Step, context_tokens: int | None) -> Cost:
    """Of an attention whose result is waited for by another operation."""
    read = kv_bytes(step, context_tokens)
    if min(step.number("mass"), step.number("budget")) < 1:
        read = int(read / 2 * step.number("budget"))  # of V; what its tokens decide is not known
    return Cost(link_bytes=mlir.tensor_bytes(step.operand("q")), read_bytes=read)


def waited(step: Step, _: int | None) -> Cost:
    crossing = mlir.tensor_bytes(step.result("out")) + mlir.tensor_bytes(step.result("lse"))
    return Cost(link_bytes=crossing)


def hauled(step: Step, context_tokens: int | None) -> Cost:
    (batch, n_tokens, n_heads, head_dim), _ = mlir.tensor(step.operand("q"))
    flops = 4 * batch * n_tokens * n_heads * head_dim * attended_tokens(step, context_tokens)
    read = kv_bytes(step, context_tokens)
    return Cost(flops=flops, link_bytes=read, read_bytes=read, attended_bytes=read)


def fetched(step: Step, _: int | None) -> Cost:
    moved = mlir.tensor_bytes(step.result("k")) + mlir.tensor_bytes(step.result("v"))
    return Cost(link_bytes=moved, read_bytes=moved)


def loaded(step: Step, _: int | None) -> Cost:
    moved = mlir.tensor_bytes(step.result("value"))
    return Cost(link_bytes=moved, read_bytes=moved)


def multiplied(step: Step, _: int | None) -> Cost:
    (m, k), (_m, n) = (mlir.tensor(v)[0] for v in (step.operand("x"), step.result("out")))
    return Cost(flops=2 * m * k * n, memory_bytes=product_bytes(step.op))


def product_bytes(op: mlir.Operation) -> int:
    """Of what a product reads and writes: its two operands, its result."""
    return sum(map(mlir.tensor_bytes, [*list(op.operands)[:2], op.results[0]]))


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
    return int(n_rows * cache.used_share * attended_tokens(step, context_tokens) * token_bytes)


def attended_tokens(step: Step, context_tokens: int | None) -> int:
    """Of each row: what it is said to have, at most the cache's capacity and the window.

    Raises:
      CompilerError: the cache is not known.
    """
    if step.cache_type is None:
        raise _unknown_cache(step)
    capacity_tokens = step.cache_type.capacity_tokens
    held = capacity_tokens if context_tokens is None else min(context_tokens, capacity_tokens)
    return min(held, int(step.number("window")) or held)


def _unknown_cache(step: Step) -> CompilerError:
    return CompilerError(
        f"{step.op.name} at {mlir.source_line(step.op)} does not say which cache its "
        "handles stand for: a pass that makes it gives it nsp.cache_attributes(...) of another"
    )
