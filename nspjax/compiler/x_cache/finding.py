"""What x-cache looks for in a module: each attention with its append, its X, and X's sizes."""

from __future__ import annotations

from nspjax.compiler import mlir, nsp
from nspjax.errors import OffloadError
from nspjax.ops.projection import PROJECT_KV

_MOST_HEAD_DIM = 4096  # of the engine's tiles


def is_of_a_layer(op: mlir.Operation) -> bool:
    return nsp.is_of_a_layer(op) or mlir.composite_name(op) == PROJECT_KV


def layers_of(module: mlir.Module) -> list[tuple[mlir.Operation, mlir.Operation]]:
    """Each attend with the append of its tokens, in front of it in decode steps, else behind."""
    found = []
    for op in mlir.operations(module):
        kind = nsp.kind(op)
        if kind in (nsp.ATTEND_START, nsp.HAUL):
            raise OffloadError(
                f"x-cache needs nsp.attend, got {op.name}: run it before other passes"
            )
        if kind is nsp.ATTEND:
            decodes = mlir.tensor(nsp.operand(op, "q"))[0][1] == 1
            users = [use.owner.operation for use in nsp.next_handle(op)[0].uses]
            beside = [mlir.maker(nsp.handle(op)[0])] if decodes else users
            appends = [o for o in beside if nsp.kind(o) is nsp.APPEND and o.block == op.block]
            if not appends:
                raise OffloadError(f"x-cache found no nsp.append for {place(op)}")
            found.append((op, appends[0]))
    return found


def place(attend: mlir.Operation) -> str:
    return f"the attention at {mlir.source_line(attend)}"


def projection_of(append: mlir.Operation, attend: mlir.Operation) -> mlir.Operation:
    """The project_kv that an append's keys and values come from."""
    found: set[mlir.Operation] = set()
    for name in ("k", "v"):
        work, seen, of_it = [nsp.operand(append, name)], set(), set()
        while work:
            value = work.pop()
            if value in seen or mlir.is_argument(value):
                continue
            seen.add(value)
            op = mlir.maker(value)
            if mlir.composite_name(op) == PROJECT_KV:
                of_it.add(op)
            elif nsp.kind(op) is None:
                work += op.operands
        if len(of_it) != 1:
            raise OffloadError(
                f"x-cache found {len(of_it) or 'no'} nspjax.project_kv that makes the {name} of "
                f"{place(attend)}: compute k and v with one nspjax.ops.project_kv, or leave "
                "x-cache out of the pipeline"
            )
        found |= of_it
    if len(found) != 1:
        raise OffloadError(f"k and v of {place(attend)} come from two nspjax.project_kv: use one")
    return found.pop()


def is_all_rows(rows: mlir.Value, n_rows: int) -> bool:
    """Whether batch row b is known to be cache row b."""
    return mlir.maker(rows).name == "stablehlo.iota" and mlir.tensor(rows)[0] == (n_rows,)


def x_heads_of(x: mlir.Value, append: mlir.Operation, attend: mlir.Operation) -> tuple[int, int]:
    """The heads and their size of a cache with the halves of X as K and V."""
    (*_, hidden_size), element = mlir.tensor(x)
    dtype = nsp.cache_dtype(append)
    if element not in (dtype, "bf16", "f16") or (element != dtype and dtype != "f32"):
        raise OffloadError(
            f"x-cache: X of {place(attend)} is {element} and its cache {dtype}, so that X could "
            "not be kept as it is: give the cache the dtype of the model's activations"
        )
    if len(mlir.tensor(x)[0]) != 3 or hidden_size % 2:
        raise OffloadError(
            f"x-cache needs X [B, T, E] with an even E, which it keeps in two halves; of "
            f"{place(attend)} it is {x.type}: leave x-cache out of the pipeline"
        )
    half, wanted = hidden_size // 2, nsp.cache_shape(append)[3]
    sizes = [d for d in range(1, min(half, _MOST_HEAD_DIM) + 1) if half % d == 0]
    head_dim = min(sizes, key=lambda d: abs(d - wanted))
    return half // head_dim, head_dim
