"""What saved prefixes and stores' files hold: read by the words of the formats' documentation
(head_tile.h, tile.h, superblock.cc, prefix_file.py), with nothing of the engine."""

from __future__ import annotations

import dataclasses
import functools
import json
import struct

import ml_dtypes
import numpy as np

PAGE = 4096
ELEMENT_BITS = {"f32": 32, "bf16": 16, "f16": 16, "int8": 8, "int4": 4}
FLOATS = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}


# ---- a head's tile ------------------------------------------------------------------------------


def decode_head_tile(
    data: np.ndarray, kv_type: str, head_dim: int, tile_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """data [bytes] u8 -> K, V [tile_tokens, head_dim] f32, which has every stored number."""
    per_word, lanes = 32 // ELEMENT_BITS[kv_type], min(64, tile_tokens)
    channel_words, token_words = -(-head_dim // per_word), -(-tile_tokens // per_word)
    rest = data.view("<u4")
    sections = []
    for n_words in _sections(kv_type, head_dim, tile_tokens):
        sections.append(rest[:n_words])
        rest = rest[_aligned(n_words) :]
    assert not rest.size

    k = elements(sections[0], kv_type)
    k = k.reshape(tile_tokens // lanes, channel_words, lanes, per_word).transpose(0, 2, 1, 3)
    k = k.reshape(tile_tokens, -1)[:, :head_dim]
    v = elements(sections[1], kv_type)
    v = v.reshape(token_words, head_dim, per_word).transpose(0, 2, 1)
    v = v.reshape(-1, head_dim)[:tile_tokens]
    if kv_type not in FLOATS:
        k_scales, v_scales = sections[2:]
        k = offset_of(k_scales) + scale_of(k_scales) * k
        v = (offset_of(v_scales) + scale_of(v_scales) * v.T).T
    return k, v


def head_tile_bytes(kv_type: str, head_dim: int, tile_tokens: int) -> int:
    return 4 * sum(map(_aligned, _sections(kv_type, head_dim, tile_tokens)))


def _sections(kv_type: str, head_dim: int, tile_tokens: int) -> list[int]:
    """Words of K, V, and the scales of each."""
    per_word = 32 // ELEMENT_BITS[kv_type]
    k, v = tile_tokens * -(-head_dim // per_word), -(-tile_tokens // per_word) * head_dim
    return [k, v] if kv_type in FLOATS else [k, v, head_dim, tile_tokens]


def _aligned(n_words: int) -> int:
    return -(-n_words // 16) * 16  # 64 bytes


def scale_of(words: np.ndarray) -> np.ndarray:
    return (words << 16).view(np.float32)


def offset_of(words: np.ndarray) -> np.ndarray:
    return (words & 0xFFFF0000).view(np.float32)


def elements(words: np.ndarray, kv_type: str) -> np.ndarray:
    """words [n] -> [n, elements of a word] f32; codes of int8 and int4 as they are."""
    bits = ELEMENT_BITS[kv_type]
    found = np.stack([words >> (e // 2 * bits + e % 2 * 16) for e in range(32 // bits)], -1)
    if kv_type == "f32":
        return found.view(np.float32)
    if kv_type in FLOATS:
        return found.astype(np.uint16).view(FLOATS[kv_type]).astype(np.float32)
    codes = (found & (1 << bits) - 1).astype(np.int64)
    return np.where(codes < 1 << bits - 1, codes, codes - (1 << bits)).astype(np.float32)


# ---- a store's file -----------------------------------------------------------------------------


def heads_on(row: int, device: int, n_heads: int, n_devices: int) -> list[int]:
    return [h for h in range(n_heads) if (row * n_heads + h) % n_devices == device]


def padded(tile: bytes) -> bytes:
    """To whole pages."""
    return tile + bytes(-len(tile) % PAGE)


def check_superblock(page: bytes) -> None:
    magic, version, page_bytes = struct.unpack_from("<8sII", page)
    assert (magic, version, page_bytes) == (b"NSPJAXKV", 1, PAGE)
    assert struct.unpack_from("<I", page, PAGE - 4)[0] == crc32c(page[:-4])


# ---- a saved prefix -----------------------------------------------------------------------------


@dataclasses.dataclass
class SavedPrefix:
    header: dict
    tiles: list[np.ndarray]  # [layer][tile, KV head, bytes of a head's tile] u8
    tails: list[np.ndarray]  # [layer][K and V, token, KV head, head_dim] of the appended dtype


def read_prefix(data: bytes) -> SavedPrefix:
    at = 0

    def take(n_bytes: int) -> bytes:
        nonlocal at
        at += n_bytes
        assert at <= len(data)
        return data[at - n_bytes : at]

    assert take(8) == b"NSPJAXPF"
    size, checksum = struct.unpack("<II", take(8))
    text = take(size)
    assert checksum == crc32c(struct.pack("<I", size) + text)
    header = json.loads(text)
    n_tiles, n_rest = divmod(header["n_tokens"], header["tile_tokens"])
    tile_shape = header["n_kv_heads"], header["head_bytes"]
    step = max(1, (4 << 20) // (tile_shape[0] * tile_shape[1]))
    number = 0

    def chunk() -> bytes:
        nonlocal number
        frame = take(16)
        found, n_bytes, checksum, frame_checksum = struct.unpack("<IIII", frame)
        assert (found, frame_checksum) == (number, crc32c(frame[:12]))
        number += 1
        content = take(n_bytes)
        assert checksum == crc32c(content)
        return content

    tiles, tails = [], []
    for _ in range(header["n_layers"]):
        runs = [chunk() for _ in range(0, n_tiles, step)]
        tiles.append(np.frombuffer(b"".join(runs), np.uint8).reshape(n_tiles, *tile_shape))
        rest = np.frombuffer(chunk() if n_rest else b"", FLOATS[header["dtype"]])
        tails.append(rest.reshape(2, n_rest, header["n_kv_heads"], header["head_dim"]))
    assert take(8) == b"NSPJAXPE"
    assert at == len(data)
    return SavedPrefix(header, tiles, tails)


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _crc32c_table()[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@functools.cache
def _crc32c_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table
