"""A Hugging Face directory: its JSON files, and the tensors of its safetensors shards.

What can be checked without reading weights is checked here, from the shards' headers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nspjax.errors import CheckpointError

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One tensor of a shard, not read yet. dtype as safetensors spells it, e.g. "BF16"."""

    name: str
    shard: Path
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> np.ndarray:
        """The values, in a buffer of their own.

        Raises:
          CheckpointError: the file cannot be read any more.
        """
        # The shard is opened anew for each tensor, so that its pages are given back with it.
        with _opened(self.shard) as file:
            return file.get_tensor(self.name)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      CheckpointError: it is missing, malformed or no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent} has no {path.name}: is it a Hugging Face model directory?"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of the directory's shards by name, in the order of the shards.

    Raises:
      CheckpointError: a shard is missing, truncated or damaged, or the index does not fit them.
    """
    if (directory / SINGLE).exists():
        return _shard_tensors(directory / SINGLE)
    if not (directory / INDEX).exists():
        raise CheckpointError(_no_weights(directory))
    weight_map = read_json(directory / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{directory / INDEX} has no weight_map from tensors to shards")
    shards = sorted({_shard_name(directory, shard) for shard in weight_map.values()})
    missing = [shard for shard in shards if not (directory / shard).exists()]
    if missing:
        raise CheckpointError(
            f"{directory / INDEX} names {len(shards)} shards, of which {_some(missing)} "
            "is missing: download the checkpoint again"
        )
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        for name, tensor in _shard_tensors(directory / shard).items():
            if name in tensors:
                raise CheckpointError(f"{name} is both in {tensors[name].shard.name} and {shard}")
            tensors[name] = tensor
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].shard.name != shard:
            raise CheckpointError(f"{directory / INDEX} places {name} in {shard}, which lacks it")
    return tensors


def _shard_name(directory: Path, name: object) -> str:
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise CheckpointError(
            f"{directory / INDEX} names a shard {name!r}: it must be a file beside the index"
        )
    return name


def _shard_tensors(path: Path) -> dict[str, StoredTensor]:
    tensors = {}
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118 (it is no dict)
            view = file.get_slice(name)
            shape = tuple(view.get_shape())
            tensors[name] = StoredTensor(name, path, shape, str(view.get_dtype()))
    return tensors


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The shard as `safetensors.safe_open` gives it; what it complains about, in our words."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise CheckpointError(
            "reading a checkpoint needs safetensors: pip install 'nspjax[hf]'"
        ) from error
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is truncated or damaged, or no safetensors "
            f"file: {error}. Download it again"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _no_weights(directory: Path) -> str:
    message = f"{directory} has neither {SINGLE} nor {INDEX}"
    pickles = sorted(path.name for path in directory.glob("pytorch_model*.bin"))
    if pickles:
        return (
            f"{message}, only {_some(pickles)}, which is not read because a pickle can run code: "
            "convert it, for example with transformers: "
            "AutoModelForCausalLM.from_pretrained(directory).save_pretrained(directory)"
        )
    others = sorted(path.name for path in directory.glob("*.safetensors"))
    if others:
        return f"{message}, only {_some(others)}: rename the file, or write an index of the shards"
    return f"{message}: it holds no weights, or not in the safetensors format"


def _some(names: list[str], at_most: int = 3) -> str:
    rest = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {rest} more" if rest > 0 else "")
