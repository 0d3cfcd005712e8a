"""Runs the attention kernel in C simulation on arrays, and says what float64 makes of them."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np

from nspjax import _engine, dtypes

KV_TYPES = tuple(dtype.name for dtype in dtypes.DTYPES)
DTYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}
MAGIC = 0x3150534E
FIRST_BEAT, HEAD_GAP_BEATS, TILE_GAP_BEATS = 3, 2, 1
DONE, BAD_OPERANDS = 1, 2


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The card's memory, and the float32 elements as stored: k, v [heads, tokens, D]."""

    kv_type: str
    tile_tokens: int
    memory: np.ndarray
    k: np.ndarray
    v: np.ndarray
    head_beats: int

    @property
    def tile_beats(self) -> int:
        return len(self.k) * self.head_beats + TILE_GAP_BEATS


@dataclasses.dataclass(frozen=True)
class Results:
    """max, sum [heads, queries], sums [heads, queries, D] and the words of the header."""

    max: np.ndarray
    sum: np.ndarray
    sums: np.ndarray
    status: int
    beats_read: int
    score_slots: int
    value_slots: int

    @property
    def out(self) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.where(self.max[..., None] == -np.inf, 0, self.sums / self.sum[..., None])


def make_tiles(
    rng: np.random.Generator,
    kv_type: str,
    heads: int,
    tokens: int,
    head_dim: int,
    tile_tokens: int,
    change=lambda rows: rows,
) -> Tiles:
    """Random K and V of whole tiles, packed and converted by the engine.

    change: of a tile's K and V [2, tile_tokens, D] as appended.
    """
    float_type = kv_type if kv_type in DTYPES else "f32"
    head_bytes = _engine.head_tile_bytes(kv_type, head_dim, tile_tokens)
    head_beats = head_bytes // 64 + HEAD_GAP_BEATS
    n_tiles = -(-tokens // tile_tokens)
    tile_beats = heads * head_beats + TILE_GAP_BEATS
    memory = np.zeros((FIRST_BEAT + n_tiles * tile_beats) * 64, np.uint8)
    elements = np.zeros((2, heads, n_tiles * tile_tokens, head_dim), np.float32)
    for head in range(heads):
        for tile in range(n_tiles):
            rows = rng.standard_normal((2, tile_tokens, head_dim), np.float32)
            rows = change(rows.astype(DTYPES[float_type]))
            k, v = rows if float_type == "f32" else rows.view(np.uint16)
            empty = np.zeros(_engine.head_tile_bytes(float_type, head_dim, tile_tokens), np.uint8)
            packed = _engine.pack_head(float_type, tile_tokens, k, v, 0, empty)
            stored = _engine.convert_head(float_type, kv_type, head_dim, tile_tokens, packed)
            begin = (FIRST_BEAT + tile * tile_beats + head * head_beats) * 64
            memory[begin : begin + head_bytes] = stored
            as_f32 = _engine.convert_head(kv_type, "f32", head_dim, tile_tokens, stored)
            elements[:, head, tile * tile_tokens : (tile + 1) * tile_tokens] = _engine.unpack_head(
                "f32", head_dim, tile_tokens, as_f32, 0, tile_tokens
            )
    return Tiles(kv_type, tile_tokens, memory, *elements, head_beats)


def operands(
    tiles: Tiles, q: np.ndarray, visible: np.ndarray, scale: float, softcap=0.0, first_token=0
) -> np.ndarray:
    """q float32 [heads, queries, D], visible [queries, 2] -> words."""
    heads, n_queries, head_dim = q.shape
    seen = visible[visible[:, 0] < visible[:, 1]]
    begin, end = (seen[:, 0].min(), seen[:, 1].max()) if len(seen) else (0, 0)
    header = np.zeros(16, np.uint32)
    header[:11] = [
        MAGIC, 7, KV_TYPES.index(tiles.kv_type), head_dim, tiles.tile_tokens, heads, n_queries,
        tiles.k.shape[1] // tiles.tile_tokens, first_token, begin, end,
    ]  # fmt: skip
    header[11:13] = np.array([scale, softcap], np.float32).view(np.uint32)
    header[13:] = FIRST_BEAT, tiles.tile_beats, tiles.head_beats
    ranges = np.zeros(-(-n_queries // 8) * 16, np.uint32)
    ranges[: 2 * n_queries] = visible.reshape(-1)
    return np.concatenate([header, ranges, q.astype(np.float32).reshape(-1).view(np.uint32)])


def run(tiles: Tiles, q: np.ndarray, visible: np.ndarray, scale: float, **options) -> Results:
    heads, n_queries, head_dim = q.shape
    words = operands(tiles, q, visible, scale, **options)
    beats = _engine.simulate_attention_kernel(tiles.memory, words).reshape(-1, 16)
    assert beats[0, 0] == MAGIC
    assert beats[0, 1] == 7
    by_query = beats[1:].reshape(heads, n_queries, 1 + head_dim // 16, 16)
    statistics = by_query[:, :, 0].view(np.float32)
    return Results(
        statistics[..., 0],
        statistics[..., 1],
        by_query[:, :, 1:].reshape(heads, n_queries, head_dim).view(np.float32),
        *(int(word) for word in beats[0, 2:6]),
    )


def attend(tiles: Tiles, q, visible, scale, softcap=0.0, first_token=0):
    """-> max, sum [heads, queries], out [heads, queries, D] in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, tiles.k, tiles.v))
    token = first_token + np.arange(k.shape[1])
    most, total, out = np.full(q.shape[:2], -np.inf), np.zeros(q.shape[:2]), np.zeros(q.shape)
    for head, i in np.ndindex(*q.shape[:2]):
        seen = (token >= visible[i, 0]) & (token < visible[i, 1])
        if not seen.any():
            continue
        with np.errstate(invalid="ignore"):
            scores = scale * (k[head, seen] * q[head, i]).sum(1)
            if softcap:
                scores = softcap * np.tanh(scores / softcap)
            most[head, i] = scores.max()
            weights = np.exp(scores - most[head, i])
            total[head, i] = weights.sum()
            out[head, i] = (weights[:, None] * v[head, seen]).sum(0) / total[head, i]
    return most, total, out
