"""Files that keep a prefilled prefix: their format, and nothing about stores.

    magic, 8 bytes
    header: its size and checksum, then JSON, the fields of PrefixHeader
    chunks, each: its number, size and checksum, the checksum of these three; then its bytes
    end magic, 8 bytes

Numbers are uint32, little-endian; checksums are CRC-32C. For each layer there are chunks of whole
tiles, as the store keeps them, [tile, KV head, head_bytes]; then one of the tokens that fill no
tile, K and V, [2, token, KV head, head_dim] in the dtype that is appended. What a chunk holds
follows from its number and the header.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np

from nspjax import _engine
from nspjax.errors import InvalidArgumentError, StoreDamagedError
from nspjax.runtime.new_file import new_file
from nspjax.runtime.plain_file import open_plain, os_errors
from nspjax.runtime.prefix_header import (
    MOST_HEADER_BYTES,
    HeaderError,
    PrefixHeader,
    header_text,
    parse_header,
)

MAGIC = b"NSPJAXPF"
END_MAGIC = b"NSPJAXPE"
HEADER_FRAME = struct.Struct("<II")
CHUNK_FRAME = struct.Struct("<IIII")
CHUNK_BYTES = 4 << 20
"""The most bytes of a chunk of tiles, unless one tile has more."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Tiles [begin, end) of a layer, or its tail: then both are the number of tiles."""

    layer: int
    begin: int
    end: int
    n_bytes: int


def chunks(header: PrefixHeader) -> Iterator[Chunk]:
    """All chunks of a file, in order."""
    step = _tiles_a_chunk(header)
    for layer in range(header.n_layers):
        for begin in range(0, header.n_tiles, step):
            end = min(begin + step, header.n_tiles)
            yield Chunk(layer, begin, end, (end - begin) * header.tile_bytes)
        if header.tail_bytes:
            yield Chunk(layer, header.n_tiles, header.n_tiles, header.tail_bytes)


