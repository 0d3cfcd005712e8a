"""Rows that share a prefix: how much a decode step reads, and how fast it is.

Three caches in Llama 3.2 1B's heads, in a store each: one row with the prefix, `rows` rows that
share it, `rows` rows with a prefix of their own each. Attention alone, on random tokens; none of
the KV stays in host memory.

    python bench/shared_prefix.py --store /path/on/nvme
    python bench/shared_prefix.py --store /path/on/nvme --prefix 512 --rows 4 --layers 2 --rounds 2
"""

from __future__ import annotations

import contextlib
from functools import partial
from statistics import median

import jax.numpy as jnp
import numpy as np
from raw_attention import Heads, Layers, Pass, append, attend, filled_layers, random_bits
from report import Table, bench_parser, publish
from turns import in_turn, median_ratio, spread

from nspjax import Store
from nspjax.byte_size import format_bytes

CHUNK_TOKENS = 512


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--prefix", default=16384, type=int, help="tokens (default %(default)s)")
    parser.add_argument("--rows", default=16, type=int, help="default %(default)s")
    parser.add_argument("--layers", default=8, type=int, help="default %(default)s")
    parser.add_argument("--host-memory", default="1GiB", help="default %(default)s")
    args = parser.parse_args()

    heads = Heads()
    arms = {}
    with contextlib.ExitStack() as stores:

        def open_store(name: str) -> Store:
            directory = args.store / name.replace(" ", "-")
            directory.mkdir(parents=True, exist_ok=True)
            return stores.enter_context(Store(directory, host_memory=args.host_memory, pinned="0"))

        fill = partial(filled_layers, n_layers=args.layers, n_tokens=args.prefix, heads=heads)
        arms["one row"] = fill(open_store("one row"), batch=1)
        shared = f"{args.rows} rows, shared"
        arms[shared] = shared_layers(open_store("shared"), args.layers, args.rows, args.prefix)
        arms[f"{args.rows} rows, their own"] = fill(open_store("own"), batch=args.rows)
        passes = in_turn(
            {name: partial(attend, layers) for name, layers in arms.items()}, args.rounds
        )

    one = passes["one row"]
    rows = [
        (
            name,
            format_bytes(measured[0].bytes_read),
            ratio(measured, one, "bytes_read"),
            spread([each.seconds * 1e3 for each in measured], 1),
            ratio(measured, one, "seconds"),
            f"{median(each.read_gb_per_second for each in measured):.2f}",
            f"{median(each.kv_gb_per_second for each in measured):.2f}",
        )
        for name, measured in passes.items()
    ]
    columns = (
        "",
        "read a step",
        "of one row's",
        "step, ms",
        "of one row's",
        "read, GB/s",
        "KV attended, GB/s",
    )
    print(f"prefix of {args.prefix} tokens, {args.layers} layers, {args.rounds} rounds\n")
    publish(args, [Table(columns, rows)], passes)


def shared_layers(store: Store, n_layers: int, batch: int, n_tokens: int) -> Layers:
    """Caches whose row 0 has n_tokens of its own, and all others share them."""
    heads = Heads()
    caches = store.kv_caches(
        n_layers,
        batch=batch,
        capacity_tokens=n_tokens,
        n_kv_heads=heads.n_kv_heads,
        head_dim=heads.head_dim,
        dtype=jnp.bfloat16,
    )
    layers = Layers(store, tuple(int(cache.k[1]) for cache in caches), heads, batch)
    k, v = (random_bits((1, CHUNK_TOKENS, heads.n_kv_heads, heads.head_dim), i) for i in (1, 2))
    for begin in range(0, n_tokens, CHUNK_TOKENS):
        n = min(CHUNK_TOKENS, n_tokens - begin)
        append(layers, np.zeros(1, np.int32), k[:, :n], v[:, :n])
    for cache, cache_id in zip(caches, layers.cache_ids, strict=True):
        lengths = cache.lengths.at[0].set(n_tokens)
        engine = store._engine
        handles = engine.cache_handles(cache_id, engine.version(cache_id))
        filled = cache.with_handles(handles, lengths)
        store.share_prefix(filled, 0, list(range(1, batch)), n_tokens)
    store.flush()
    return layers


def ratio(passes: list[Pass], base: list[Pass], field: str) -> str:
    over, under = ([getattr(each, field) for each in measured] for measured in (passes, base))
    return f"{median_ratio(over, under):.2f}×" if all(under) else "-"


if __name__ == "__main__":
    main()
