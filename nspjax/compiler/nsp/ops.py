"""The operations of the dialect, each once: what the passes speak of after offload-kv.

A handle is int32 [4], of K or of V, and opaque: see `nspjax.runtime.handle`. An operation has both,
since a model has K and V apart, and the engine checks that they are of one cache and version;
`nsp.handle` and `nsp.next_handle` are the pair. What uses a handle up is its only user. A result
`done` is int32 [1] and means nothing but that the operation was: others take it after their own
operands to come after it.

To add an operation: its entry here, a pass that makes it, a handler of the engine of the same name
(or an expansion in `lowering/`), and what it occupies in `machine/timeline.py`.
"""

from __future__ import annotations

from nspjax.compiler.nsp import traffic
from nspjax.compiler.nsp.definition import (
    ANY,
    CACHE_DTYPE,
    CACHE_SHAPE,
    HANDLE_K,
    HANDLE_V,
    OF_CACHE,
    Attribute,
    Effect,
    Op,
    Stage,
    Tensor,
)

_FLOATS = ("f32", "bf16", "f16")
_HANDLES = (Tensor(HANDLE_K, "4"), Tensor(HANDLE_V, "4"))
_CACHE = (
    Attribute(CACHE_SHAPE, tuple, for_engine=False),  # [S, C, Hkv, D]
    Attribute(CACHE_DTYPE, str, for_engine=False),  # as MLIR spells it
)
_ROWS, _LENGTH, _DONE = Tensor("rows", "B"), Tensor("length", "B"), Tensor("done", "1")
_WEIGHT = Tensor("weight", "4")

_QUERY = (*_HANDLES, Tensor("q", "BTQD", _FLOATS), _ROWS, Tensor("position", "B"), _LENGTH)
_PARTIAL = (Tensor("out", "BTQD", ("f32",)), Tensor("lse", "BTQ", ("f32",)))
_READ_AHEAD = Attribute("read_ahead", bool, True)
_WINDOW = Attribute("window", int, 0)  # 0: none
_ATTENTION = (
    Attribute("scale", float),
    _WINDOW,
    Attribute("softcap", float, 0.0),  # 0: none
    _READ_AHEAD,
)
_SPARSITY = (
    Attribute("mass", float, 1.0),
    Attribute("budget", float, 1.0),
    Attribute("block_tokens", int, 0),  # 0: as many as a page has
)

APPEND = Op(
    "nsp.append",
    (
        *_HANDLES,
        Tensor("k", "BTHD", OF_CACHE),
        Tensor("v", "BTHD", OF_CACHE),
        _ROWS,
        Tensor("start", "B"),
        Tensor("n_new", "B"),
    ),
    _HANDLES,
    (Attribute("hold", bool, False), *_CACHE),
    effect=Effect.CHANGES,
    since=Stage.OFFLOADED,
    costs=traffic.appended,
)
"""k, v [B, T, Hkv, D] go after what the rows have. hold: full tiles stay in host memory until an
nsp.writeback; otherwise they go out now."""

ATTEND = Op(
    "nsp.attend",
    _QUERY,
    (*_PARTIAL, *_HANDLES),
    (*_ATTENTION, *_SPARSITY, *_CACHE),
    effect=Effect.READS,
    since=Stage.OFFLOADED,
    costs=traffic.attended,
)
"""q [B, T, Hq, D] over the first `length` tokens of each row, at the device: out float32
[B, T, Hq, D], lse float32 [B, T, Hq]. read_ahead: the engine guesses what is read next; set it to
false where nsp.prefetch says it. mass, budget: below 1, T is 1 and V is read in blocks of
block_tokens, those with most of the softmax first, until they have so much of it, or are so much of
the tokens."""

ATTEND_START = Op(
    "nsp.attend_start",
    _QUERY,
    (Tensor("ticket", "2"), *_HANDLES),
    (*_ATTENTION, *_SPARSITY, *_CACHE),
    effect=Effect.READS,
    since=Stage.SCHEDULED,
    costs=traffic.begun,
)
"""The same, begun: it returns at once. ticket: the store and a number, for exactly one
nsp.attend_wait."""

ATTEND_WAIT = Op(
    "nsp.attend_wait",
    (Tensor("ticket", "2"),),
    _PARTIAL,
    since=Stage.SCHEDULED,
    costs=traffic.waited,
)
"""Waits for what nsp.attend_start began."""

