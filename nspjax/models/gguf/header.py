"""The header of a GGUF file: its metadata, and where its tensors lie.

Ours, not the package's `GGUFReader`: that one maps the file, and to read what was cut is a SIGBUS;
and it goes through counts which the file need not have room for.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nspjax.errors import CheckpointError, UnsupportedModelError
from nspjax.models.gguf.blocks import block_type, block_types
from nspjax.models.gguf.tensor import GgufTensor
from nspjax.models.json_file import shown
from nspjax.models.model_file import MOST_TEXT_BYTES, ModelFile, opened

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_AXES = 4
MOST_HEADER_BYTES = MOST_TEXT_BYTES
DEFAULT_ALIGNMENT = 32

_BOOL, _STRING, _ARRAY = 7, 8, 9
_SCALARS = {
    number: np.dtype(spelling)
    for number, spelling in {
        0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "u1",
        10: "<u8", 11: "<i8", 12: "<f8",
    }.items()
}  # fmt: skip
_CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class GgufHeader:
    """What a file says of itself. A value of the metadata is a number, a bool, a str, a list of
    str, or an array of numbers or bools."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def is_gguf(path: Path) -> bool:
    """Whether a checkpoint is a GGUF file, by its name: a directory never is."""
    return path.suffix == ".gguf" and not path.is_dir()


def read_header(path: Path) -> GgufHeader:
    """The header of a file.

    Raises:
      CheckpointError: there is no such file, or it is truncated, damaged or no GGUF file.
      UnsupportedModelError: tensors in a format that the package gguf cannot decode, or a file
        that is a part of a checkpoint.
    """
    try:
        with opened(path) as file:
            return _Reader(file).header()
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error


class _Reader:
    """Goes through a header; nothing is allocated that the file has no bytes for."""

    def __init__(self, file: ModelFile):
        self._file = file
        self._most = min(file.n_bytes, MOST_HEADER_BYTES)
        self._data = bytearray()
        self._at = 0

    def header(self) -> GgufHeader:
        if self._take(len(MAGIC)) != MAGIC:
            raise CheckpointError(f"{self._file.path} is no GGUF file: it does not begin with GGUF")
        version = self._integer("<I")
        if version not in VERSIONS:
            big_endian = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            found = "a big-endian file" if big_endian else f"version {version}"
            raise UnsupportedModelError(
                f"{self._file.path} is {found} of GGUF; nspjax reads little-endian ones of version "
                f"{' and '.join(map(str, VERSIONS))}"
            )
        n_tensors, n_values = self._integer("<Q"), self._integer("<Q")
        metadata: dict[str, Any] = {}
        for _ in range(n_values):
            key = self._text()
            if key in metadata:
                raise self._damaged(f"has {shown(key)} twice")
            metadata[key] = self._value(self._integer("<I"))
        _refuse_part(self._file.path, metadata)
        entries = [self._entry() for _ in range(n_tensors)]
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"has general.alignment {shown(alignment)}, which is no power of 2")
        begin = -(-self._at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, number, offset in entries:
            if name in tensors:
                raise self._damaged(f"has the tensor {shown(name)} twice")
            tensors[name] = self._tensor(name, shape, number, begin + offset)
        return GgufHeader(self._file.path, metadata, tensors)

    # ---- parts of a header ----------------------------------------------------------------------

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._array(kind, 1)[0].item()
        element, count = self._integer("<I"), self._integer("<Q")
        if element != _STRING:
            return self._array(element, count)
        return [self._text() for _ in range(count)]

    def _array(self, kind: int, count: int) -> np.ndarray:
        if kind not in _SCALARS:
            raise self._damaged(f"has a value of kind {kind}, which GGUF does not define")
        dtype = _SCALARS[kind]
        values = np.frombuffer(self._take(dtype.itemsize * count), dtype)
        return values != 0 if kind == _BOOL else values

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        """A tensor's name, its shape in NumPy's order, the number of its type, and its offset."""
        name, n_axes = self._text(), self._integer("<I")
        if n_axes > MOST_AXES:
            raise self._damaged(f"has a tensor {shown(name)} with {n_axes} axes")
        shape = tuple(self._integer("<Q") for _ in range(n_axes))
        return name, shape[::-1], self._integer("<I"), self._integer("<Q")

    def _tensor(self, name: str, shape: tuple[int, ...], number: int, begin: int) -> GgufTensor:
        kind = block_type(number)
        if kind is None:
            raise UnsupportedModelError(
                f"{shown(name)} in {self._file.path} has the GGML type {number}, which the "
                f"installed gguf cannot decode; it can: {', '.join(block_types())}"
            )
        if shape and shape[-1] % kind.n_values:
            raise self._damaged(
                f"has a tensor {shown(name)} of shape {list(shape)}, which no {kind.name} blocks "
                f"of {kind.n_values} make up"
            )
        n_bytes = math.prod(shape) * kind.n_bytes // kind.n_values
        if begin + n_bytes > self._file.n_bytes:
            raise CheckpointError(
                f"{self._file.path} has {self._file.n_bytes} bytes, but {shown(name)} takes "
                f"{n_bytes} at byte {begin}: it is truncated or damaged. Download it again"
            )
        return GgufTensor(name, self._file.path, shape, kind.name, self._file.version, begin)

    # ---- bytes ----------------------------------------------------------------------------------

    def _text(self) -> str:
        data = self._take(self._integer("<Q"))
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self._damaged(f"has a text that is not UTF-8: {error.reason}") from error

    def _integer(self, form: str) -> int:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, n_bytes: int) -> bytearray:
        self._check_room(n_bytes)
        end = self._at + n_bytes
        if end > len(self._data):
            more = min(max(end - len(self._data), _CHUNK_BYTES), self._most - len(self._data))
            self._data += self._file.read(more, len(self._data))
        taken, self._at = self._data[self._at : end], end
        return taken

    def _check_room(self, n_bytes: int) -> None:
        if self._at + n_bytes > self._most:
            raise self._damaged(
                f"has a header in which {n_bytes} bytes at byte {self._at} belong together"
                + (f", beyond {MOST_HEADER_BYTES}" if self._most < self._file.n_bytes else "")
            )

    def _damaged(self, how: str) -> CheckpointError:
        path, n_bytes = self._file.path, self._file.n_bytes
        return CheckpointError(
            f"{path} ({n_bytes} bytes) {how}: it is truncated or damaged. Download it again"
        )


def _refuse_part(path: Path, metadata: Mapping[str, Any]) -> None:
    n_parts = metadata.get("split.count", 0)
    if n_parts not in (0, 1):
        raise UnsupportedModelError(
            f"{path} is one of {shown(n_parts)} parts of a checkpoint: merge them with "
            "llama.cpp's llama-gguf-split --merge, and give the result"
        )
