"""`load_config` and `load_decoder`: a Hugging Face checkpoint as a `Decoder`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from nspjax.errors import CheckpointError, InvalidArgumentError, UnsupportedModelError
from nspjax.models.checkpoint import CONFIG, read_configs, stored_tensors
from nspjax.models.config import ModelConfig
from nspjax.models.decoder import Decoder
from nspjax.models.families import FAMILIES, Family
from nspjax.models.finite import check_finite
from nspjax.models.hub import resolve_checkpoint
from nspjax.models.json_file import shown
from nspjax.models.quantisation import refuse_quantised, without_leftovers
from nspjax.models.safetensors_file import DTYPES as STORED_DTYPES
from nspjax.models.safetensors_file import StoredTensor
from nspjax.models.settings import MOST_SIZE, Settings
from nspjax.models.weight_table import Source, plan_weights

DTYPES = ("float32", "bfloat16", "float16")
HEAD = "lm_head.weight"
NO_WEIGHTS = re.compile(r"\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$")


def load_config(directory: str | Path) -> ModelConfig:
    """The configuration of a checkpoint, from config.json and generation_config.json.

    Raises:
      CheckpointError: a file or a key is missing or malformed.
      UnsupportedModelError: an architecture or a setting that nspjax does not have.
    """
    directory = Path(directory)
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


@dataclasses.dataclass(frozen=True)
class Offload:
    """Where those weights go that do not stay in memory; they are put there one by one.

    stays: which do stay, by the sizes of all in bytes, in the order of the layers.
    put: stores one and returns what stands for it in the decoder. Only a function that knows these
      can call such a decoder.
    """

    stays: Callable[[Sequence[int]], Sequence[bool]]
    put: Callable[[np.ndarray], Any]


def load_decoder(
    model: str | Path,
    *,
    dtype: DTypeLike | None = "bfloat16",
    offload: Offload | None = None,
    config: ModelConfig | None = None,
) -> Decoder:
    """A decoder with the weights of a checkpoint, on JAX's default device.

    Everything that can be wrong with the files but their values is found before the weights are
    loaded; a weight that is not finite, when it is. Peak memory is that of the decoder and of two
    copies of its largest weight.

    Args:
      model: a Hugging Face directory, or a hub id (downloaded with huggingface_hub).
      dtype: of the weights: float32, bfloat16, float16; None or "auto": the checkpoint's.
      offload: keeps some of the weights elsewhere; None: all are arrays.
      config: what `load_config` read from the checkpoint; None: it is read here.

    Raises:
      CheckpointError: a file, a key or a tensor is missing, surplus, malformed or misshapen, or has
        values that are not finite in this dtype.
      UnsupportedModelError: an architecture or a setting that nspjax does not have.
      InvalidArgumentError: another dtype.

    Warns where scales of a quantisation that is gone are ignored.
    """
    asked = _dtype(dtype)
    directory = resolve_checkpoint(model)
    config = config or load_config(directory)
    family = next(family for family in FAMILIES if family.model_type == config.family)
    tensors = without_leftovers(_with_prefix(stored_tensors(directory)))
    _check_layers(config, directory, len(tensors))
    config, tensors = _resolve_tie(family, config, tensors)
    found = _checkpoint_dtype(config, tensors) if asked is None else asked

    graph, abstract = nnx.split(nnx.eval_shape(lambda: Decoder(config, dtype=found)))
    shapes = {
        weight_name(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)
    }
    plan = plan_weights(family.table, shapes, tensors, NO_WEIGHTS)

    leaves, structure = jax.tree_util.tree_flatten_with_path(abstract)
    sizes = [leaf.size * leaf.dtype.itemsize for _, leaf in leaves]
    stays = [True] * len(leaves) if offload is None else offload.stays(sizes)
    weights = []
    for (path, leaf), stay in zip(leaves, stays, strict=True):
        values = _read_weight(plan[weight_name(path)], leaf)
        # not jnp.asarray, which compiles a copy for each shape
        weights.append(jax.device_put(values) if stay or offload is None else offload.put(values))
    return nnx.merge(graph, jax.tree.unflatten(structure, weights))


def weight_name(path: Any) -> str:
    """A weight's dotted place in the decoder, from its path in the decoder's nnx state."""
    return ".".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


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


# ---- dtypes -------------------------------------------------------------------------------------


def _named_dtype(settings: Settings) -> str | None:
    key = "dtype" if settings.values.get("dtype") is not None else "torch_dtype"
    if settings.values.get(key) is None:
        return None
    return settings.text(key).removeprefix("torch.")


def _dtype(dtype: DTypeLike | None) -> np.dtype | None:
    """What load_decoder's caller asked for; None: the checkpoint's."""
    if dtype is None or (isinstance(dtype, str) and dtype == "auto"):
        return None
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in DTYPES:
        raise InvalidArgumentError(
            f"dtype must be one of {', '.join(DTYPES)}, or None or 'auto' for the checkpoint's, "
            f"got {dtype!r}"
        )
    return found


def _checkpoint_dtype(config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> np.dtype:
    """What config.json says, else what most of the tensors have."""
    if config.checkpoint_dtype in DTYPES:
        return jnp.dtype(config.checkpoint_dtype)
    if config.checkpoint_dtype is not None:
        raise UnsupportedModelError(
            f"config.json names the dtype {shown(config.checkpoint_dtype)}; nspjax has "
            f"{', '.join(DTYPES)}: ask for one of them with dtype="
        )
    kinds = [tensor.dtype for tensor in tensors.values()]
    most = max(set(kinds), key=kinds.count, default="F32")
    return jnp.dtype({"BF16": "bfloat16", "F16": "float16"}.get(most, "float32"))


# ---- tensors ------------------------------------------------------------------------------------


def _check_layers(config: ModelConfig, directory: Path, n_tensors: int) -> None:
    """A decoder of that many layers is not even sketched where so few tensors are there."""
    if config.n_layers > n_tensors:
        raise CheckpointError(
            f"num_hidden_layers in {directory / CONFIG} is {config.n_layers}, but the checkpoint "
            f"has {n_tensors} tensors in all. Is the download complete, and does config.json "
            "belong to it?"
        )


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
    if alike and head.dtype in STORED_DTYPES and np.array_equal(embedding.read(), head.read()):
        return config, rest
    return dataclasses.replace(config, tied_embeddings=False), tensors


def _read_weight(sources: list[Source], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    # what overflows in a cast is told by check_finite
    with np.errstate(over="ignore", invalid="ignore"):
        if len(sources) == 1:
            values = sources[0].read().reshape(leaf.shape)
        else:
            values = np.empty(leaf.shape, leaf.dtype)
            for source in sources:
                values[source.region] = source.read()
        values = np.ascontiguousarray(values, leaf.dtype)
    check_finite(values, sources)
    return values
