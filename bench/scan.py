"""The raw scan: attention over KV in a file, against fio reading a file of the same size.

KV is synthetic, batch rows of bfloat16 in Llama 3.2 1B's heads; the engine attends one layer after
the other with nothing between, and nothing of the KV stays in host memory (pinned="0"). fio reads
with its best setting of a sweep. Further arms leave out checksums, and tracing.

    python bench/scan.py --store /path/on/nvme                      # 4 GiB, four files of it
    python bench/scan.py --store /path/on/nvme --kv 64MiB --sweep 64MiB --rounds 1   # does it run
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

import fio
from raw_attention import Heads, attend, filled_layers
from report import Table, bench_parser, publish
from turns import in_turn, median_ratio, spread

from nspjax import Store
from nspjax.byte_size import format_bytes, parse_bytes

ARMS = {
    "attend": {},
    "attend, no checksums": {"checksums": False},
    "attend, no trace": {"trace_events": 0},
}


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--kv", default="4GiB", help="KV bytes (default %(default)s)")
    parser.add_argument("--sweep", default="1GiB", help="of fio's sweep (default %(default)s)")
    parser.add_argument("--batch", default=32, type=int, help="rows (default %(default)s)")
    parser.add_argument("--layers", default=8, type=int, help="default %(default)s")
    parser.add_argument("--host-memory", default="1GiB", help="default %(default)s")
    args = parser.parse_args()

    heads = Heads()
    context = parse_bytes(args.kv) // (args.layers * args.batch * heads.kv_token_bytes)
    kv_bytes = context * args.layers * args.batch * heads.kv_token_bytes
    args.store.mkdir(parents=True, exist_ok=True)
    fio_file: Path = args.store / "fio"
    fio.transfer("write", fio_file, parse_bytes(args.sweep), fio.SETTINGS[0], fresh=True)
    rates = fio.sweep("read", fio_file, parse_bytes(args.sweep))
    setting = fio.best(rates)
    # fresh, as the stores' files are
    fio.transfer("write", fio_file, kv_bytes, fio.SETTINGS[0], fresh=True)

    with contextlib.ExitStack() as stores:
        arms = {"fio": lambda: fio.transfer("read", fio_file, kv_bytes, setting).gb_per_second}
        for name, options in ARMS.items():
            directory = args.store / name.replace(", ", "-").replace(" ", "-")
            directory.mkdir(exist_ok=True)
            store = stores.enter_context(
                Store(directory, host_memory=args.host_memory, pinned="0", **options)
            )
            layers = filled_layers(store, args.layers, args.batch, context, heads)
            arms[name] = partial(lambda layers: attend(layers).kv_gb_per_second, layers)
        gb_per_second = in_turn(arms, args.rounds)
    fio_file.unlink()

    print(
        f"{format_bytes(kv_bytes)}: {args.layers} layers × {args.batch} rows × {context} tokens; "
        f"{args.rounds} rounds\n{fio.sweep_text(rates)}\n"
    )
    fio_rates, ours = gb_per_second["fio"], gb_per_second["attend"]
    rows = [
        (
            name if name != "fio" else f"fio, {setting}",
            spread(measured),
            f"{median_ratio(measured, fio_rates):.3f}",
            f"{median_ratio(measured, ours):.3f}",
        )
        for name, measured in gb_per_second.items()
    ]
    table = Table(("", "GB/s, median (range)", "of fio", "of attend"), rows)
    publish(args, [table], {"gb_per_second": gb_per_second, "fio_sweep": fio.sweep_json(rates)})


if __name__ == "__main__":
    main()
