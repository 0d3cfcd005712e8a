"""Which values of a module carry a KV cache, found from the marks by definition and use."""

from __future__ import annotations

from nspjax.compiler import mlir
from nspjax.compiler.nsp.edges import Edges
from nspjax.errors import OffloadError
from nspjax.ops.attention import CACHED_ATTENTION

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
    edges = Edges(module)
    seen: dict[mlir.Value, None] = {}
    work = list(mlir.cache_arguments(module))
    for mark in marks:
        work += [mark.operands[index] for index in _CACHE_OPERANDS]
        work += [mark.results[index] for index in _CACHE_RESULTS]
    while work:
        value = work.pop()
        if value in seen:
            continue
        seen[value] = None
        if not edges.is_carried(value) and not _is_mark(mlir.maker(value)):
            raise _made_elsewhere(mlir.maker(value))
        work += edges.into(value)
        for use in value.uses:
            user, number = use.owner.operation, use.operand_number
            if not edges.passes_on(user) and not (_is_mark(user) and number in _CACHE_OPERANDS):
                raise _read_elsewhere(user)
            work += edges.out_of(user, number)
    return list(seen)


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
