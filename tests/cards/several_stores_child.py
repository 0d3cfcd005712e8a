"""Run on two emulated cards: stores of one process that come and go, two of them on one card.

    python several_stores_child.py

Ends well if each attends as it should whatever the others do, and without closing the last ones.
"""

import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from engine_oracle import PlainCache, fill, int32, normal

from nspjax import _engine

ROWS, TOKENS, HEAD_DIM = 2, 500, 64


def filled(spec):
    store = _engine.Store([spec], 32 << 20, pinned_bytes=0)
    cache = store.create_caches(1, ROWS, TOKENS, 1, HEAD_DIM, "f32", 0, "")[0]
    plain = PlainCache.empty(ROWS, TOKENS, 1, HEAD_DIM, "f32")
    k, v = (normal(np.random.default_rng(0), (ROWS, TOKENS, 1, HEAD_DIM)) for _ in "kv")
    plain.append(k, v, range(ROWS), [0] * ROWS, [TOKENS] * ROWS)
    return store, cache, fill(store, cache, k, v, [TOKENS] * ROWS), plain


def check(*stores):
    for store, cache, version, plain in stores:
        q = normal(np.random.default_rng(1), (ROWS, 1, 2, HEAD_DIM))
        where = [TOKENS - 1] * ROWS, plain.lengths
        got = store.attend(cache, version, q, int32(range(ROWS)), *map(int32, where), scale=0.1)
        for ours, exact in zip(got, plain.attend(q, range(ROWS), *where, 0.1), strict=True):
            np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-5)


def main():
    elsewhere = Path(os.environ["NSPJAX_XRT_PATH"].replace("{card}", "0"), "elsewhere")
    elsewhere.mkdir()
    first = filled("xrt:0")
    check(first)
    second = filled(f"xrt:0?path={elsewhere}")
    check(first, second)
    other = filled("xrt:1")
    check(first, second, other)
    assert _engine.card_info(_engine.expand_cards(["xrt:0"])[0])["compute_units"] == 1
    check(first, second, other)
    first[0].close()
    check(second, other)
    check(filled("xrt:0"), second, other)


if __name__ == "__main__":
    main()
