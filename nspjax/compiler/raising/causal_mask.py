"""The proof that a mask is the one of `cached_attention`: causal by position, with or without a
window."""

from __future__ import annotations

import dataclasses

from nspjax.compiler import mlir
from nspjax.compiler.raising.affine import Affine, Axis, Symbol, constant
from nspjax.compiler.raising.formula import Formula, conjunction
from nspjax.compiler.raising.matching import NoMatch


@dataclasses.dataclass(frozen=True)
class CausalMask:
    """Query t sees key j where j <= start + t, and j > start + t - window if there is a window.

    `must_be_zero` has to be 0 in every row and for every query for it to be so: where a program
    keeps the position twice, once for the mask and once for the cache.
    """

    window: int
    token: Axis | None
    must_be_zero: Affine


def causal_mask(
    seen: Formula, start: Affine, key: Axis, tokens: frozenset[Axis], at: mlir.Value
) -> CausalMask:
    """What `seen` is for tokens written from `start` on.

    Args:
      seen: which keys a query sees, of the axis `key` and others.
      tokens: the axes that may be the query's place among the new tokens; empty for one token.
      at: the mask in the program, for the message.

    Raises:
      NoMatch: it is another mask, or nobody knows.
    """
    limits = conjunction(seen)
    if limits is None:
        raise NoMatch("the mask is no conjunction of comparisons of positions", at)
    last = [limit for limit in limits if limit.coefficient(key) == -1]
    first = [limit for limit in limits if limit.coefficient(key) == 1]
    for limit in limits:
        if limit not in last and limit not in first:
            raise NoMatch("the mask depends on more than the distance to the key", at)
    causal = next((c for c in last if all((o - c).low >= 0 for o in last)), None)
    if causal is None:
        raise NoMatch("the mask has another limit than the query's own position", at)
    token, excess = _excess(causal + Affine.axis(key), start, tokens, at)
    window = 0
    for limit in first:
        size = limit + causal
        if not size.is_constant or size.constant < 0:
            raise NoMatch("the mask hides old keys in another way than a window does", at)
        window = min(window or size.constant + 1, size.constant + 1)
    return CausalMask(window, token, excess)


def _excess(
    seen: Affine, start: Affine, tokens: frozenset[Axis], at: mlir.Value
) -> tuple[Axis | None, Affine]:
    """The new-token axis, and how much further than start + token a query sees.

    It is 0, or depends on inputs of the program: then it is compared with 0 when it runs.
    """
    token, excess = None, seen - start
    if tokens:
        named = [axis for axis in tokens if axis in seen.axes]
        if len(named) != 1:
            raise NoMatch("the mask is the same for all new tokens", at)
        token, excess = named[0], excess - Affine.axis(named[0])
    if seen.symbols <= start.symbols and excess != constant(0):
        raise NoMatch("the mask does not end at the query's own position", at)
    for symbol in excess.symbols:
        if not symbol.is_input:
            raise NoMatch("nobody knows whether the mask ends at the query's own position", at)
    if any(not isinstance(unknown, Symbol) and unknown != token for unknown, _ in excess.terms):
        raise NoMatch("the mask differs between heads", at)
    return token, excess
