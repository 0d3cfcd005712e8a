"""The usual cached attention, recognised from its last operation, weights x values, backwards."""

from __future__ import annotations

import dataclasses

from nspjax.compiler import mlir
from nspjax.compiler.raising.affine import Affine, Axis, Index, SplitAxis, constant
from nspjax.compiler.raising.causal_mask import CausalMask, causal_mask
from nspjax.compiler.raising.formula import Formula, both, negation
from nspjax.compiler.raising.matching import Elements, NoMatch
from nspjax.compiler.raising.softmax_pattern import Scores, scores_of

CACHE_WRITE = "stablehlo.dynamic_update_slice"


@dataclasses.dataclass(frozen=True)
class Operand:
    """A tensor of the program, and which axis each of its dimensions is."""

    value: mlir.Value
    index: Index


@dataclasses.dataclass(frozen=True)
class Attention:
    """A cached attention that was recognised."""

    out: Operand
    q: Operand
    write_k: mlir.Operation
    write_v: mlir.Operation
    batch: Axis
    token: Axis | None
    kv_head: Axis
    group: tuple[Axis, ...]
    depth: Axis
    value_depth: Axis
    start: Affine
    mask: CausalMask
    scale: float
    softcap: float
    assumed: frozenset
    """the Symbols that must be 0 … capacity - T for the proof to hold"""

    @property
    def n_tokens(self) -> int:
        return mlir.tensor(self.write_k.operands[1])[0][1]


def written_cache(dot: mlir.Operation) -> mlir.Operation | None:
    """The cache write whose tokens a dot_general sums over: then it may be weights x values."""
    try:
        return _with_splits(lambda axes: _values_side(dot, axes)[0])
    except NoMatch:
        return None


def match_attention(dot: mlir.Operation) -> Attention:
    """The attention that ends with `dot`.

    Raises:
      NoMatch: says which operation is another than expected.
    """
    return _with_splits(lambda axes: _match(dot, axes))


