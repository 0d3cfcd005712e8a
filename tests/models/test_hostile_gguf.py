"""GGUF files that are cut, damaged or made to harm: refused in our words, in little memory."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoint
from refusal import refusal

pytest.importorskip("gguf", reason="the extra gguf is not installed")

from gguf_files import write_gguf

from nspjax.errors import NspjaxError
from nspjax.models import load_config, load_decoder

HUGE = [2**31, 2**40, 2**62, 2**64 - 1]
BEGIN = b"GGUF" + struct.pack("<I", 3)


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    write_gguf(
        tmp_path / "x.gguf",
        tiny_checkpoint.write(tmp_path),
        metadata={"tokenizer.ggml.tokens": [f"token{i}" for i in range(20)]},
    )
    return (tmp_path / "x.gguf").read_bytes()


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def file(*parts: bytes, tensors: int = 0, values: int = 0) -> bytes:
    return BEGIN + struct.pack("<QQ", tensors, values) + b"".join(parts)


def string_array(count: int) -> bytes:
    return text("a") + struct.pack("<IIQ", 9, 8, count)


def number_array(count: int) -> bytes:
    return text("a") + struct.pack("<IIQ", 9, 5, count)


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return (
        text(name)
        + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        + struct.pack("<IQ", kind, offset)
    )


CASES = {
    "empty": b"",
    "other": b"PK\3\4" + bytes(100),
    "version": b"GGUF" + struct.pack("<I", 1) + bytes(100),
    "big-endian": b"GGUF" + struct.pack(">I", 3) + bytes(100),
    "kind": file(text("a") + struct.pack("<I", 77), values=1),
    "nested": file(text("a") + struct.pack("<IIQ", 9, 9, 1), values=1),
    "utf-8": file(struct.pack("<Q", 2) + b"\xff\xff" + bytes(20), values=1),
    "twice": file(*2 * [text("a") + struct.pack("<II", 4, 1)], values=2),
    "tensor twice": file(*2 * [tensor("a", (1,))], bytes(64), tensors=2),
    "axes": file(tensor("a", (1,) * 5), tensors=1),
    "many axes": file(text("a"), struct.pack("<I", 2**32 - 1), tensors=1),
    "row": file(tensor("a", (31,), kind=8), bytes(100), tensors=1),
    "type": file(tensor("a", (1,), kind=999), bytes(100), tensors=1),
    **{f"texts {n}": file(string_array(n), bytes(100), values=1) for n in HUGE},
    **{f"numbers {n}": file(number_array(n), bytes(100), values=1) for n in HUGE},
    **{f"text {n}": file(struct.pack("<Q", n), values=1) for n in HUGE},
    **{f"values {n}": file(values=n) for n in HUGE},
    **{f"tensors {n}": file(tensors=n) for n in HUGE},
    **{f"shape {n}": file(tensor("a", (n, n)), tensors=1) for n in HUGE},
    **{f"offset {n}": file(tensor("a", (1,), offset=n), tensors=1) for n in HUGE},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_headers_made_to_harm(tmp_path: Path, case: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(CASES[case])
    tracemalloc.start()
    try:
        message = refusal(path, load_config)
        assert str(path) in message
        assert "general.architecture" not in message  # the header itself is refused
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_large_empty_file(tmp_path: Path) -> None:
    """Counts that a file of holes has room for: the header may have no more than a text may."""
    path = tmp_path / "x.gguf"
    path.write_bytes(file(struct.pack("<Q", 2**38), values=1))
    with path.open("ab") as holes:
        holes.truncate(2**40)
    assert "belong together, beyond 268435456" in refusal(path, load_config)


def test_a_file_that_is_cut_anywhere(tmp_path: Path, whole: bytes) -> None:
    rng = np.random.default_rng(0)
    for n_bytes in [*rng.integers(0, len(whole), 60), len(whole) - 33]:
        path = tmp_path / "cut.gguf"
        path.write_bytes(whole[:n_bytes])
        assert "cut.gguf" in refusal(path)


def test_a_file_without_its_last_bytes(tmp_path: Path, whole: bytes) -> None:
    """Told by the header, before anything is loaded."""
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[:-33])
    assert f"has {len(whole) - 33} bytes, but 'blk.1.attn_v.weight' takes" in refusal(
        path, load_config
    )


def test_a_file_that_is_damaged_anywhere(tmp_path: Path, whole: bytes) -> None:
    """It is refused in our words, or read: not every byte of a name or a weight can be told."""
    header = 2200
    assert whole[header:].count(b"blk.") < 20
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.gguf"
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.integers(0, header, 2):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            load_config(path)
        except NspjaxError:
            refused += 1
    assert 100 < refused < 300


def test_the_undamaged_file(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "whole.gguf"
    path.write_bytes(whole)
    load_decoder(path)


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    import os

    path = tmp_path / "x.gguf"
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    refusal(path)
