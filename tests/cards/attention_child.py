"""Run on emulated cards: attention over tiles that the cards hold, against float64.

    python attention_child.py CARDS < cases.json

Prints "CASE worst error" a line. What test_attention_on_cards.py asserts is asserted there.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from engine_oracle import PlainCache, bits, int32, normal

from nspjax import _engine

N_KV_HEADS = 2


def worst_error(store, lengths, head_dim, group, dtype, kv_dtype, n_tokens, window, softcap):
    """Of out and lse, over rows of the lengths."""
    rng = np.random.default_rng(head_dim + group)
    rows, most = len(lengths), max(lengths)
    cache = store.create_caches(1, rows, most, N_KV_HEADS, head_dim, dtype, 0, kv_dtype)[0]
    plain = PlainCache.empty(rows, most, N_KV_HEADS, head_dim, dtype)
    k, v = (normal(rng, (rows, most, N_KV_HEADS, head_dim), dtype) for _ in "kv")
    everyone = int32(range(rows))
    version = store.append(cache, 0, bits(k), bits(v), everyone, int32([0] * rows), int32(lengths))
    if kv_dtype:  # what was stored, codes and all
        for row, length in enumerate(lengths):
            stored = store.read(cache, row, 0, length)
            k[row, :length], v[row, :length] = (part.view(k.dtype) for part in stored)
    plain.append(k, v, everyone, [0] * rows, lengths)
    q = normal(rng, (rows, n_tokens, N_KV_HEADS * group, head_dim))
    scale = head_dim**-0.5
    position = [max(length - n_tokens, 0) for length in lengths]
    got = store.attend(
        cache, version, q, everyone, int32(position), int32(lengths), scale=scale, window=window,
        softcap=softcap,
    )  # fmt: skip
    wanted = plain.attend(q, range(rows), position, lengths, scale, window, softcap)
    store.drop_cache(cache)
    return max(float(np.abs(a - b).max()) for a, b in zip(got, wanted, strict=True))


def main():
    specs = _engine.expand_cards([f"xrt:{sys.argv[1]}"])
    store = _engine.Store(specs, 64 << 20, pinned_bytes=0)
    for case in json.load(sys.stdin):
        name = case.pop("name")
        print(name, worst_error(store, **case), flush=True)
    print("bytes_read", store.stats()["bytes_read"])
    store.close()


if __name__ == "__main__":
    main()
