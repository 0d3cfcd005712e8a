"""Decode of whole models whose KV is at least twice host memory, against fio reading the same disk.

Random bfloat16 weights of two shapes; the prompt's KV is synthetic, decode is real. None of the KV
stays in host memory (pinned="0"), so that every step reads all of it: KV bytes read per second of
the whole step, the model's own work included. fio reads the store's own file, with its best setting
of a sweep.

    python bench/end_to_end.py --store /path/on/nvme
    python bench/end_to_end.py --store /path/on/nvme --kv 64MiB --host-memory 32MiB --layers 2 \\
        --fio 64MiB --rounds 1                                                       # does it run
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from typing import Any

import fio
from model_decode import Steps, make_decode, random_weights
from report import Table, bench_parser, publish
from shapes import SHAPES, kv_token_bytes, shape_named
from turns import in_turn, median_ratio, spread

from nspjax import Store
from nspjax.byte_size import format_bytes, parse_bytes

WARM_UPS = 1


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--models", default=",".join(SHAPES), help="default %(default)s")
    parser.add_argument("--kv", default="8GiB", help="KV bytes (default %(default)s)")
    parser.add_argument("--host-memory", default="1GiB", help="default %(default)s")
    parser.add_argument("--batch", default=32, type=int, help="rows (default %(default)s)")
    parser.add_argument("--steps", default=2, type=int, help="a round (default %(default)s)")
    parser.add_argument("--fio", default="4GiB", help="bytes fio reads (default %(default)s)")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    args = parser.parse_args()
    if parse_bytes(args.kv) < 2 * parse_bytes(args.host_memory):
        parser.error("--kv must be at least twice --host-memory")

    args.store.mkdir(parents=True, exist_ok=True)
    print(f"{args.rounds} rounds of {args.steps} steps\n")
    rows, rounds = [], {}
    for name in args.models.split(","):
        measured = measure(name, args)
        rounds[name] = measured
        rows.append(row(name, args, measured))
    columns = (
        "model",
        "KV",
        "host memory",
        "step, s",
        "tokens/s",
        "KV read, GB/s",
        "fio, GB/s",
        "of fio",
        "attention's part of the step",
    )
    publish(args, [Table(columns, rows)], {"models": rounds})


def measure(name: str, args: argparse.Namespace) -> dict[str, list[Any]]:
    most_steps = (args.rounds + WARM_UPS) * args.steps
    config = shape_named(name, 1, args.layers)
    context = parse_bytes(args.kv) // (args.batch * kv_token_bytes(config))
    weights = random_weights(shape_named(name, context + 2 * most_steps, args.layers))
    with Store(args.store, host_memory=args.host_memory, pinned="0") as store:
        decode = make_decode(
            weights, store, batch=args.batch, context_tokens=context, most_steps=most_steps
        )
        file = Path(store.devices()[0].path)
        rates = fio.sweep("read", file, parse_bytes(args.fio) // 4)
        print(f"{name}: {fio.sweep_text(rates)}\n")
        setting = fio.best(rates)
        return in_turn(
            {
                "fio": lambda: fio.transfer(
                    "read", file, parse_bytes(args.fio), setting, loops=args.steps + 1
                ),
                name: lambda: decode(args.steps),
            },
            args.rounds,
            WARM_UPS,
        )


def row(name: str, args: argparse.Namespace, measured: dict[str, list[Any]]) -> tuple[str, ...]:
    steps: list[Steps] = measured[name]
    read = [each.read_gb_per_second for each in steps]
    fio_rates = [each.gb_per_second for each in measured["fio"]]
    return (
        name,
        format_bytes(steps[0].kv_bytes / steps[0].n_steps),
        args.host_memory,
        spread([each.step_seconds for each in steps]),
        f"{median(each.tokens_per_second for each in steps):.1f}",
        spread(read),
        spread(fio_rates),
        f"{median_ratio(read, fio_rates):.3f}",
        f"{median(each.attend_seconds / each.seconds for each in steps):.2f}",
    )


if __name__ == "__main__":
    main()