def _tiles_a_chunk(header: PrefixHeader) -> int:
    return max(1, CHUNK_BYTES // header.tile_bytes)


def _chunks_bytes(header: PrefixHeader) -> int:
    """Of all chunks and their frames, without going through them."""
    n_chunks = -(-header.n_tiles // _tiles_a_chunk(header)) + bool(header.tail_bytes)
    layer_bytes = header.n_tiles * header.tile_bytes + header.tail_bytes
    return header.n_layers * (n_chunks * CHUNK_FRAME.size + layer_bytes)


def check_same(path: Path, saved: PrefixHeader, wanted: PrefixHeader) -> None:
    """Refuse a prefix that is not one of these caches'; `n_tokens` may differ.

    Raises:
      InvalidArgumentError: names what differs, and both sides.
    """
    for field in dataclasses.fields(PrefixHeader):
        name = field.name
        there, here = getattr(saved, name), getattr(wanted, name)
        if name == "n_tokens" or there == here:
            continue
        todo = "load it where it was saved for, or prefill the prompt again"
        if name == "tile_tokens":
            todo = f"make the caches with interval_tokens={there}, or prefill the prompt again"
        raise InvalidArgumentError(
            f"the prefix in {path} is not one of these caches: its {name} is {there!r}, "
            f"theirs is {here!r}; {todo}"
        )


# ---- writing ------------------------------------------------------------------------------------


class PrefixWriter:
    """The new file, under its temporary name until it is whole; see `new_prefix_file`."""

    def __init__(self, fd: int, path: Path, header: PrefixHeader) -> None:
        self._fd, self._path, self._offset, self._index = fd, path, 0, 0
        text = header_text(header)
        size = struct.pack("<I", len(text))
        self._write(MAGIC + HEADER_FRAME.pack(len(text), _engine.crc32c(size + text)) + text)

    def add(self, data: np.ndarray) -> None:
        """The next chunk."""
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        frame = struct.pack("<III", self._index, data.nbytes, _engine.crc32c(data))
        self._write(frame + struct.pack("<I", _engine.crc32c(frame)))
        self._write(data.data)
        self._index += 1

    def finish(self) -> None:
        self._write(END_MAGIC)

    def _write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            where = f"write of {len(rest)} bytes at offset {self._offset} of {self._path}"
            with os_errors(where):
                n_bytes = os.write(self._fd, rest)
            self._offset += n_bytes
            rest = rest[n_bytes:]


@contextlib.contextmanager
def new_prefix_file(path: Path, header: PrefixHeader) -> Iterator[PrefixWriter]:
    """A writer whose file gets its name when the block ends well; see `new_file`."""
    with new_file(path) as (fd, temporary):
        writer = PrefixWriter(fd, temporary, header)
        yield writer
        writer.finish()


# ---- reading ------------------------------------------------------------------------------------


class PrefixReader:
    """A file that was opened: its header, and its chunks in order.

    Raises:
      StoreDamagedError: says where, from which offset on, and what is wrong.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path, self._offset = file, path, 0
        with os_errors(f"stat of {path}"):
            self._n_bytes = os.fstat(file.fileno()).st_size
        self.header = self._read_header()
        self._check_size()

    def chunks(self) -> Iterator[tuple[Chunk, np.ndarray]]:
        """Each chunk and its bytes, as uint8, verified."""
        for index, chunk in enumerate(chunks(self.header)):
            begin = self._offset
            frame = bytes(self._read(CHUNK_FRAME.size))
            number, n_bytes, checksum, frame_checksum = CHUNK_FRAME.unpack(frame)
            if frame_checksum != _engine.crc32c(frame[:-4]):
                self._fail(begin, f"the frame of chunk {index} has a wrong checksum")
            if (number, n_bytes) != (index, chunk.n_bytes):
                self._fail(begin, f"it has chunk {number} of {n_bytes} bytes where chunk {index} "
                                  f"of {chunk.n_bytes} bytes belongs")  # fmt: skip
            data = self._read(n_bytes)
            if checksum != _engine.crc32c(data):
                self._fail(begin + len(frame), f"chunk {index}, of {n_bytes} bytes, has a wrong "
                                               "checksum")  # fmt: skip
            yield chunk, data
        begin = self._offset
        if bytes(self._read(len(END_MAGIC))) != END_MAGIC:
            self._fail(begin, "its end mark is wrong")

    def _read_header(self) -> PrefixHeader:
        if bytes(self._read(len(MAGIC))) != MAGIC:
            self._fail(0, "it is no prefix that nspjax saved")
        n_bytes, checksum = HEADER_FRAME.unpack(bytes(self._read(HEADER_FRAME.size)))
        if n_bytes > MOST_HEADER_BYTES:
            self._fail(len(MAGIC), f"its header cannot have {n_bytes} bytes")
        text = bytes(self._read(n_bytes))
        if checksum != _engine.crc32c(struct.pack("<I", n_bytes) + text):
            self._fail(len(MAGIC), f"its header, of {n_bytes} bytes, has a wrong checksum")
        try:
            return parse_header(text)
        except HeaderError as error:
            self._fail(len(MAGIC) + HEADER_FRAME.size, f"its header cannot be true: {error}")
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{self._path} is a saved prefix {error}") from None

    def _check_size(self) -> None:
        """Before anything is loaded, as far as that can be told."""
        n_bytes = self._offset + _chunks_bytes(self.header) + len(END_MAGIC)
        if n_bytes != self._n_bytes:
            self._fail(min(n_bytes, self._n_bytes), f"it has {self._n_bytes} bytes, not {n_bytes}")

    def _read(self, n_bytes: int) -> np.ndarray:
        data = np.empty(n_bytes, np.uint8)
        rest = data.data
        while rest:
            with os_errors(f"read of {len(rest)} bytes at offset {self._offset} of {self._path}"):
                n_read = self._file.readinto(rest)  # pyright: ignore[reportAttributeAccessIssue]
            if not n_read:
                self._fail(self._offset, f"it ends there, {len(rest)} bytes are missing")
            self._offset += n_read
            rest = rest[n_read:]
        return data

    def _fail(self, offset: int, why: str) -> NoReturn:
        raise StoreDamagedError(
            f"{self._path} is damaged at offset {offset}: {why}; remove it, and prefill the "
            "prompt again"
        )


@contextlib.contextmanager
def open_prefix_file(path: Path) -> Iterator[PrefixReader]:
    """Raises:
    StorePathError, StorageIOError: the file cannot be opened or read, or is no plain file of
      this user.
    StoreDamagedError: it is not ours, cut, or damaged, as far as its header tells.
    """
    with open(open_plain(path, os.O_RDONLY), "rb", buffering=0) as file:
        yield PrefixReader(file, path)  # pyright: ignore[reportArgumentType]
