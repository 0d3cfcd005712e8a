"""Shards that are not what they seem, or change while they are read: refused, and at once."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoint
from refusal import SHARD, refusal
from safetensors.numpy import save_file

from nspjax.models import model_file
from nspjax.models.safetensors_file import SafetensorsTensor


def shard(header: object, values: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + values


def entry(begin: object = 0, end: object = 4, dtype: object = "F32", shape: object = (1,)):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


FOUR = bytes(4)
SHARDS = {
    "nothing": b"",
    "no header": bytes(7),
    "a header of 2^63": shard({}, length=2**63),
    "a header of 2^64 - 1": shard({}, length=2**64 - 1),
    "a header behind the end": shard({}, length=3),
    "no JSON": shard(b"{]"),
    "a list": shard([]),
    "deep": shard(b'{"a":' * 10**5),
    "not UTF-8": shard(b'{"\xff": 1}'),
    "an entry that is a number": shard({"x": 1}, FOUR),
    "an entry that is null": shard({"x": None}, FOUR),
    "no shape": shard({"x": {"dtype": "F32", "data_offsets": [0, 4]}}, FOUR),
    "a shape of strings": shard({"x": entry(shape=["1"])}, FOUR),
    "a shape of bools": shard({"x": entry(shape=[True])}, FOUR),
    "a negative shape": shard({"x": entry(shape=[-1, -1])}, FOUR),
    "a shape that overflows": shard({"x": entry(shape=[2**62, 4, 2**62])}, FOUR),
    "a dtype that is a number": shard({"x": entry(dtype=32)}, FOUR),
    "bytes that the shape has not": shard({"x": entry(shape=[2])}, FOUR),
    "offsets that are no numbers": shard({"x": entry("0", 4)}, FOUR),
    "offsets that are floats": shard({"x": entry(0.0, 4.0)}, FOUR),
    "negative offsets": shard({"x": entry(-4, 0)}, FOUR),
    "offsets behind the end": shard({"x": entry(4, 8)}, FOUR),
    "offsets of 10^400": shard({"x": entry(10**400, 10**400 + 4)}, FOUR),
    "offsets backwards": shard({"x": entry(4, 0)}, FOUR),
    "three offsets": shard({"x": {**entry(), "data_offsets": [0, 2, 4]}}, FOUR),
    "overlapping": shard({"x": entry(), "y": entry()}, FOUR),
    "a gap": shard({"x": entry(), "y": entry(8, 12)}, FOUR * 3),
    "bytes that no tensor has": shard({"x": entry()}, FOUR * 2),
    "bytes that are missing": shard({"x": entry(0, 8, shape=[2])}, FOUR),
    "a tensor twice": shard(
        b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        FOUR * 2,
    ),
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_that_is_none(tmp_path: Path, name: str) -> None:
    tiny_checkpoint.write_config(tmp_path)
    (tmp_path / SHARD).write_bytes(SHARDS[name])
    size = len(SHARDS[name])
    assert f"{tmp_path / SHARD} ({size} bytes) is truncated or damaged" in refusal(tmp_path)


def test_a_header_above_the_limit_is_not_read(tmp_path: Path) -> None:
    tiny_checkpoint.write_config(tmp_path)
    with open(tmp_path / SHARD, "wb") as sparse:
        sparse.write(struct.pack("<Q", 100_000_001))
        sparse.truncate(2**40)
    assert "header too large" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("model.layers.00.self_attn.q_proj.weight", "surplus"),
        ("model.layers.٣.self_attn.q_proj.weight", "surplus"),
        (f"model.layers.{'9' * 5000}.self_attn.q_proj.weight", "surplus"),
        ("model.layers.{layer}.self_attn.q_proj.weight", "surplus"),
        ("model.layers.{}.self_attn.q_proj.weight", "surplus"),
        ("\ud800", "is truncated or damaged"),
        ("x" * 10**6, "surplus"),
    ],
)
def test_a_tensor_s_name(tmp_path: Path, name: str, why: str) -> None:
    tiny_checkpoint.write(tmp_path)
    path = tmp_path / SHARD
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header[name] = entry(len(data) - 8 - length, len(data) - 4 - length)
    path.write_bytes(shard(header, data[8 + length :] + FOUR))
    assert why in refusal(tmp_path)


def test_values_are_those_that_safetensors_writes(tmp_path: Path) -> None:
    """Tensors without axes and without values too, in files whose header is padded or not."""
    import ml_dtypes

    from nspjax.models.safetensors_file import shard_tensors

    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(3.5, np.float16),
        "c": np.zeros((0, 4), np.float64),
        "d": np.arange(5).astype(ml_dtypes.bfloat16),
        "é": np.arange(2, dtype=np.float64),
    }
    save_file(tensors, tmp_path / "x", metadata={"format": "pt"})
    found = shard_tensors(tmp_path / "x")
    assert found.keys() == tensors.keys()
    for name, values in tensors.items():
        read = found[name].read()
        assert (read.dtype, read.shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(read, values)


# ---- files that change while they are read ------------------------------------------------------


def test_a_shard_that_is_cut_between_tensors(tmp_path: Path, monkeypatch) -> None:
    path = tiny_checkpoint.write(tmp_path) / SHARD
    read = SafetensorsTensor.read

    def cut_then_read(self):
        os.truncate(path, 100)
        return read(self)

    monkeypatch.setattr(SafetensorsTensor, "read", cut_then_read)
    assert f"{path} was changed while it was loaded (100 bytes now)" in refusal(tmp_path)


def test_a_shard_that_is_removed(tmp_path: Path, monkeypatch) -> None:
    path = tiny_checkpoint.write(tmp_path) / SHARD
    read = SafetensorsTensor.read

    def remove_then_read(self):
        path.unlink(missing_ok=True)
        return read(self)

    monkeypatch.setattr(SafetensorsTensor, "read", remove_then_read)
    assert f"{path} was removed while it was loaded" in refusal(tmp_path)


def test_reads_that_come_in_pieces(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(100)))
    preadv = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:7]], offset)
    )
    with model_file.opened(path) as file:
        assert file.read(90, 5) == bytes(range(5, 95))
