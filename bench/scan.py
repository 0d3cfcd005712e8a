"""The raw scan: attention over KV in a file, against fio reading the very same file.

KV is synthetic, batch rows of bfloat16 in Llama 3.2 1B's heads; the engine attends one layer after
the other with nothing between, and nothing of the KV stays in host memory (pinned="0"). fio reads
the store's file, so that both have the same blocks of the same disk, with its best setting of a
sweep. A further arm does not compare checksums. What tracing costs is measured in memory, where
nothing is waited for.

    python bench/scan.py --store /path/on/nvme                      # 4 GiB
    python bench/scan.py --store /path/on/nvme --kv 64MiB --rounds 1                 # does it run
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fio
from raw_attention import Heads, Layers, Pass, attend, filled_layers
from report import Table, bench_parser, publish
from turns import in_turn, median_ratio, spread

from nspjax import Store
from nspjax.byte_size import format_bytes, parse_bytes

PASSES = 3
"""A round reads the file so often on both sides: this disk is faster for the first seconds."""


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--kv", default="4GiB", help="KV bytes (default %(default)s)")
    parser.add_argument("--batch", default=32, type=int, help="rows (default %(default)s)")
    parser.add_argument("--layers", default=8, type=int, help="default %(default)s")
    parser.add_argument("--host-memory", default="1GiB", help="default %(default)s")
    args = parser.parse_args()

    heads = Heads()
    context = parse_bytes(args.kv) // (args.layers * args.batch * heads.kv_token_bytes)
    kv_bytes = context * args.layers * args.batch * heads.kv_token_bytes
    args.store.mkdir(parents=True, exist_ok=True)
    with Store(args.store, host_memory=args.host_memory, pinned="0") as store:
        layers = filled_layers(store, args.layers, args.batch, context, heads)
        file = Path(store.devices()[0].path)
        rates = fio.sweep("read", file, kv_bytes)
        setting = fio.best(rates)
        on_disk = in_turn(
            {
                f"fio, {setting}": lambda: fio.transfer(
                    "read", file, kv_bytes, setting, loops=PASSES
                ),
                "attend": lambda: attend_often(layers),
                "attend, checksums not compared": without(
                    store._engine.verify_reads, lambda: attend_often(layers)
                ),
            },
            args.rounds,
        )
    with Store("memory:") as store:
        layers = filled_layers(store, 2, args.batch, context, heads)
        untraced = without(store._engine.record_events, lambda: attend(layers))
        arms = {
            "attend in memory": lambda: attend(layers),
            "attend in memory, no trace": untraced,
        }
        in_memory = in_turn(arms, 3 * args.rounds)

    print(
        f"{format_bytes(kv_bytes)}: {args.layers} layers × {args.batch} rows × {context} tokens; "
        f"{args.rounds} rounds\n{fio.sweep_text(rates)}\n"
    )
    tables = [table(measured) for measured in (on_disk, in_memory)]
    rounds = {
        name: [rate(each) for each in results] for name, results in (on_disk | in_memory).items()
    }
    publish(args, tables, {"gb_per_second": rounds, "fio_sweep": fio.sweep_json(rates)})


def attend_often(layers: Layers) -> Pass:
    """PASSES passes after a first one, as one measurement."""
    passes = [attend(layers, lead_in=i == 0) for i in range(PASSES)]
    return Pass(
        sum(each.seconds for each in passes),
        sum(each.kv_bytes for each in passes),
        sum(each.bytes_read for each in passes),
    )


def without(switch: Callable[[bool], None], measure: Callable[[], Pass]) -> Callable[[], Pass]:
    """`measure` with something of the store switched off."""

    def measured() -> Pass:
        switch(False)
        try:
            return measure()
        finally:
            switch(True)

    return measured


def rate(result: Pass | fio.Transfer) -> float:
    return result.gb_per_second if isinstance(result, fio.Transfer) else result.kv_gb_per_second


def table(measured: dict[str, list[Any]]) -> Table:
    """Rates, and each round's ratio to the first arm's of the same round."""
    rates = {name: [rate(each) for each in results] for name, results in measured.items()}
    first = next(iter(rates))
    rows = [
        (name, spread(each), f"{median_ratio(each, rates[first]):.3f}")
        for name, each in rates.items()
    ]
    return Table(("", "GB/s, median (range)", f"of {first}"), rows)


if __name__ == "__main__":
    main()
