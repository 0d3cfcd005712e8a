"""`load_config` and `load_decoder`: a checkpoint as a `Decoder`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from nspjax.errors import CheckpointError, InvalidArgumentError, UnsupportedModelError
from nspjax.models import directory, gguf
from nspjax.models.config import ModelConfig
from nspjax.models.decoder import Decoder
from nspjax.models.finite import check_finite
from nspjax.models.gguf import is_gguf
from nspjax.models.hub import resolve_checkpoint
from nspjax.models.json_file import shown
from nspjax.models.weight_table import Source, StoredWeights, plan_weights

DTYPES = ("float32", "bfloat16", "float16")


def load_config(checkpoint: str | Path) -> ModelConfig:
    """The configuration of a checkpoint: of a directory, from config.json and
    generation_config.json; of a GGUF file, from its metadata.

    Raises:
      CheckpointError: a file or a key is missing or malformed.
      UnsupportedModelError: an architecture or a setting that nspjax does not have.
    """
    path = Path(checkpoint)
    if is_gguf(path):
        return gguf.read_config(gguf.read_header(path))
    return directory.read_config(path)


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
      model: a Hugging Face directory, a GGUF file, or a hub id (downloaded with huggingface_hub).
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
    stored = _stored_weights(resolve_checkpoint(model), config)
    config = stored.config
    _check_layers(stored)
    found = _checkpoint_dtype(stored) if asked is None else asked

    graph, abstract = nnx.split(nnx.eval_shape(lambda: Decoder(config, dtype=found)))
    shapes = {
        weight_name(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)
    }
    plan = plan_weights(stored, shapes)

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


# ---- dtypes -------------------------------------------------------------------------------------


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


def _checkpoint_dtype(stored: StoredWeights) -> np.dtype:
    """What the configuration says, else what most of the tensors have."""
    config = stored.config
    if config.checkpoint_dtype in DTYPES:
        return jnp.dtype(config.checkpoint_dtype)
    if config.checkpoint_dtype is not None:
        raise UnsupportedModelError(
            f"{stored.described_by} names the dtype {shown(config.checkpoint_dtype)}; nspjax has "
            f"{', '.join(DTYPES)}: ask for one of them with dtype="
        )
    kinds = [tensor.dtype for tensor in stored.tensors.values()]
    most = max(set(kinds), key=kinds.count, default="F32")
    return jnp.dtype({"BF16": "bfloat16", "F16": "float16"}.get(most, "float32"))


# ---- tensors ------------------------------------------------------------------------------------


def _stored_weights(path: Path, config: ModelConfig | None) -> StoredWeights:
    if is_gguf(path):
        header = gguf.read_header(path)
        return gguf.stored_weights(header, config or gguf.read_config(header))
    return directory.stored_weights(path, config or directory.read_config(path))


def _check_layers(stored: StoredWeights) -> None:
    """A decoder of that many layers is not even sketched where so few tensors are there."""
    n_layers, n_tensors = stored.config.n_layers, len(stored.tensors)
    if n_layers > n_tensors:
        raise CheckpointError(
            f"{stored.path} has {n_tensors} tensors in all, but {stored.described_by} says "
            f"{n_layers} layers. {stored.doubt}"
        )


def _read_weight(sources: list[Source], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    # what overflows in a cast is told by check_finite
    with np.errstate(over="ignore", invalid="ignore"):
        if len(sources) == 1:
            values = sources[0].read(leaf.dtype).reshape(leaf.shape)
        else:
            values = np.empty(leaf.shape, leaf.dtype)
            for source in sources:
                values[source.region] = source.read(leaf.dtype)
        values = np.ascontiguousarray(values, leaf.dtype)
    check_finite(values, sources)
    return values
