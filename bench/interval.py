"""Tokens between two writebacks of a row: what is written for what is appended, and decode rate.

A decode step appends one token to every row of every layer and attends over all of it, called on
the engine without a model; the prompt is synthetic, in Llama 3.2 1B's heads. A round is `steps`
steps with a flush at its end, so many that the longest interval writes each row at least once.
None of the KV stays in host memory.

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
COUNTERS = ("bytes_written", "bytes_appended", "padding_bytes")


@dataclasses.dataclass(frozen=True)
class Round:
    n_steps: int
    seconds: float
    """the flush included"""
    kv_bytes: int
    bytes_written: int
    bytes_appended: int
    padding_bytes: int

    @property
    def kv_gb_per_second(self) -> float:
        return self.kv_bytes / self.seconds / 1e9


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
    spare = (args.rounds + WARM_UPS) * args.steps
    with contextlib.ExitStack() as stores:
        arms = {}
        for name in args.intervals.split(","):
            directory = args.store / f"interval-{name}"
            directory.mkdir(parents=True, exist_ok=True)
            store = stores.enter_context(Store(directory, host_memory=args.host_memory, pinned="0"))
            interval_tokens = None if name == "auto" else int(name)
            layers = filled_layers(
                store,
                args.layers,
                args.batch,
                context,
                heads,
                spare_tokens=spare,
                interval_tokens=interval_tokens,
            )
            engine = store._engine
            tile_tokens = engine.tile_tokens(layers.cache_ids[0])
            label = f"auto: {tile_tokens}" if name == "auto" else str(tile_tokens)
            arms[label] = partial(decode_steps, layers, args.steps)
        rounds = in_turn(arms, args.rounds, WARM_UPS)

    first = next(iter(rounds.values()))
    rows = [
        (
            interval,
            f"{amplification(measured):.3f}",
            f"{sum_of(measured, 'padding_bytes') / sum_of(measured, 'bytes_appended'):.3f}",
            spread([each.seconds / each.n_steps * 1e3 for each in measured], 1),
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
    publish(args, [Table(columns, rows)], rounds)


def decode_steps(layers: Layers, n_steps: int) -> Round:
    stats = layers.store.stats
    before, begin = stats(), time.perf_counter()
    passes = [decode(layers) for _ in range(n_steps)]
    layers.store.flush()
    seconds, after = time.perf_counter() - begin, stats()
    deltas = {name: getattr(after, name) - getattr(before, name) for name in COUNTERS}
    return Round(n_steps, seconds, sum(each.kv_bytes for each in passes), **deltas)


def amplification(rounds: list[Round]) -> float:
    """Over all rounds together, as an interval may end in the next round."""
    return sum_of(rounds, "bytes_written") / sum_of(rounds, "bytes_appended")


def sum_of(rounds: list[Round], field: str) -> int:
    return sum(getattr(each, field) for each in rounds)


if __name__ == "__main__":
    main()
