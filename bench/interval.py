"""Tokens between two writebacks of a row: what is written for what is appended, and decode rate.

A decode step appends one token to every row of every layer and attends over all of it, called on
the engine without a model; the prompt is synthetic, in Llama 3.2 1B's heads. A round is `steps`
steps with a flush at its end. What is written is counted over a whole number of intervals: where
the rounds end within one, further steps complete it. None of the KV stays in host memory.

    python bench/interval.py --store /path/on/nvme
    python bench/interval.py --store /path/on/nvme --kv 32MiB --layers 2 --batch 4 --rounds 2
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from functools import partial

from raw_attention import Heads, Layers, decode, filled_layers
from report import Table, bench_parser, publish
from turns import in_turn, median_ratio, spread

from nspjax import Store
from nspjax.byte_size import parse_bytes

WARM_UPS = 1
LONGEST_INTERVAL_TOKENS = 256


@dataclasses.dataclass(frozen=True)
class Round:
    n_steps: int
    seconds: float
    """the flush included"""
    kv_bytes: int

    @property
    def step_ms(self) -> float:
        return self.seconds / self.n_steps * 1e3

    @property
    def kv_gb_per_second(self) -> float:
        return self.kv_bytes / self.seconds / 1e9


@dataclasses.dataclass(frozen=True)
class Writes:
    """Over whole intervals."""

    bytes_written: int
    bytes_appended: int
    padding_bytes: int


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--intervals", default="1,4,16,64,auto", help="default %(default)s")
    parser.add_argument("--kv", default="512MiB", help="KV bytes (default %(default)s)")
    parser.add_argument("--batch", default=16, type=int, help="rows (default %(default)s)")
    parser.add_argument("--layers", default=8, type=int, help="default %(default)s")
    parser.add_argument("--steps", default=64, type=int, help="a round (default %(default)s)")
    parser.add_argument("--host-memory", default="512MiB", help="default %(default)s")
    args = parser.parse_args()

    heads = Heads()
    context = parse_bytes(args.kv) // (args.layers * args.batch * heads.kv_token_bytes)
    n_steps = (args.rounds + WARM_UPS) * args.steps
    with contextlib.ExitStack() as stores:
        arms: dict[str, Layers] = {}
        for name in args.intervals.split(","):
            directory = args.store / f"interval-{name}"
            directory.mkdir(parents=True, exist_ok=True)
            store = stores.enter_context(Store(directory, host_memory=args.host_memory, pinned="0"))
            layers = filled_layers(
                store,
                args.layers,
                args.batch,
                context,
                heads,
                spare_tokens=n_steps + LONGEST_INTERVAL_TOKENS,
                interval_tokens=None if name == "auto" else int(name),
            )
            arms[f"auto: {tile_tokens(layers)}" if name == "auto" else name] = layers
        before = {name: counters(layers) for name, layers in arms.items()}
        rounds = in_turn(
            {name: partial(decode_steps, layers, args.steps) for name, layers in arms.items()},
            args.rounds,
            WARM_UPS,
        )
        writes = {}
        for name, layers in arms.items():
            decode_steps(layers, -n_steps % tile_tokens(layers))
            writes[name] = difference(counters(layers), before[name])

    first = next(iter(rounds.values()))
    rows = [
        (
            interval,
            f"{writes[interval].bytes_written / writes[interval].bytes_appended:.3f}",
            f"{writes[interval].padding_bytes / writes[interval].bytes_appended:.3f}",
            spread([each.step_ms for each in measured], 1),
            spread([each.kv_gb_per_second for each in measured]),
            f"{median_ratio([e.seconds for e in first], [e.seconds for e in measured]):.2f}×",
        )
        for interval, measured in rounds.items()
    ]
    columns = (
        "interval, tokens",
        "written / appended",
        "padding / appended",
        "step, ms",
        "KV attended, GB/s",
        "of the first's rate",
    )
    print(
        f"{args.layers} layers × {args.batch} rows × {context} tokens and {args.steps} steps a "
        f"round, {args.rounds} rounds\n"
    )
    publish(args, [Table(columns, rows)], {"rounds": rounds, "writes": writes})


def decode_steps(layers: Layers, n_steps: int) -> Round:
    begin = time.perf_counter()
    passes = [decode(layers, lead_in=False) for _ in range(n_steps)]
    layers.store.flush()
    return Round(n_steps, time.perf_counter() - begin, sum(each.kv_bytes for each in passes))


def counters(layers: Layers) -> Writes:
    stats = layers.store.stats()
    return Writes(stats.bytes_written, stats.bytes_appended, stats.padding_bytes)


def difference(after: Writes, before: Writes) -> Writes:
    return Writes(
        after.bytes_written - before.bytes_written,
        after.bytes_appended - before.bytes_appended,
        after.padding_bytes - before.padding_bytes,
    )


def tile_tokens(layers: Layers) -> int:
    return layers.store._engine.tile_tokens(layers.cache_ids[0])


if __name__ == "__main__":
    main()
