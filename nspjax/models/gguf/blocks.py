"""The formats in which GGUF stores values, as the package gguf knows and decodes them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from nspjax.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class BlockType:
    """A format: n_values of a row together take n_bytes."""

    name: str
    number: int
    n_values: int
    n_bytes: int


@functools.cache
def block_types() -> Mapping[str, BlockType]:
    """Those that can be decoded, by name.

    Raises:
      CheckpointError: the package gguf is missing.
    """
    try:
        from gguf import GGML_QUANT_SIZES, quants
    except ImportError as error:
        raise CheckpointError(
            "reading a GGUF file needs gguf: pip install 'nspjax[gguf]'"
        ) from error
    found = {}
    for kind, (n_values, n_bytes) in GGML_QUANT_SIZES.items():
        one_block = np.zeros((1, n_bytes), np.uint8)
        try:
            quants.dequantize(one_block, kind)
        except NotImplementedError:  # integers, and formats that only live in llama.cpp's memory
            continue
        found[kind.name] = BlockType(kind.name, int(kind), n_values, n_bytes)
    return found


def block_type(number: int) -> BlockType | None:
    """The one with GGML's number; None: it cannot be decoded."""
    return _by_number().get(number)


@functools.cache
def _by_number() -> Mapping[int, BlockType]:
    return {kind.number: kind for kind in block_types().values()}


def decoded(blocks: np.ndarray, kind: BlockType) -> np.ndarray:
    """float32 [rows, values] of uint8 [rows, bytes]."""
    from gguf import GGMLQuantizationType, quants

    with np.errstate(all="ignore"):  # a scale may be anything: what is not finite is told later
        return quants.dequantize(blocks, GGMLQuantizationType(kind.number))