TAKE_ROWS = Op(
    "nsp.take_rows",
    (*_HANDLES, Tensor("order", "S"), Tensor("length", "S")),
    _HANDLES,
    _CACHE,
    effect=Effect.CHANGES,
    since=Stage.OFFLOADED,
)
"""Row i goes on as row order[i], which had `length` tokens. Nothing crosses the link
or is read or written: rows share full tiles, and what is copied of tails is in host memory."""

PREFETCH = Op(
    "nsp.prefetch",
    (*_HANDLES, _ROWS, _LENGTH),
    (_DONE,),
    (Attribute("most_bytes", int, 0), *_CACHE),
    effect=Effect.LOOKS,
    since=Stage.SCHEDULED,
)
"""The device may begin to read what an attention over these rows (length > 0) will need, in the
order of the calls, most_bytes of it (0: all that there is room for)."""

WRITEBACK = Op(
    "nsp.writeback",
    _HANDLES,
    (_DONE,),
    (Attribute("interval_tokens", int), Attribute("exclusive", bool, False), *_CACHE),
    effect=Effect.LOOKS,
    since=Stage.SCHEDULED,
)
"""Rows with interval_tokens or more that were held back and not written go out. exclusive: no scan
of the store begins until they are on the medium."""

HAUL = Op(
    "nsp.haul",
    _QUERY,
    (*_PARTIAL, *_HANDLES),
    (*_ATTENTION, Attribute("chunk_tokens", int), *_CACHE),
    effect=Effect.READS,
    since=Stage.OFFLOADED,
    is_lowered=False,
    costs=traffic.hauled,
)
"""nsp.attend, but K and V are brought to the compute device in chunks, and attended there."""

FETCH = Op(
    "nsp.fetch",
    (*_HANDLES, _ROWS, Tensor("begin", "1"), _LENGTH),
    (Tensor("k", "BTHD", OF_CACHE), Tensor("v", "BTHD", OF_CACHE), *_HANDLES),
    (Attribute("n_tokens", int, axis="T"), _WINDOW, _READ_AHEAD, *_CACHE),
    effect=Effect.READS,
    since=Stage.OFFLOADED,
    costs=traffic.fetched,
)
"""K and V [B, n_tokens, Hkv, D] of each row, from token `begin` on, to the compute device; 0 past
`length` and, with a window, for what lies further before it than that. It stands in the loop over
the chunks of one attention."""

X_CACHE = Op(
    "nsp.x_cache",
    _HANDLES,
    (Tensor("x_k", "4"), Tensor("x_v", "4")),
    (Attribute("n_heads", int), Attribute("head_dim", int), *_CACHE),
    effect=Effect.LOOKS,
    since=Stage.OFFLOADED,
)
"""The handles of the cache that keeps X for rows of this one: the first half of each token's X is
its "K", the second its "V"."""

LOAD = Op("nsp.load", (_WEIGHT,), (Tensor("value", None, ANY),), costs=traffic.loaded)
"""A weight that is on storage, as a tensor."""

LOAD_AHEAD = Op("nsp.load_ahead", (_WEIGHT,), (_DONE,), since=Stage.SCHEDULED)
"""The engine may begin to read the weight that an nsp.load will ask for."""

DOT = Op(
    "nsp.dot",
    (Tensor("x", "MK", ("bf16",)), Tensor("w", "KN", ("bf16",), turned_by="transposed")),
    (Tensor("out", "MN", ("f32",)),),
    (Attribute("transposed", bool, False),),
    costs=traffic.multiplied,
)
"""x [m, k] · w [k, n], or [n, k] if transposed, summed in float32. The engine's kernel on the host,
whatever the device is."""

READS = (ATTEND, ATTEND_START, HAUL)
"""The attentions: what scans a cache. A fetch is a part of one."""

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        APPEND,
        TAKE_ROWS,
        ATTEND,
        ATTEND_START,
        ATTEND_WAIT,
        PREFETCH,
        WRITEBACK,
        HAUL,
        FETCH,
        X_CACHE,
        LOAD,
        LOAD_AHEAD,
        DOT,
    )
}
"""All of them, by name."""
