"""From what a user calls a model to a directory or a file on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from nspjax.errors import CheckpointError
from nspjax.models.gguf import is_gguf
from nspjax.models.model_file import check_directory, unreadable

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
WANTED_FILES = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates/*",
)


def resolve_checkpoint(model: str | Path) -> Path:
    """The directory of a checkpoint, or a GGUF file: `model` itself, or what the hub has under that
    id.

    A str of the form "name" or "owner/name" that is not there is taken for a hub id, unless it
    ends in ".gguf".

    Raises:
      CheckpointError: there is no such directory or file, something in it is no plain file, or the
        hub cannot be asked or refuses.
    """
    path = _resolved(model)
    if not is_gguf(path):
        check_directory(path)
    return path


def _resolved(model: str | Path) -> Path:
    try:
        path = Path(model).expanduser()
        if path.is_dir():
            return path
        if path.exists():
            if is_gguf(path):
                return path
            raise CheckpointError(
                f"{path} is a file: give the directory of the checkpoint, or a GGUF file, whose "
                "name ends in .gguf"
            )
    except (OSError, ValueError) as error:
        raise unreadable(Path(model), error) from error
    except RuntimeError as error:  # "~nobody"
        raise CheckpointError(f"there is no directory {model}: {error}") from error
    if is_gguf(path):
        raise CheckpointError(f"there is no file {path}")
    if isinstance(model, Path) or not HUB_ID.fullmatch(model):
        raise CheckpointError(f"there is no directory {path}")
    return _download(model)


def _download(hub_id: str) -> Path:
    neither = f"there is no directory {hub_id}, and as a hub id it cannot be fetched"
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"{neither} without huggingface_hub: pip install 'nspjax[hf]'"
        ) from error
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(WANTED_FILES)))
    except Exception as error:  # the hub's, the HTTP library's and the system's errors alike
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"{neither}: {type(error).__name__}: {reason[0] if reason else 'no reason given'}"
        ) from error
