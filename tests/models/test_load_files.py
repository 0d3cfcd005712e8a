"""Checkpoints with files that are missing or damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_checkpoint

from nspjax.errors import CheckpointError
from nspjax.models import load_decoder


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no directory .*nowhere"):
        load_decoder(tmp_path / "nowhere")


def test_a_file_instead_of_a_directory(tmp_path: Path) -> None:
    directory = tiny_checkpoint.write(tmp_path)
    with pytest.raises(CheckpointError, match="is a file: give the directory"):
        load_decoder(directory / "model.safetensors")


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config.json"):
        load_decoder(tmp_path)


@pytest.mark.parametrize("text", ['{"hidden_size": 4,', "[]", "\xff"])
def test_malformed_config(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config.json (is not valid JSON|must hold|cannot)"):
        load_decoder(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor .*no weights"):
        load_decoder(tiny_checkpoint.write_config(tmp_path))


def test_pickled_weights_only(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(
        CheckpointError, match=r"only pytorch_model.bin, which is not read.*convert"
    ):
        load_decoder(tiny_checkpoint.write_config(tmp_path))


def test_weights_under_another_name(tmp_path: Path) -> None:
    tiny_checkpoint.write(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "adapter.safetensors")
    with pytest.raises(CheckpointError, match=r"only adapter.safetensors"):
        load_decoder(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100, -4])
def test_truncated_shard(tmp_path: Path, keep: int) -> None:
    path = tiny_checkpoint.write(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model.safetensors \(\d+ bytes\) is truncated"):
        load_decoder(tmp_path)


def test_damaged_header(tmp_path: Path) -> None:
    path = tiny_checkpoint.write(tmp_path) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[8:12] = b"\x00\x01\x02\x03"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_decoder(tmp_path)


def test_missing_shard(tmp_path: Path) -> None:
    tiny_checkpoint.write_sharded(tmp_path)
    (tmp_path / "model-2-of-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"2 shards, of which model-2-of-2.safetensors"):
        load_decoder(tmp_path)


@pytest.mark.parametrize("weight_map", [None, {}, []])
def test_index_without_weight_map(tmp_path: Path, weight_map: object) -> None:
    tiny_checkpoint.write_sharded(tmp_path)
    tiny_checkpoint.write_index(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match="no weight_map"):
        load_decoder(tmp_path)


def test_malformed_index(tmp_path: Path) -> None:
    index = tiny_checkpoint.write_sharded(tmp_path) / "model.safetensors.index.json"
    index.write_text("{")
    with pytest.raises(CheckpointError, match=r"index.json is not valid JSON"):
        load_decoder(tmp_path)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", 3, ""])
def test_index_that_leaves_its_directory(tmp_path: Path, shard: object) -> None:
    tiny_checkpoint.write_sharded(tmp_path)
    tiny_checkpoint.write_index(tmp_path, {"model.norm.weight": shard})
    with pytest.raises(CheckpointError, match="must be a file beside the index"):
        load_decoder(tmp_path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    tiny_checkpoint.write_sharded(tmp_path)
    shutil.copy(tmp_path / "model-1-of-2.safetensors", tmp_path / "model-2-of-2.safetensors")
    with pytest.raises(CheckpointError, match=r"is both in model-1-of-2.* and model-2-of-2"):
        load_decoder(tmp_path)
