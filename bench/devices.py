"""Rate-limited devices: how decode scales with their number, and where near storage pays.

Each device is memory that gives its KV no faster than --device-read, a simulated drive; a decode
step is an append and an attention in every layer, called on the engine without a model, synthetic
prompt. Then with a link of --link between the devices and the model's memory: near storage, which
sends queries and outputs over it, against the baseline that hauls the KV over it and attends there.

    python bench/devices.py
    python bench/devices.py --kv 64MiB --rounds 2 --plot /tmp/devices.svg             # does it run
"""

from __future__ import annotations

import argparse
import contextlib
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from device_plot import by_devices, gb_per_second, save
from matplotlib.figure import Figure
from raw_attention import Heads, decode, filled_layers
from report import Table, bench_parser, publish
from turns import in_turn, median_ratio, spread

from nspjax import RateLimit, Store
from nspjax.byte_size import parse_bytes

WARM_UPS = 1
Rates = dict[int, list[float]]  # number of devices -> KV GB/s of each round


def main() -> None:
    parser = bench_parser(__doc__, store=False)
    parser.add_argument("--devices", default="1,2,4,8", help="default %(default)s")
    parser.add_argument("--device-read", default="0.5GB/s", help="default %(default)s")
    parser.add_argument("--link", default="1GB/s", help="default %(default)s")
    parser.add_argument("--kv", default="512MiB", help="of each store (default %(default)s)")
    parser.add_argument("--batch", default=16, type=int, help="rows (default %(default)s)")
    parser.add_argument("--layers", default=4, type=int, help="default %(default)s")
    parser.add_argument("--host-memory", default="1GiB", help="default %(default)s")
    parser.add_argument("--plot", type=Path, default=Path(__file__).parent / "plots/devices.svg")
    args = parser.parse_args()

    counts = [int(count) for count in args.devices.split(",")]
    free = decode_rates(counts, args, {"": {}})[""]
    capped = decode_rates(
        counts,
        args,
        {"near": {"link": args.link}, "haul": {"link": args.link, "kv_over_link": True}},
    )
    publish(
        args,
        [scaling_table(free), link_table(capped["near"], capped["haul"])],
        {"no link cap": free, **capped},
    )
    plot(args, capped["near"], capped["haul"])


def decode_rates(
    counts: list[int], args: argparse.Namespace, limits: dict[str, dict[str, Any]]
) -> dict[str, Rates]:
    """KV GB/s of a decode step for each limit and number of devices, all in turn."""
    heads = Heads()
    context = parse_bytes(args.kv) // (args.layers * args.batch * heads.kv_token_bytes)
    with contextlib.ExitStack() as stores:
        arms = {}
        for count in counts:
            for name, limit in limits.items():
                store = stores.enter_context(
                    Store(
                        *["memory:"] * count,
                        host_memory=args.host_memory,
                        pinned="0",
                        rate_limit=RateLimit(device_read=args.device_read, **limit),
                    )
                )
                spare = 2 * (args.rounds + WARM_UPS)  # a lead-in before each
                layers = filled_layers(store, args.layers, args.batch, context, heads, spare)
                arms[f"{name} {count}"] = partial(
                    lambda layers: decode(layers).kv_gb_per_second, layers
                )
        measured = in_turn(arms, args.rounds, WARM_UPS)
    return {name: {count: measured[f"{name} {count}"] for count in counts} for name in limits}


def scaling_table(rates: Rates) -> Table:
    first = min(rates)
    rows = [
        (
            str(count),
            spread(rate, 3),
            f"{median_ratio(rate, rates[first]):.2f}×",
            f"{median_ratio(rate, rates[first]) * first / count:.3f}",
        )
        for count, rate in rates.items()
    ]
    return Table(("devices", "KV, GB/s", f"of {first}", "of linear"), rows)


def link_table(near: Rates, haul: Rates) -> Table:
    rows = [
        (
            str(count),
            spread(near[count], 3),
            spread(haul[count], 3),
            f"{median_ratio(near[count], haul[count]):.2f}×",
        )
        for count in near
    ]
    return Table(("devices", "near storage, GB/s", "KV over the link, GB/s", "near/over"), rows)


def plot(args: argparse.Namespace, near: Rates, haul: Rates) -> None:
    """KV rate by number of devices; the two part where the devices outrun the link."""
    counts = list(near)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    device_gb = gb_per_second(args.device_read)
    axes.plot(
        counts,
        [device_gb * count for count in counts],
        ":",
        color="gray",
        label="all devices",
    )
    axes.axhline(gb_per_second(args.link), ls="--", color="gray", label=f"link, {args.link}")
    for label, rates, mark in (("near storage", near, "o-"), ("KV over the link", haul, "s-")):
        axes.plot(counts, [median(rates[count]) for count in counts], mark, label=label)
    by_devices(
        axes, counts, x=f"devices of {args.device_read} each", y="KV attended in decode, GB/s"
    )
    axes.legend()
    save(figure, args.plot)


if __name__ == "__main__":
    main()
