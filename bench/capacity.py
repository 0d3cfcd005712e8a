"""Decode over more KV than host memory may hold: does it run, and in how much memory?

The prompt's KV is synthetic: pseudo-random tiles written by the engine (`fill_synthetic`), since a
real prefill of a quarter million tokens would take hours here and moves the same bytes. Decode is
real: every layer's attention reads every tile.

    python bench/capacity.py --store /path/on/nvme            # 8 GB of KV, host_memory 512 MiB
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from process_memory import peak_rss_bytes

from nspjax import Store, near_storage
from nspjax.byte_size import format_bytes, parse_bytes
from nspjax.models import ModelConfig, random_decoder

ROWS = 32
SHAPE: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "n_layers": 16,
    "n_heads": 16,
    "n_kv_heads": 8,
    "head_dim": 64,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", required=True, type=Path, help="a directory on the disk")
    parser.add_argument("--kv", default="8GB", help="KV bytes in all (default %(default)s)")
    parser.add_argument("--host-memory", default="512MiB", help="default %(default)s")
    parser.add_argument("--steps", default=3, type=int, help="decode steps (default %(default)s)")
    args = parser.parse_args()

    token_bytes = SHAPE["n_layers"] * SHAPE["n_kv_heads"] * SHAPE["head_dim"] * 2 * 2
    context = -(-parse_bytes(args.kv) // (token_bytes * ROWS))
    config = ModelConfig(**SHAPE, max_position_tokens=context + args.steps)
    graph, state = nnx.split(random_decoder(config, seed=0, dtype=jnp.bfloat16))
    weights_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    args.store.mkdir(parents=True, exist_ok=True)
    with Store(args.store, host_memory=args.host_memory) as store:
        caches = store.kv_caches(
            SHAPE["n_layers"],
            batch=ROWS,
            capacity_tokens=context + args.steps,
            n_kv_heads=SHAPE["n_kv_heads"],
            head_dim=SHAPE["head_dim"],
        )
        begin = time.perf_counter()
        caches = [store.fill_synthetic(cache, context) for cache in caches]
        store.flush()
        fill_s = time.perf_counter() - begin

        def step(state, tokens, caches):
            hidden, caches = nnx.merge(graph, state)(tokens, caches)
            return jnp.argmax(nnx.merge(graph, state).logits(hidden), -1).astype(jnp.int32), caches

        near = near_storage(step, store=store)
        tokens = jnp.zeros((ROWS, 1), jnp.int32)
        before, seconds = store.stats(), []
        for _ in range(args.steps):
            begin = time.perf_counter()
            tokens, caches = near(state, tokens, caches)
            seconds.append(time.perf_counter() - begin)
        after = store.stats()

    median_s = sorted(seconds)[len(seconds) // 2]
    read = after.bytes_read - before.bytes_read
    print("| KV on storage | host_memory | weights | peak RSS | fill | decode step | read |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {format_bytes(after.kv_bytes_stored)} | {args.host_memory} "
        f"| {format_bytes(weights_bytes)} | {format_bytes(peak_rss_bytes())} "
        f"| {before.bytes_written / fill_s / 1e9:.2f} GB/s | {median_s:.2f} s "
        f"| {read / sum(seconds) / 1e9:.2f} GB/s |"
    )


if __name__ == "__main__":
    main()
