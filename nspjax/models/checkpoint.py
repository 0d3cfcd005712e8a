"""A Hugging Face directory: its JSON files, and the tensors of its safetensors shards.

What can be checked without reading weights is checked here, from the shards' headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nspjax.errors import CheckpointError, UnsupportedModelError
from nspjax.models.json_file import read_json, shown
from nspjax.models.safetensors_file import shard_tensors
from nspjax.models.stored_tensor import StoredTensor

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
ADAPTER_CONFIG = "adapter_config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_configs(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The objects in config.json and in generation_config.json, {} where there is no such file.

    Raises:
      CheckpointError: config.json is missing, or one of them is malformed.
      UnsupportedModelError: the directory is a LoRA adapter's.
    """
    _refuse_adapter(directory)
    try:
        config = read_json(directory / CONFIG)
    except FileNotFoundError as error:
        raise CheckpointError(f"{directory} has no {CONFIG}: {_other_format(directory)}") from error
    try:
        return config, read_json(directory / GENERATION_CONFIG)
    except FileNotFoundError:
        return config, {}


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of the directory's shards by name, in the order of the shards.

    The index says which shards there are, no more, as in transformers: it may name tensors that are
    in another shard, or in none.

    Raises:
      CheckpointError: a shard is missing, truncated or damaged, or the index malformed.
    """
    try:
        return shard_tensors(directory / SINGLE)
    except FileNotFoundError:
        pass
    try:
        weight_map = read_json(directory / INDEX).get("weight_map")
    except FileNotFoundError as error:
        raise CheckpointError(_no_weights(directory)) from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{directory / INDEX} has no weight_map from tensors to shards")
    return _of_shards(directory, _shard_names(directory, weight_map))


def _shard_names(directory: Path, weight_map: Mapping[str, object]) -> list[str]:
    names = set()
    for tensor, name in weight_map.items():
        # a file beside the index, which may be a link: the hub's snapshots consist of links
        if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
            raise CheckpointError(
                f"{directory / INDEX} places {shown(tensor)} in a shard {shown(name)}: it must be "
                "a file beside the index"
            )
        names.add(name)
    return sorted(names)


def _of_shards(directory: Path, shards: list[str]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    missing = []
    for shard in shards:
        try:
            found = shard_tensors(directory / shard)
        except FileNotFoundError:
            missing.append(shard)
            continue
        for name, tensor in found.items():
            if name in tensors:
                raise CheckpointError(
                    f"{shown(name)} is both in {tensors[name].shard.name} and {shard}"
                )
            tensors[name] = tensor
    if missing:
        raise CheckpointError(
            f"{directory / INDEX} names {len(shards)} shards, of which {_some(missing)} "
            "is missing: download the checkpoint again"
        )
    return tensors


def _refuse_adapter(directory: Path) -> None:
    try:
        adapter = read_json(directory / ADAPTER_CONFIG)
    except FileNotFoundError:
        return
    base = adapter.get("base_model_name_or_path")
    raise UnsupportedModelError(
        f"{directory} holds an adapter ({ADAPTER_CONFIG}: {shown(adapter.get('peft_type'))}) for "
        f"the model {shown(base)}, and nspjax applies none: merge it into that model, with peft's "
        "merge_and_unload() and save_pretrained(), and give the result. If the weights here are "
        f"merged already, remove {ADAPTER_CONFIG}"
    )


def _other_format(directory: Path) -> str:
    files = sorted(path.name for path in directory.glob("*.gguf"))
    if files:
        return f"of GGUF, give the file: {_some(files)}"
    return "is it a Hugging Face model directory?"


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
