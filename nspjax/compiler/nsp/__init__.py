"""The `nsp` operations: what the passes speak of between offload-kv and lower-to-ffi.

A handle is int32 [4], of K or of V, and opaque: see `nspjax.runtime.handle`. An operation that
takes handles and gives handles is the only user of those that it takes. Every operation may have
further operands of any type behind its own, which are never read: they say what must have happened
before (`after`). A token is int32 [1], and means nothing but that.

Operations that take handles say beside their own attributes what cache is behind them, for passes
and tools: `cache_shape`, i64 [S, C, Hkv, D], and `cache_dtype`, as MLIR spells it. A pass that
makes one operation of another puts `cache_attributes(other)` on it. The engine does not get them.
"""

from __future__ import annotations

import dataclasses

from nspjax.compiler import mlir


@dataclasses.dataclass(frozen=True)
class Op:
    """One kind of operation: its name, its own operands and results, its attributes."""

    name: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    attributes: tuple[str, ...] = ()


_QUERY = ("handle_k", "handle_v", "q", "rows", "position", "length")
_ATTENDED = ("out", "lse", "handle_k", "handle_v")

APPEND = Op(
    "nsp.append",
    ("handle_k", "handle_v", "k", "v", "rows", "start", "n_new"),
    ("handle_k", "handle_v"),
    ("hold",),
)
"""k, v [B, T, Hkv, D] go behind what the rows have. hold, a bool: full tiles stay in host memory
until an nsp.writeback; otherwise they go out now."""

ATTEND = Op("nsp.attend", _QUERY, _ATTENDED, ("scale", "window", "softcap", "read_ahead"))
"""q [B, T, Hq, D] over the first `length` tokens of each row, at the device: out float32
[B, T, Hq, D], lse float32 [B, T, Hq]. read_ahead, a bool: the engine guesses what is read next; set
it to false where nsp.prefetch says it."""

ATTEND_START = Op(
    "nsp.attend_start",
    _QUERY,
    ("ticket", "handle_k", "handle_v"),
    ("scale", "window", "softcap", "read_ahead"),
)
"""The same, begun: it returns at once. ticket: int32 [2], the store and a number, for exactly one
nsp.attend_wait."""

ATTEND_WAIT = Op("nsp.attend_wait", ("ticket",), ("out", "lse"))
"""Waits for what nsp.attend_start began."""

PREFETCH = Op(
    "nsp.prefetch", ("handle_k", "handle_v", "rows", "length"), ("token",), ("most_bytes",)
)
"""The device may begin to read what an attention over these rows (length > 0) will need, in the
order of the calls, most_bytes of it (0: all that there is room for). It does not use the handles
up."""

WRITEBACK = Op(
    "nsp.writeback", ("handle_k", "handle_v"), ("token",), ("interval_tokens", "exclusive")
)
"""Rows with interval_tokens or more that were held back and not written go out. exclusive, a bool:
no scan of the store begins until they are on the medium. It does not use the handles up."""

HAUL = Op(
    "nsp.haul", _QUERY, _ATTENDED, ("scale", "window", "softcap", "read_ahead", "chunk_tokens")
)
"""nsp.attend, but K and V are brought to the compute device in chunks, and attended there."""

X_CACHE = Op("nsp.x_cache", ("handle_k", "handle_v"), ("x_k", "x_v"), ("n_heads", "head_dim"))
"""The handles of the cache that keeps X for rows of this one: the first half of each token's X is
its "K", the second its "V". It does not use the handles up."""

LOAD = Op("nsp.load", ("weight",), ("value",))
"""A weight that is on storage, as a tensor."""

LOAD_AHEAD = Op("nsp.load_ahead", ("weight",), ("token",))
"""The engine may begin to read the weight that an nsp.load will ask for."""

DOT = Op("nsp.dot", ("x", "w"), ("out",), ("transposed",))
"""x [m, k] · w [k, n], or [n, k] if transposed (a bool), both bf16, summed in float32: out [m, n].
The engine's kernel on the host, whatever the device is."""

CACHE_ATTRIBUTES = ("cache_shape", "cache_dtype")
"""Of the operations that take handles: the cache behind them."""

READS = (ATTEND, ATTEND_START, HAUL)
"""What scans a cache."""

_OURS = {op.name: op for op in globals().copy().values() if isinstance(op, Op)}


def kind(op: mlir.Operation) -> Op | None:
    """What an operation is, None if it is none of ours."""
    return _OURS.get(op.name)


def named(name: str) -> Op | None:
    """The kind of that name: "nsp.append"."""
    return _OURS.get(name)


def operand(op: mlir.Operation, name: str) -> mlir.Value:
    """The operand that its kind calls `name`."""
    return op.operands[_OURS[op.name].operands.index(name)]


def result(op: mlir.Operation, name: str) -> mlir.Value:
    """The result that its kind calls `name`."""
    return op.results[_OURS[op.name].results.index(name)]


def cache_attributes(op: mlir.Operation) -> dict[str, mlir.Attribute]:
    """What an operation says of the cache behind its handles, to be put on another."""
    return {name: op.attributes[name] for name in CACHE_ATTRIBUTES if name in op.attributes}


def cache_shape(op: mlir.Operation) -> tuple[int, ...]:
    """(S, C, Hkv, D) of the cache behind the handles."""
    return mlir.integers(op.attributes["cache_shape"])


def cache_dtype(op: mlir.Operation) -> str:
    """The element type of the cache behind the handles: "bf16"."""
    return mlir.string(op.attributes["cache_dtype"])


def after(op: mlir.Operation) -> list[mlir.Value]:
    """The operands that only say what must have happened before."""
    return list(op.operands)[len(_OURS[op.name].operands) :]
