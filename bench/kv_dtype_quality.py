"""What int8 and int4 KV lose: bits per byte of the example model on text it has not seen.

The model runs in memory, a tile's tokens at a time. Before the next tile, K (after its rotation)
and V of the one that is full go through the engine's tiles and back, so that every token sees
earlier tiles as they would be stored, and its own as the tail, in bf16.

    python bench/kv_dtype_quality.py                     # minutes
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx

from nspjax import _engine
from nspjax.models import Decoder, load_decoder

EXAMPLES = Path(__file__).parent.parent / "examples"
BOS = 256
CONTEXT = 4096


def held_out_windows(n: int) -> np.ndarray:
    """[n, CONTEXT]: whole windows from the held-out files, each behind a BOS."""
    sys.path.insert(0, str(EXAMPLES))
    from library_files import read_library

    _, files = read_library()
    width = CONTEXT - 1
    pieces = [text[i : i + width] for text in files for i in range(0, len(text) - width, width)]
    chosen = pieces[:: max(1, len(pieces) // n)][:n]
    return np.array([[BOS, *piece] for piece in chosen], np.int32)


def stored_and_read(k: np.ndarray, v: np.ndarray, kv_type: str) -> tuple[np.ndarray, np.ndarray]:
    """bf16 [tokens, D] of one head, a full tile, as attention would see it when stored."""
    tokens, head_dim = k.shape
    tile = np.zeros(_engine.head_tile_bytes("bf16", head_dim, tokens), np.uint8)
    tile = _engine.pack_head("bf16", tokens, k.view(np.uint16), v.view(np.uint16), 0, tile)
    tile = _engine.convert_head("bf16", kv_type, head_dim, tokens, tile)
    tile = _engine.convert_head(kv_type, "f32", head_dim, tokens, tile)
    return _engine.unpack_head("f32", head_dim, tokens, tile, 0, tokens)


def store_tile(cache, begin: int, end: int, kv_type: str):
    """The cache with its tokens [begin, end) as `kv_type` stores them."""
    k, v = (np.asarray(x[:, begin:end]) for x in (cache.k, cache.v))
    new_k, new_v = np.empty_like(k, np.float32), np.empty_like(v, np.float32)
    for row, head in np.ndindex(k.shape[0], k.shape[2]):
        pair = (np.ascontiguousarray(x[row, :, head], ml_dtypes.bfloat16) for x in (k, v))
        new_k[row, :, head], new_v[row, :, head] = stored_and_read(*pair, kv_type)
    return dataclasses.replace(
        cache, k=cache.k.at[:, begin:end].set(new_k), v=cache.v.at[:, begin:end].set(new_v)
    )


def bits_per_byte(decoder: Decoder, windows: np.ndarray, kv_type: str, tile_tokens: int) -> float:
    graph, state = nnx.split(decoder)

    @jax.jit
    def step(state, tokens, targets, caches):
        model = nnx.merge(graph, state)
        hidden, caches = model(tokens, caches)
        log_p = jax.nn.log_softmax(model.logits(hidden))
        return -jnp.take_along_axis(log_p, targets[..., None], -1).sum(), caches

    # float32: what is read back from int8 and int4 is no bf16
    caches: Sequence = decoder.init_caches(len(windows), CONTEXT, jnp.float32)
    nats = 0.0
    for begin in range(0, CONTEXT - tile_tokens, tile_tokens):
        end = begin + tile_tokens
        loss, caches = step(state, windows[:, begin:end], windows[:, begin + 1 : end + 1], caches)
        nats += float(loss)
        if kv_type != "bf16":
            caches = [store_tile(cache, begin, end, kv_type) for cache in caches]
    return nats / np.log(2) / (len(windows) * (CONTEXT - tile_tokens))


def bytes_ratio(kv_type: str, head_dim: int, tile_tokens: int) -> float:
    stored = _engine.head_tile_bytes(kv_type, head_dim, tile_tokens)
    return _engine.head_tile_bytes("bf16", head_dim, tile_tokens) / stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--windows", default=8, type=int, help="of 4096 bytes (default %(default)s)"
    )
    parser.add_argument("--tile-tokens", default=64, type=int, help="default %(default)s")
    args = parser.parse_args()
    windows = held_out_windows(args.windows)
    decoder = load_decoder(EXAMPLES / "tiny-python-llama")
    print("| KV | bits per byte | lost | fewer bytes than bf16: head_dim 32 | 64 | 128 |")
    print("|---|---|---|---|---|---|")
    exact = None
    for kv_type in ("bf16", "int8", "int4"):
        bits = bits_per_byte(decoder, windows, kv_type, args.tile_tokens)
        exact = exact or bits
        ratios = [f"{bytes_ratio(kv_type, d, args.tile_tokens):.2f}x" for d in (32, 64, 128)]
        lost = f"{100 * (bits / exact - 1):+.2f} %"
        print(f"| {kv_type} | {bits:.4f} | {lost} | {' | '.join(ratios)} |", flush=True)


if __name__ == "__main__":
    main()
