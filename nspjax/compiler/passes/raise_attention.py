"""raise-attention: cached attention as people write it becomes the mark that other passes know."""

from __future__ import annotations

import dataclasses
import logging
from typing import ClassVar

from nspjax.compiler import mlir, nsp
from nspjax.compiler.nsp.cache_flow import cache_values
from nspjax.compiler.raising.attention_pattern import CACHE_WRITE, match_attention, written_cache
from nspjax.compiler.raising.matching import NoMatch, described
from nspjax.compiler.raising.raised_mark import put_mark
from nspjax.errors import OffloadError
from nspjax.ops import CACHED_ATTENTION, PROJECT_KV

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RaiseReport:
    """What became of the cached attentions of a module, a line each."""

    raised: tuple[str, ...]
    left: tuple[str, ...]
    """those that were left alone, and which operation broke the match"""


@dataclasses.dataclass(frozen=True)
class RaiseAttention:
    """Turn unmarked cached attention into the mark `nspjax.cached_attention`; the first pass.

    It recognises a dynamic_update_slice into caches [B, C, Hkv, D], the product of query and keys,
    scale, softcap, mask, softmax and the product with the values, in any layout that einsum makes
    of them. From the comparisons of positions that the mask is made of, it proves that the mask is
    causal, perhaps with a window. What it cannot prove it leaves as it is. The log says what was
    raised, and what broke the match elsewhere.
    """

    name: ClassVar[str] = "raise-attention"
    stage: ClassVar[nsp.Stage] = nsp.Stage.RAISED

    def run(self, module: mlir.Module) -> mlir.Module:
        module, report = raise_attention(module)
        for line in report.raised:
            _log.info("raised %s", line)
        for line in report.left:
            _log.warning("left as it is: %s", line)
        if mlir.cache_arguments(module):
            _check_stored_caches(module, report)
        return module


def raise_attention(module: mlir.Module) -> tuple[mlir.Module, RaiseReport]:
    """The module with marks in the place of the cached attentions in it, and what was found.

    Where there is none, it is the module that was given.
    """
    if not any(map(_is_write, mlir.operations(module))):
        return module, RaiseReport((), ())
    inlined = mlir.clone_module(module)
    mlir.inline_calls(inlined, needed=_is_write, keep=(CACHED_ATTENTION, PROJECT_KV))
    mlir.remove_unused_functions(inlined)
    _erase_unused(inlined)
    raised, left = [], []
    for dot in [op for op in mlir.operations(inlined) if op.name == "stablehlo.dot_general"]:
        if written_cache(dot) is None:
            continue
        place = described(dot)
        try:
            put_mark(inlined, dot, match_attention(dot))
            raised.append(f"the attention that ends with {place}")
        except NoMatch as reason:
            left.append(f"the attention that ends with {place}: {reason}")
    _erase_unused(inlined)
    return (inlined if raised else module), RaiseReport(tuple(raised), tuple(left))


def _is_write(op: mlir.Operation) -> bool:
    return op.name == CACHE_WRITE


def _erase_unused(module: mlir.Module) -> None:
    for block in reversed(list(mlir.blocks(module))):  # inner ones first
        mlir.erase_unused(block)


def _check_stored_caches(module: mlir.Module, report: RaiseReport) -> None:
    """Every cache of a store is used by marks alone.

    Raises:
      OffloadError: one is not; says what broke the match.
    """
    try:
        cache_values(module)
    except OffloadError as error:
        why = (
            "; ".join(dict.fromkeys(report.left))
            or "no product of attention weights and this cache was found"
        )
        raise OffloadError(
            f"a stored cache is not used as nspjax.cached_attention uses it: {why}. ({error})"
        ) from error
