"""Signs that a checkpoint is quantised, which nspjax does not read, or that it once was."""

from __future__ import annotations

import re
import warnings

from nspjax.errors import UnsupportedModelError
from nspjax.models.safetensors_file import DTYPES
from nspjax.models.settings import Settings
from nspjax.models.stored_tensor import StoredTensor

PACKED = re.compile(r"\.(qweight|weight_packed)$")
"""Weights of GPTQ, AWQ, compressed-tensors."""

LEFTOVER = re.compile(
    r"\.(\w+_)?(scales?(_inv)?|zero_points?|zp)$|\.(qzeros|g_idx|SCB|weight_format|weight_shape)$"
    r"|\.(nested_)?(absmax|quant_map)$|\.quant_state\.\w+$"
)
"""What says how to read quantised weights or a quantised KV cache."""

Tensors = dict[str, StoredTensor]


def refuse_quantised(settings: Settings) -> None:
    """Refuse a config.json that says that the weights are quantised; {} and null say nothing.

    Raises:
      UnsupportedModelError: it says so.
    """
    for key in ("quantization_config", "compression_config"):
        if settings.values.get(key) not in (None, {}):
            raise settings.unsupported(key, f"weights in {', '.join(DTYPES)}, not quantised")


def without_leftovers(tensors: Tensors) -> Tensors:
    """The tensors without the scales of a quantisation that is gone, with a warning that names
    them: a weight in floating point is read as it stands.

    Raises:
      UnsupportedModelError: quantised weights are there as well.
    """
    if packed := next(filter(PACKED.search, tensors), None):
        raise UnsupportedModelError(
            f"{packed} in {tensors[packed].shard} is a quantised weight: nspjax has "
            f"{', '.join(DTYPES)}"
        )
    kept = {name: tensor for name, tensor in tensors.items() if not LEFTOVER.search(name)}
    if len(kept) < len(tensors):
        first = next(name for name in tensors if name not in kept)
        warnings.warn(
            f"the checkpoint has {len(tensors) - len(kept)} tensors of a quantisation, the first "
            f"is {first}, and config.json says of none: they are ignored, and the weights read as "
            "they stand",
            RuntimeWarning,
            stacklevel=3,
        )
    return kept