class _Axes:
    """Makes the axes of a proof; some of them in parts."""

    def __init__(self, splits: dict[Axis, int]) -> None:
        self.splits = splits

    def index(self, name: str, size: int) -> Affine:
        axis = Axis(name, size)
        inner = self.splits.get(axis)
        if inner is None:
            return Affine.axis(axis)
        return self.index(f"{name}/", size // inner) * inner + self.index(f"{name}%", inner)


def _with_splits(attempt):
    splits: dict[Axis, int] = {}
    while True:
        try:
            return attempt(_Axes(splits))
        except SplitAxis as split:
            splits[split.axis] = split.inner


def _match(dot: mlir.Operation, axes: _Axes) -> Attention:
    write_v, at_v, weights, at_weights, out_index = _values_side(dot, axes)
    capacity = mlir.tensor(write_v.results[0])[0][1]
    _check_layout(write_v, at_v)
    batch, key, kv_head, value_depth = (_one_axis(at) for at in at_v)
    n_tokens = mlir.tensor(write_v.operands[1])[0][1]
    elements = Elements(capacity - n_tokens, frozenset({key}))
    scores = scores_of(weights, at_weights, key, elements)
    write_k, at_k, q, at_q = _keys_side(scores, axes)
    _check_layout(write_k, at_k)
    if at_k[:3] != at_v[:3]:
        raise NoMatch("the weights meet other keys than values", scores.dot)
    depth = _one_axis(at_k[3])
    if any(key in at.axes for at in at_q):
        raise NoMatch("the query depends on the key's position", q)
    start = _start(write_k, elements)
    if start != _start(write_v, elements):
        raise NoMatch("keys and values go to different places", write_v)
    others = {axis for at in at_q for axis in at.axes} - {batch, kv_head, depth}
    mask = causal_mask(
        _all_of(scores, elements),
        start,
        key,
        frozenset(a for a in others if a.size == n_tokens) if n_tokens > 1 else frozenset(),
        elements.source(scores.masks[-1].value, scores.masks[-1].index)[0]
        if scores.masks
        else scores.dot.results[0],
    )
    known = {batch, mask.token}
    for symbol in elements.symbols:
        if symbol.axes - known:
            raise NoMatch("an integer differs between heads or keys", symbol.value)
    return Attention(
        out=Operand(dot.results[0], out_index),
        q=Operand(q, at_q),
        write_k=write_k,
        write_v=write_v,
        batch=batch,
        token=mask.token,
        kv_head=kv_head,
        group=tuple(sorted(others - {mask.token}, key=lambda axis: axis.name)),
        depth=depth,
        value_depth=value_depth,
        start=start,
        mask=mask,
        scale=scores.scale,
        softcap=scores.softcap,
        assumed=frozenset(elements.symbols),
    )


def _all_of(scores: Scores, elements: Elements) -> Formula:
    return both(
        *(
            negation(elements.condition(m.value, m.index))
            if m.hides
            else elements.condition(m.value, m.index)
            for m in scores.masks
        )
    )


# ---- the two products ---------------------------------------------------------------------------


def _sides(
    dot: mlir.Operation, out: Index, summed: Affine
) -> tuple[tuple[mlir.Value, Index], tuple[mlir.Value, Index]]:
    """Both operands of a dot_general with one contracted dimension, at an element of its result."""
    dims = mlir.dot_dimensions(dot)
    places = zip(
        dot.operands,
        (dims.left_batching, dims.right_batching),
        (dims.left_contracting, dims.right_contracting),
        strict=True,
    )
    sides, next_free = [], len(dims.left_batching)
    for operand, batching, contracting in places:
        index = {contracting[0]: summed, **dict(zip(batching, out, strict=False))}
        for dimension in range(len(mlir.tensor(operand)[0])):
            if dimension not in index:
                index[dimension] = out[next_free]
                next_free += 1
        sides.append((operand, tuple(index[d] for d in sorted(index))))
    return sides[0], sides[1]


def _summed_size(dot: mlir.Operation) -> int:
    contracting = mlir.dot_dimensions(dot).left_contracting
    if len(contracting) != 1:
        raise NoMatch("a product sums over one dimension in attention, not so", dot)
    return mlir.tensor(dot.operands[0])[0][contracting[0]]


def _values_side(dot: mlir.Operation, axes: _Axes):
    """(write, its index, weights, their index, index of the result) of weights x values."""
    shape, _ = mlir.tensor(dot.results[0])
    out = tuple(axes.index(f"o{number}", size) for number, size in enumerate(shape))
    key = axes.index("key", _summed_size(dot))
    sides = _sides(dot, out, key)
    for (value, index), (other, at_other) in (sides, sides[::-1]):
        found, at = Elements(0).source(value, index)
        write = mlir.definition(found)
        if write is not None and write.name == CACHE_WRITE and at[:1] and key in at[:-1]:
            return write, at, other, at_other, out
    raise NoMatch("no operand is a cache that was just written", dot)


def _keys_side(scores: Scores, axes: _Axes):
    """(write, its index, q, its index) of query x keys."""
    sides = _sides(scores.dot, scores.index, axes.index("depth", _summed_size(scores.dot)))
    reached = []
    for (value, index), (other, at_other) in (sides, sides[::-1]):
        found, at = Elements(0).source(value, index)
        write = mlir.definition(found)
        if write is not None and write.name == CACHE_WRITE:
            return write, at, other, at_other
        reached.append(found)
    raise NoMatch("neither operand of query x keys is a cache that was just written", reached[1])


# ---- the cache ----------------------------------------------------------------------------------


def _check_layout(write: mlir.Operation, at: Index) -> None:
    """The cache is [B, C, Hkv, D], read whole, and T whole tokens are written to it."""
    (cache, _), (new, _) = map(mlir.tensor, list(write.operands)[:2])
    if len(cache) != 4:
        raise NoMatch(f"the cache must be [B, C, Hkv, D], it is {list(cache)}", write)
    if (cache[0], *cache[2:]) != (new[0], *new[2:]):
        raise NoMatch(f"{list(new)} is no whole token of a cache {list(cache)}", write)
    for size, place in zip(cache, at, strict=True):
        axis = place.only_axis()
        if not (place == constant(0) and size == 1) and (axis is None or axis.size != size):
            raise NoMatch("not all of the cache is read, or in another order", write)
    if (axis := at[1].only_axis()) is None or axis.name != "key":
        raise NoMatch(
            f"the cache {list(cache)} does not have its tokens in dimension 1: "
            "a stored cache is [B, C, Hkv, D]",
            write,
        )


def _one_axis(at: Affine) -> Axis:
    return at.only_axis() or Axis("one", 1)


def _start(write: mlir.Operation, elements: Elements) -> Affine:
    """Where the new tokens go, the same in all rows.

    Of a place that wraps around, index % C, it is the index: a store refuses one beyond the end.
    """
    starts = [elements.integer(start, ()) for start in list(write.operands)[2:]]
    if any(starts[d] != constant(0) for d in (0, 2, 3)):
        raise NoMatch("tokens are not written to all rows and heads", write)
    for symbol in starts[1].symbols:
        op = mlir.definition(symbol.value)
        if op is None or op.name != "stablehlo.remainder" or starts[1] != Affine.of({symbol: 1}):
            continue
        capacity = mlir.tensor(write.results[0])[0][1]
        if elements.integer(op.operands[1], symbol.index) == constant(capacity):
            return elements.integer(op.operands[0], symbol.index)
    return starts[1]
