"""A Hugging Face directory as a model: its configuration, and the tensors of its shards."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nspjax.errors import CheckpointError, InvalidArgumentError, UnsupportedModelError
from nspjax.models.checkpoint import CONFIG, read_configs, stored_tensors
from nspjax.models.config import ModelConfig
from nspjax.models.families import FAMILIES, Family
from nspjax.models.json_file import shown
from nspjax.models.quantisation import refuse_quantised, without_leftovers
from nspjax.models.safetensors_file import DTYPES
from nspjax.models.settings import MOST_SIZE, Settings
from nspjax.models.stored_tensor import StoredTensor
from nspjax.models.weight_table import StoredWeights

HEAD = "lm_head.weight"
NO_WEIGHTS = re.compile(r"\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$")


def read_config(directory: Path) -> ModelConfig:
    """The configuration, from config.json and generation_config.json.

    Raises:
      CheckpointError: a file or a key is missing or malformed.
      UnsupportedModelError: an architecture or a setting that nspjax does not have.
    """
    values, generation = read_configs(directory)
    settings = Settings(values, str(directory / CONFIG))
    family = _family(settings)
    refuse_quantised(settings)
    settings.only("is_encoder_decoder", False)
    try:
        config = family.read(settings)
    except InvalidArgumentError as error:
        raise CheckpointError(f"{directory / CONFIG}: {error}") from error
    bos = _token_ids("bos_token_id", directory, generation, values)
    eos = _token_ids("eos_token_id", directory, generation, values)
    return dataclasses.replace(
        config,
        bos_token_id=config.bos_token_id if bos is None else next(iter(bos), None),
        eos_token_ids=config.eos_token_ids if eos is None else eos,
        checkpoint_dtype=_named_dtype(settings),
    )


def stored_weights(directory: Path, config: ModelConfig) -> StoredWeights:
    """The tensors, and where they go.

    Raises:
      CheckpointError: a shard is missing, truncated or damaged.
      UnsupportedModelError: quantised weights.

    Warns where scales of a quantisation that is gone are ignored.
    """
    family = next(family for family in FAMILIES if family.model_type == config.family)
    tensors = without_leftovers(_with_prefix(stored_tensors(directory)))
    config, tensors = _resolve_tie(family, config, tensors)
    doubt = f"Is the download complete, and does {CONFIG} belong to it?"
    return StoredWeights(directory, config, tensors, family.table, NO_WEIGHTS, CONFIG, doubt)


def _family(settings: Settings) -> Family:
    names = settings.values.get("architectures")
    model_type = settings.values.get("model_type")
    for family in FAMILIES:
        if names == [family.architecture] or (not names and model_type == family.model_type):
            return family
    raise UnsupportedModelError(
        f"{settings.where} has architectures {shown(names)} and model_type {shown(model_type)}; "
        f"nspjax has: {', '.join(family.architecture for family in FAMILIES)}"
    )


def _token_ids(key: str, directory: Path, *sources: Mapping[str, Any]) -> tuple[int, ...] | None:
    """One id or a list of them, from the first source that has any; null: none. So is -1, as many
    config.json have it: transformers warns, and generates to the end.

    None: no source has the key, and the family's ids hold.
    """
    for source in sources:
        value = source.get(key)
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(token) is int and -1 <= token <= MOST_SIZE for token in ids):
            raise CheckpointError(
                f"{key} must be a token id or a list of them, got {shown(value)} in {directory}"
            )
        return tuple(token for token in ids if token >= 0)
    return () if any(key in source for source in sources) else None


def _named_dtype(settings: Settings) -> str | None:
    key = "dtype" if settings.values.get("dtype") is not None else "torch_dtype"
    if settings.values.get(key) is None:
        return None
    return settings.text(key).removeprefix("torch.")


def _with_prefix(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Names as a ForCausalLM saves them, also where the bare decoder saved itself."""
    if any(name.startswith("model.") for name in tensors):
        return tensors
    return {name if name == HEAD else f"model.{name}": t for name, t in tensors.items()}


def _resolve_tie(
    family: Family, config: ModelConfig, tensors: dict[str, StoredTensor]
) -> tuple[ModelConfig, dict[str, StoredTensor]]:
    """Tied embeddings as transformers 5 takes them: what is stored decides.

    The head alone: it is the embedding as well. Both, and equal: one is dropped. Both, and
    different: they are not tied, whatever config.json says.
    """
    head = tensors.get(HEAD)
    if not config.tied_embeddings or head is None:
        return config, tensors
    embedding_name = next(name for name, to in family.table.items() if to.path == "embedding")
    embedding = tensors.get(embedding_name)
    rest = {name: tensor for name, tensor in tensors.items() if name != HEAD}
    if embedding is None:
        return config, {**rest, embedding_name: head}
    alike = (embedding.shape, embedding.dtype) == (head.shape, head.dtype)
    if alike and head.dtype in DTYPES and np.array_equal(embedding.read(), head.read()):
        return config, rest
    return dataclasses.replace(config, tied_embeddings=False), tensors
