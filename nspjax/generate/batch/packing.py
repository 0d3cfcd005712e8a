"""What an output that is no plain file of lines is made of, by its name."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from typing import BinaryIO

from nspjax.generate.batch import compression, parquet_requests, parquet_results


@dataclasses.dataclass(frozen=True)
class Packing:
    """write(file, lines): all of the output. read(file, path): its lines; the path is for
    messages.

    Raises:
      BatchFileError: in read, the file is damaged, or is another.
    """

    write: Callable[[BinaryIO, BinaryIO], None]
    read: Callable[[BinaryIO, str], Iterator[bytes]]


def packing_of(path: str) -> Packing | None:
    """How an output of this name is packed; None: it is not.

    Raises:
      BatchFileError: that takes an extra which is not installed.
    """
    match os.path.splitext(path)[1].lower():
        case ".gz":
            return _compressed(compression.GZIP)
        case ".zst":
            compression.zstd()
            return _compressed(compression.ZSTD)
        case ".parquet":
            parquet_requests.pyarrow()
            return Packing(parquet_results.write, parquet_results.read)
    return None


def _compressed(how: str) -> Packing:
    return Packing(functools.partial(_compress, how), _decompress)


def _compress(how: str, file: BinaryIO, lines: BinaryIO) -> None:
    with compression.writer(file, how) as packed:
        shutil.copyfileobj(lines, packed, 1 << 20)


def _decompress(file: BinaryIO, path: str) -> Iterator[bytes]:
    with compression.damage(f"the output {path}"):
        yield from compression.reader(file)
