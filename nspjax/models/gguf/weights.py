"""The tensors of a GGUF file, and where they go."""

from __future__ import annotations

import dataclasses
import re

from nspjax.models.config import ModelConfig
from nspjax.models.gguf.header import GgufHeader
from nspjax.models.gguf.table import INTERLEAVED, NO_WEIGHTS, TABLE
from nspjax.models.gguf.tensor import GgufTensor
from nspjax.models.weight_table import StoredWeights


def stored_weights(header: GgufHeader, config: ModelConfig) -> StoredWeights:
    """The tensors of a file with this configuration."""
    tensors = dict(header.tensors)
    if header.metadata["general.architecture"] == "llama":
        for name, tensor in tensors.items():
            if found := INTERLEAVED.search(name):
                tensors[name] = _interleaved(tensor, found, config)
    doubt = "Is the download complete?"
    return StoredWeights(header.path, config, tensors, TABLE, NO_WEIGHTS, "its metadata", doubt)


def _interleaved(tensor: GgufTensor, found: re.Match[str], config: ModelConfig) -> GgufTensor:
    n_heads = config.n_heads if found[1] == "q" else config.n_kv_heads
    return dataclasses.replace(tensor, n_interleaved_heads=n_heads)
