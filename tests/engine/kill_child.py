"""The process that test_kill_store kills: it works on a store until it dies.

    kill_child.py DIRECTORY PREFIX_DIRECTORY SEED [N_STEPS]

Caches are made, filled, cut, attended over, dropped, and rows saved as PREFIX_DIRECTORY/NUMBER, all
at random. The tokens of a saved row follow from the number, see `saved_tokens`. With N_STEPS it
stops after as many, and waits on its standard input with the store open.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import random
import sys
from pathlib import Path

import numpy as np
from prefix_cases import append, attention, new_caches

import nspjax

MODEL = "kill@1"
N_NAMES = 8
SHAPE = {"batch": 2, "capacity_tokens": 2048, "n_kv_heads": 2, "head_dim": 64}


def saved_tokens(number: int, variant: int) -> tuple[int, int]:
    """The length and the seed of what is saved as `number`; saves again are other variants."""
    return 100 + (number * 211 + variant * 97) % 1500, number + N_NAMES * variant


def saved_caches(store, number: int, variant: int):
    """Caches whose row 1 has what is saved."""
    n_tokens, seed = saved_tokens(number, variant)
    rng = np.random.default_rng(seed)
    return [append(store, c, 1, n_tokens, rng) for c in new_caches(store, 2, **SHAPE)]


def work(store, prefixes: Path, choose: random.Random) -> None:
    number, variant = choose.randrange(N_NAMES), choose.randrange(3)
    caches = saved_caches(store, number, variant)
    rng = np.random.default_rng(0)
    for _ in range(3):
        n_tokens = choose.randrange(1, 1000)
        caches = [append(store, cache, 0, n_tokens, rng) for cache in caches]
        start = choose.randrange(n_tokens)
        caches = [append(store, cache, 0, 50, rng, start) for cache in caches]
        for cache in caches:
            attention(store, cache, 0)
    store.save_prefix(prefixes / str(number), caches, 1, model=MODEL)
    if choose.random() < 0.5:
        caches, _ = store.load_prefix(prefixes / str(number), caches, 0, model=MODEL)
    if choose.random() < 0.3:
        store.flush()
    for cache in caches:
        store.drop(cache)


def main() -> None:
    directory, prefixes, seed = sys.argv[1:4]
    n_steps = int(sys.argv[4]) if len(sys.argv) > 4 else None
    choose = random.Random(int(seed))
    store = nspjax.Store(directory, host_memory="16MiB", pinned="100kB")
    print("open", flush=True)
    step = 0
    while n_steps is None or step < n_steps:
        work(store, Path(prefixes), choose)
        step += 1
        print(step, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
