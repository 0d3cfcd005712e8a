"""Model files that are refused: by name, and at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nspjax.errors import CheckpointError
from nspjax.models import load_decoder

CONFIG, SHARD, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def refusal(directory: Path, load: Callable = load_decoder) -> str:
    begin = time.process_time()
    with pytest.raises(CheckpointError) as error:
        load(directory)
    assert time.process_time() - begin < 5
    assert len(str(error.value)) < 1500
    return str(error.value)
