"""Attention over KV in memory against a loop that only reads: how near are the kernels to DRAM?

Each number is the median of interleaved rounds, each with its own read loop before it, so that a
ratio compares neighbours in time. Buffers are larger than the caches, in huge pages.

    python bench/kernel.py                       # all types; minutes
    python bench/kernel.py --type bf16 --pack
"""

from __future__ import annotations

import argparse
from itertools import product
from statistics import median

from nspjax import _engine

TYPES = ["bf16", "f16", "f32", "int8", "int4"]
N_KV_HEADS = 8


def measure_attention(args: argparse.Namespace) -> None:
    size = args.mib << 20
    cases = list(product(args.type, args.head_dim, args.group, args.threads))
    rates: dict[tuple, list[float]] = {case: [] for case in cases}
    shares: dict[tuple, list[float]] = {case: [] for case in cases}
    reads: dict[int, list[float]] = {threads: [] for threads in args.threads}
    for _ in range(args.rounds):
        for case in cases:
            kv_type, head_dim, group, threads = case
            read = _engine.measure_read_bandwidth(size, threads, 3)
            rate = _engine.measure_kernel(
                args.kernel,
                kv_type,
                head_dim,
                N_KV_HEADS,
                group,
                args.tile_tokens,
                size,
                threads,
                3,
            )
            rates[case].append(rate)
            shares[case].append(rate / read)
            reads[threads].append(read)
    for threads, values in reads.items():
        print(
            f"Read loop, {threads} threads: median {median(values):.1f} GB/s,"
            f" from {min(values):.1f} to {max(values):.1f}."
        )
    print()
    print(
        "| type | head_dim | group | threads | GB/s | of the read loop | GB/s per core"
        " | as bf16 GB/s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for case in cases:
        kv_type, head_dim, group, threads = case
        rate = median(rates[case])
        smaller = _engine.head_tile_bytes("bf16", head_dim, args.tile_tokens)
        smaller /= _engine.head_tile_bytes(kv_type, head_dim, args.tile_tokens)
        print(
            f"| {kv_type} | {head_dim} | {group} | {threads} | {rate:.1f}"
            f" | {median(shares[case]):.2f} | {rate / threads:.1f} | {rate * smaller:.1f} |"
        )


def measure_packing(args: argparse.Namespace) -> None:
    print("\n| from | to | head_dim | rows of | GB/s of rows, one thread |\n|---|---|---|---|---|")
    for kv_type, head_dim, size in product(["bf16", "f32"], args.head_dim, [1 << 18, 1 << 28]):
        for to_type in (kv_type, "int8", "int4"):
            rates = [
                _engine.measure_pack(
                    kv_type, to_type, head_dim, N_KV_HEADS, args.tile_tokens, size, 3
                )
                for _ in range(args.rounds)
            ]
            label = f"{size >> 10} KiB"
            print(f"| {kv_type} | {to_type} | {head_dim} | {label} | {median(rates):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernel", default="auto", choices=["auto", *_engine.available_kernels()])
    parser.add_argument("--type", nargs="+", default=TYPES, choices=TYPES)
    parser.add_argument("--head-dim", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--group", nargs="+", type=int, default=[4, 1])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--tile-tokens", type=int, default=64)
    parser.add_argument("--mib", type=int, default=1024, help="of KV (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--pack", action="store_true", help="also how fast tiles are filled")
    args = parser.parse_args()
    print(f"kernel {args.kernel} of {', '.join(_engine.available_kernels())}\n")
    measure_attention(args)
    if args.pack:
        measure_packing(args)


if __name__ == "__main__":
    main()
