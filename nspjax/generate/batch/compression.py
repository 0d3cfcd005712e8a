"""Compressed files: gzip, which Python has, and zstd, which is an extra before Python 3.14."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from nspjax.errors import BatchFileError

GZIP, ZSTD = "gzip", "zstd"

_GZIP_LEVEL = 6
_MAGIC_BYTES = 4
_ZSTD_MAGIC = 0xFD2FB528
_ZSTD_SKIPPABLE = 0x184D2A5  # and four bits of any value: what some programs begin a file with


def compression_of(begin: bytes) -> str | None:
    """How a file that begins with these bytes is compressed; None: it is not."""
    if begin[:2] == b"\x1f\x8b":
        return GZIP
    number = int.from_bytes(begin[:_MAGIC_BYTES], "little")
    if number == _ZSTD_MAGIC or number >> 4 == _ZSTD_SKIPPABLE:
        return ZSTD
    return None


def reader(file: BinaryIO) -> BinaryIO:
    """What a file holds, from its begin on, decompressed if it is compressed.

    Raises:
      BatchFileError: an extra is needed that is not installed.
    """
    compression = compression_of(file.read(_MAGIC_BYTES))
    file.seek(0)
    if compression == GZIP:
        return gzip.GzipFile(fileobj=file, mode="rb")  # pyright: ignore
    return zstd().ZstdFile(file, "rb") if compression == ZSTD else file


def writer(file: BinaryIO, compression: str) -> BinaryIO:
    """What is written to it reaches `file` compressed, once it is closed; `file` stays open."""
    if compression == GZIP:
        return gzip.GzipFile("", "wb", _GZIP_LEVEL, file)  # pyright: ignore
    module = zstd()
    return module.ZstdFile(file, "wb", options={module.CompressionParameter.checksum_flag: 1})


def zstd() -> Any:
    """Python's module, or its backport, which has the same names.

    Raises:
      BatchFileError: there is none.
    """
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise BatchFileError("zstd is not installed, which .zst files need: pip install 'nspjax[zstd]'")


@contextlib.contextmanager
def damage(path: str) -> Iterator[None]:
    """What decompression raises of a file that is cut or damaged, as an error of ours."""
    try:
        yield
    except EOFError as error:
        raise BatchFileError(f"{path} is cut: the end of what was compressed is missing") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BatchFileError(f"{path} is damaged: {error}") from error
    except Exception as error:  # zstd's is a class of a module that may not be there
        if type(error).__name__ != "ZstdError":
            raise
        raise BatchFileError(f"{path} is damaged: {error}") from error
