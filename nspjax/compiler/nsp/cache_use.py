"""Whether the function that a module came from uses each version of a cache once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from nspjax.compiler import mlir
from nspjax.compiler.nsp.cache_flow import has_cache_mark
from nspjax.compiler.nsp.edges import RETURNS, Edges
from nspjax.compiler.nsp.single_use import are_alternatives, is_before, is_repeated, uses_up
from nspjax.errors import OffloadError

_ROLL_BACK = (
    "a cache in a store is linear: go on with the one that the last call returned; to undo what "
    "cached_attention appended, give that one the old lengths: new.cut(old.lengths)"
)


def check_used_once(module: mlir.Module, caches: Iterable[mlir.Value]) -> None:
    """Refuse a function that goes on with a cache from before a mark that has it; in memory that is
    another copy, in a store there is one.

    Raises:
      OffloadError: says where.
    """
    edges = Edges(module)
    for value in caches:
        uses = [(use.owner.operation, use.operand_number) for use in value.uses]
        takers = [op for op, number in uses if uses_up(op, number, edges, _takes)]
        for op in takers:
            if is_repeated(op, value):
                raise OffloadError(
                    f"{_what(op)} uses, in a loop, a KV cache that the loop does not carry: "
                    + _ROLL_BACK
                )
        for one, other in itertools.combinations(takers, 2):
            if not are_alternatives(one, other, value):
                early, late = (other, one) if is_before(other, one) else (one, other)
                raise OffloadError(
                    f"{_what(late)} uses the KV cache from before {_what(early)}, which used it "
                    "already: " + _ROLL_BACK
                )
        for op, _ in uses:
            if op.name in RETURNS:
                for taker in takers:
                    if not are_alternatives(op, taker, value):
                        raise OffloadError(
                            f"the KV cache from before {_what(taker)} is returned, or carried on "
                            "by a loop: " + _ROLL_BACK
                        )


def _takes(op: mlir.Operation, _: int) -> bool:
    return has_cache_mark(op)


def _what(op: mlir.Operation) -> str:
    name = (mlir.composite_name(op) or op.name).removeprefix("nspjax.")
    return f"{name} at {mlir.source_line(op)}"
