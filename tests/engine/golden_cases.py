"""The caches whose bytes are in golden_bytes/: tokens made by a rule, so that nothing but the
formats decides about the bytes."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from engine_oracle import append
from format_reader import FLOATS, PAGE, head_tile_bytes, heads_on

import nspjax
from nspjax.runtime import StoredKVCache

GOLDEN_BYTES = Path(__file__).parent / "golden_bytes"
DIGESTS = GOLDEN_BYTES / "tile_digests.json"
STORE_FILE = GOLDEN_BYTES / "store_file.kv"
STORE_FILE_TYPES = ("f32", "bf16")
MODEL = "golden@1"
DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
TYPES = [(dtype, kv_dtype) for dtype in DTYPES for kv_dtype in (*DTYPES, "int8", "int4")]
"""What is appended, and how it is stored: all that there is."""


@dataclasses.dataclass(frozen=True)
class Shape:
    n_layers: int
    lengths: Sequence[int]  # of the rows
    capacity_tokens: int
    n_heads: int
    head_dim: int
    tile_tokens: int
    not_finite: bool = False

    def full_tiles(self, row: int) -> int:
        return self.lengths[row] // self.tile_tokens

    @property
    def capacity_tiles(self) -> int:
        return -(-self.capacity_tokens // self.tile_tokens)


SMALL = Shape(2, (39, 32), 48, 3, 5, 16)
"""Its tiles are kept: an odd number of channels, and of heads."""

LARGE = {
    # two runs of 64 lanes, several pages to a tile
    "heads-4x72": Shape(1, (300, 128, 391), 400, 4, 72, 128),
    "heads-3x64": Shape(1, (64, 15, 130, 0, 96), 192, 3, 64, 32),
    "not-finite": Shape(1, (70, 33), 96, 3, 20, 32, not_finite=True),
}
"""Only their tiles' digests are kept."""


def elements(shape: Shape, layer: int, row: int, dtype: str) -> np.ndarray:
    """K and V [2, token, head, channel] of a row, from a hash of where they are."""
    n_tokens, n_heads, dim = shape.lengths[row], shape.n_heads, shape.head_dim
    index = np.arange(2 * n_tokens * n_heads * dim, dtype=np.uint64)
    mixed = (index + 1000003 * row + 7919 * layer) * 2654435761 % 2**32
    mixed = (mixed ^ mixed >> 15) * 2246822519 % 2**32
    mixed ^= mixed >> 13
    x = ((mixed.astype(np.float64) - 2**31) / 2**31).reshape(2, n_tokens, n_heads, dim)
    channel, token = np.arange(dim), np.arange(n_tokens)[:, None, None]
    x[0] = x[0] * np.where(channel % 7 == 1, 8, 1) + (channel % 3 == 2) * 5.5  # as RoPE's outliers
    x[1] = x[1] * 2.0 ** (token % 5 - 2)
    odd = [0.0, -0.0, 3e-7, -1e-5, 1000.5]
    if shape.not_finite:
        odd[2:] = [np.inf, -np.inf, np.nan, 60000.0]
    for i, number in enumerate(odd):
        x.reshape(-1)[mixed % 251 == 17 * i + 1] = number
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        return x.astype(np.float32).astype(FLOATS[dtype])


def new_caches(store: nspjax.Store, shape: Shape, dtype: str, kv_dtype: str) -> list[StoredKVCache]:
    return store.kv_caches(
        shape.n_layers, batch=len(shape.lengths), capacity_tokens=shape.capacity_tokens,
        n_kv_heads=shape.n_heads, head_dim=shape.head_dim, dtype=DTYPES[dtype],
        kv_dtype=DTYPES.get(kv_dtype, kv_dtype), interval_tokens=shape.tile_tokens,
    )  # fmt: skip


def filled(store: nspjax.Store, shape: Shape, dtype: str, kv_dtype: str) -> list[StoredKVCache]:
    """New caches with all rows; each arrives in three pieces, which end inside tiles."""
    caches = new_caches(store, shape, dtype, kv_dtype)
    return [_with_tokens(store, cache, shape, layer, dtype) for layer, cache in enumerate(caches)]


def _with_tokens(
    store: nspjax.Store, cache: StoredKVCache, shape: Shape, layer: int, dtype: str
) -> StoredKVCache:
    _, number, version, _ = np.asarray(cache.k).tolist()
    for row in range(len(shape.lengths)):
        k, v = elements(shape, layer, row, dtype)
        cuts = sorted({0, len(k) // 3, len(k) // 2, len(k)})
        for begin, end in pairwise(cuts):
            piece = k[None, begin:end], v[None, begin:end]
            version = append(store._engine, number, version, *piece, [row], [begin], [end - begin])
    lengths = np.array(shape.lengths, np.int32)
    return cache.with_handles(store._engine.cache_handles(number, version), lengths)


def file_bytes(store: nspjax.Store) -> list[bytes]:
    """What the files of the devices hold, all written."""
    store.flush()
    return [Path(device.path).read_bytes() for device in store.devices()]


def prefix_path(dtype: str, kv_dtype: str) -> Path:
    return GOLDEN_BYTES / f"{dtype}-as-{kv_dtype}.prefix"


def tile_digests(files: list[bytes], shape: Shape, kv_dtype: str) -> list[str]:
    """[device]: CRC-32s of the full tiles there, in the order of layers, rows and tokens."""
    found = []
    for device, data in enumerate(files):
        tiles = full_tiles(data, shape, kv_dtype, device, len(files))
        found.append(" ".join(f"{zlib.crc32(tile):08x}" for tile in tiles))
    return found


def full_tiles(
    data: bytes, shape: Shape, kv_dtype: str, device: int, n_devices: int
) -> Iterator[bytes]:
    """Those in a device's file: after its superblock, cache by cache, row by row."""
    at = PAGE
    for _ in range(shape.n_layers):
        for row in range(len(shape.lengths)):
            n_heads = len(heads_on(row, device, shape.n_heads, n_devices))
            head_bytes = head_tile_bytes(kv_dtype, shape.head_dim, shape.tile_tokens)
            tile_bytes = -(-n_heads * head_bytes // PAGE) * PAGE
            for tile in range(shape.full_tiles(row) if n_heads else 0):
                yield data[at + tile * tile_bytes : at + (tile + 1) * tile_bytes]
            at += shape.capacity_tiles * tile_bytes
