"""Which values of a module carry a KV cache, found from the marks by definition and use."""

from __future__ import annotations

from nspjax.compiler import mlir
from nspjax.compiler.nsp.edges import Edges
from nspjax.errors import OffloadError
from nspjax.ops.attention import CACHED_ATTENTION
from nspjax.ops.rows import TAKE_ROWS

CACHE_MARKS = {CACHED_ATTENTION: ((3, 4), (1, 2)), TAKE_ROWS: ((0, 1), (0, 1))}
"""Of each mark that has a cache: which operands and which results are cache.k and cache.v."""

_WITH_ROWS = (
    "reorder rows (beams) with KVCache.take_rows, roll them back with cut; between calls, read a "
    "stored cache with Store.fetch"
)
_UNMARKED = "a model that does not call it needs raise-attention as the first pass of its pipeline"


def cache_marks(module: mlir.Module) -> list[mlir.Operation]:
    """The marks that have a cache."""
    return [mark for name in CACHE_MARKS for mark in mlir.composites(module, name)]


def cache_values(module: mlir.Module) -> list[mlir.Value]:
    """Every value that carries a cache: arguments, results, loop carries, branch results.

    They are followed from the marks, and from the arguments that the caller says are caches.

    Raises:
      OffloadError: a cache is made or read by an operation that is not ours.
    """
    edges = Edges(module)
    seen: dict[mlir.Value, None] = {}
    work = list(mlir.cache_arguments(module))
    for mark in cache_marks(module):
        operands, results = _caches(mark)
        work += [mark.operands[index] for index in operands]
        work += [mark.results[index] for index in results]
    while work:
        value = work.pop()
        if value in seen:
            continue
        seen[value] = None
        if not edges.is_carried(value) and not has_cache_mark(mlir.maker(value)):
            raise _made_elsewhere(mlir.maker(value))
        work += edges.into(value)
        for use in value.uses:
            user, number = use.owner.operation, use.operand_number
            if not edges.passes_on(user) and not _is_cache_of_mark(user, number):
                raise _read_elsewhere(user)
            work += edges.out_of(user, number)
    return list(seen)


def has_cache_mark(op: mlir.Operation) -> bool:
    """Whether an operation is one of the marks that have a cache."""
    return mlir.composite_name(op) in CACHE_MARKS


def cache_of(mark: mlir.Operation) -> mlir.Value:
    """The keys of its cache."""
    return mark.operands[_caches(mark)[0][0]]


def _caches(op: mlir.Operation) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return CACHE_MARKS.get(mlir.composite_name(op) or "", ((), ()))


def _is_cache_of_mark(op: mlir.Operation, number: int) -> bool:
    return number in _caches(op)[0]


def _made_elsewhere(op: mlir.Operation) -> OffloadError:
    how = f"a KV cache is made by {op.name} at {mlir.source_line(op)}"
    if op.name == "stablehlo.constant":
        how = "a KV cache is a constant of the function, closed over or made of NumPy's zeros"
    return OffloadError(
        f"{how}; inside near_storage a cache must come in as an argument: make it with "
        f"Store.kv_cache; {_WITH_ROWS}; {_UNMARKED}"
    )


def _read_elsewhere(op: mlir.Operation) -> OffloadError:
    return OffloadError(
        f"a KV cache is read by {op.name} at {mlir.source_line(op)}; inside near_storage only "
        "nspjax.ops.cached_attention and KVCache.take_rows may use cache.k and cache.v: keep other "
        "arrays beside the cache, and caches in a list, one a layer (not stacked for lax.scan over "
        "layers); "
        f"{_WITH_ROWS}; {_UNMARKED}"
    )
