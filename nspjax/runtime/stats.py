"""What a store reports about itself."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

Record = TypeVar("Record")


@dataclasses.dataclass(frozen=True)
class StoreStats:
    """Counters since the store was opened and, from `kv_bytes_stored` on, what there is now."""

    bytes_read: int
    """by attention and `fetch`"""
    bytes_read_ahead: int
    """of these, begun before they were asked for"""
    bytes_read_in_vain: int
    """read ahead and not asked for; not part of `bytes_read`"""
    bytes_written: int
    """on the devices; what is under way is not there yet"""
    padding_bytes: int
    """of these, to fill pages"""
    link_bytes: int
    """over the link between host and devices, where there is one: queries, results, what is written
    and what is fetched; with `kv_over_link` what is read and written"""
    bytes_appended: int
    bytes_copied: int
    """in host memory, of newest tokens, where rows go on from one another"""
    n_reads: int
    n_writes: int
    n_write_retries: int
    n_failed_reads_ahead: int
    """no error is raised for them: what they were to bring is read again when it is asked for"""
    read_ns: int
    """time in which attention waited for reads"""
    write_ns: int
    """time in which appends waited for writes"""
    append_ns: int
    """time in append calls, waits included"""
    attend_ns: int
    """time in attend calls, waits included"""
    weight_bytes_read: int
    weight_bytes_read_ahead: int
    """of these, begun before they were asked for"""
    kv_bytes_stored: int
    weight_bytes_stored: int
    host_bytes: int
    """in use: the sum of the next five"""
    staging_bytes: int
    tail_bytes: int
    sketch_bytes: int
    """of caches made with `sketch=True`, for as many tokens as they have room for"""
    pinned_bytes: int
    weight_buffer_bytes: int
    sparse_heads: int
    """attentions that read a part of V, each KV head of a row by itself"""
    sparse_tokens: int
    """that these scored"""
    sparse_tokens_read: int
    """of which V was read, or was in host memory"""
    left_out_ppb: int
    """what the others had of the softmax, as it was estimated, in 10^-9, summed over
    `sparse_heads`"""
    most_left_out_ppb: int
    """of any of them"""

    @property
    def left_out(self) -> float:
        """The share of the softmax whose V was not read, on average."""
        return self.left_out_ppb / 1e9 / max(1, self.sparse_heads)


@dataclasses.dataclass(frozen=True)
class DeviceInfo:
    """One device of a store, as it was opened."""

    spec: str
    kind: str
    path: str
    direct: bool
    """reads and writes bypass the page cache (O_DIRECT)"""
    io: str
    registered_buffers: bool
    """the kernel has the staging buffers pinned once, not at every request"""
    reserved_bytes: int
    free_bytes: int


def record_from(cls: type[Record], values: dict[str, Any]) -> Record:
    """The dataclass made of those of `values` that it has fields for."""
    names = [field.name for field in dataclasses.fields(cls)]  # pyright: ignore[reportArgumentType]
    return cls(**{name: values[name] for name in names})
