"""What a store reports about itself."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

Record = TypeVar("Record")


@dataclasses.dataclass(frozen=True)
class StoreStats:
    """Counters since the store was opened; only `kv_bytes_stored` and `host_bytes` can fall."""

    bytes_read: int
    bytes_written: int
    bytes_appended: int
    kv_bytes_stored: int
    n_reads: int
    n_writes: int
    read_ns: int
    """time in which attention waited for reads"""
    attend_ns: int
    """time in attend calls, waits included"""
    host_bytes: int
    """tails and staging buffers in use"""


@dataclasses.dataclass(frozen=True)
class DeviceInfo:
    """One device of a store, as it was opened."""

    spec: str
    kind: str
    path: str
    direct: bool
    """reads and writes bypass the page cache (O_DIRECT)"""
    io: str
    reserved_bytes: int
    free_bytes: int


def record_from(cls: type[Record], values: dict[str, Any]) -> Record:
    """The dataclass made of those of `values` that it has fields for."""
    names = [field.name for field in dataclasses.fields(cls)]  # pyright: ignore[reportArgumentType]
    return cls(**{name: values[name] for name in names})
