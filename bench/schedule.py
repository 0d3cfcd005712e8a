"""The presets on simulated devices behind one link: what each pass of HILOS's gains, and where.

Decode of a small decoder with random weights on the real engine, after a real prefill, with
multi-head (MHA) and grouped-query attention (GQA). Each device is memory that gives its KV no
faster than --device-read and takes writes no faster than --device-write; all share a link of --link
to the compute device, which is this machine's CPU.

    python bench/schedule.py
    python bench/schedule.py --devices 1,4 --context 256 --rounds 2 --plot /tmp/s.svg  # does it run
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from pathlib import Path
from statistics import median

from device_plot import by_devices, gb_per_second, save
from matplotlib.figure import Figure
from model_decode import Steps, Weights, make_decode, random_weights
from report import Table, bench_parser, publish
from turns import in_turn, median_ratio, spread

from nspjax import RateLimit, Store
from nspjax.compiler import Pipeline
from nspjax.compiler.driver.python_module import import_all
from nspjax.models import ModelConfig

PRESETS = ("baseline", "ans", "ans+writeback", "hilos", "auto")
KV_HEADS = {"MHA": 8, "GQA": 2}
WARM_UPS = 1


@dataclasses.dataclass(frozen=True)
class Arm:
    """One pipeline on one number of devices."""

    attention: str
    n_devices: int
    pipeline: str


def main() -> None:
    parser = bench_parser(__doc__, store=False)
    parser.add_argument("--devices", default="1,4,16", help="default %(default)s")
    parser.add_argument("--device-read", default="0.25GB/s", help="default %(default)s")
    parser.add_argument("--device-write", default="0.15GB/s", help="default %(default)s")
    parser.add_argument("--link", default="1GB/s", help="default %(default)s")
    parser.add_argument("--pipelines", default=";".join((*PRESETS, f"{HALF_X}")))
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE|FILE.py",
        help="run this first, for the passes that it registers; may be given again",
    )
    parser.add_argument("--batch", default=16, type=int, help="rows (default %(default)s)")
    parser.add_argument("--context", default=1000, type=int, help="tokens (default %(default)s)")
    parser.add_argument("--layers", default=4, type=int, help="default %(default)s")
    parser.add_argument("--steps", default=2, type=int, help="a round (default %(default)s)")
    parser.add_argument("--host-memory", default="1GiB", help="default %(default)s")
    parser.add_argument("--plot", type=Path, default=Path(__file__).parent / "plots/schedule.svg")
    args = parser.parse_args()
    import_all(args.imports)
    for pipeline in args.pipelines.split(";"):
        Pipeline.parse(pipeline)  # a mistake is told before minutes are spent
    counts = [int(count) for count in args.devices.split(",")]
    pipelines = args.pipelines.split(";")

    measured: dict[Arm, list[Steps]] = {}
    for attention in KV_HEADS:
        weights = random_weights(config_of(attention, args))
        for count in counts:
            measured |= measure(attention, count, pipelines, weights, args)
    tables = [
        table(attention, count, pipelines, measured, args)
        for attention in KV_HEADS
        for count in counts
    ]
    publish(args, tables, {str(arm): steps for arm, steps in measured.items()})
    plot(args, counts, pipelines, measured)


HALF_X = "offload-kv,x-cache{fraction=0.5},split-attention,delay-writeback,prefetch,lower-to-ffi"
"""`hilos` with the paper's share of X, whatever is worth it here."""


def config_of(attention: str, args: argparse.Namespace) -> ModelConfig:
    return ModelConfig.llama(
        vocab_size=1024,
        hidden_size=512,
        intermediate_size=1024,
        n_layers=args.layers,
        n_heads=8,
        n_kv_heads=KV_HEADS[attention],
        max_position_tokens=2 * args.context + 4096,
    )


def measure(
    attention: str,
    n_devices: int,
    pipelines: list[str],
    weights: Weights,
    args: argparse.Namespace,
) -> dict[Arm, list[Steps]]:
    """The rounds of each pipeline, in turn."""
    limit = RateLimit(device_read=args.device_read, device_write=args.device_write, link=args.link)
    with contextlib.ExitStack() as stores:
        arms = {}
        for pipeline in pipelines:
            store = stores.enter_context(
                Store(
                    *["memory:"] * n_devices,
                    host_memory=args.host_memory,
                    pinned="0",
                    rate_limit=limit,
                )
            )
            decode = make_decode(
                weights,
                store,
                batch=args.batch,
                context_tokens=args.context,
                most_steps=(args.rounds + WARM_UPS) * (args.steps + 1),
                pipeline=pipeline,
                synthetic=False,
                interval_tokens=16,
            )
            arms[Arm(attention, n_devices, pipeline)] = lambda decode=decode: decode(args.steps)
        return in_turn(arms, args.rounds, WARM_UPS)


def table(
    attention: str,
    n_devices: int,
    pipelines: list[str],
    measured: dict[Arm, list[Steps]],
    args: argparse.Namespace,
) -> Table:
    read, write = gb_per_second(args.device_read), gb_per_second(args.device_write)
    baseline = rates(measured[Arm(attention, n_devices, pipelines[0])])
    rows = []
    for pipeline in pipelines:
        steps = measured[Arm(attention, n_devices, pipeline)]
        busy = [
            (each.bytes_read / read + each.bytes_written / write) / 1e9 / n_devices / each.seconds
            for each in steps
        ]
        rows.append(
            (
                label(pipeline),
                spread(rates(steps), 1),
                f"{median_ratio(rates(steps), baseline):.2f}×",
                f"{median(each.link_bytes / each.n_steps for each in steps) / 1e6:.1f}",
                f"{median(each.bytes_read / each.n_steps for each in steps) / 1e6:.1f}",
                f"{median(each.bytes_written / each.n_steps for each in steps) / 1e6:.2f}",
                f"{max(0.0, 1 - median(busy)):.0%}",
            )
        )
    return Table(
        (
            f"{attention}, {n_devices} device{'s' if n_devices > 1 else ''}",
            "tokens/s",
            "of baseline",
            "over the link, MB a step",
            "read, MB a step",
            "written, MB a step",
            "devices idle",
        ),
        rows,
    )


def rates(steps: list[Steps]) -> list[float]:
    return [each.tokens_per_second for each in steps]


def label(pipeline: str) -> str:
    if pipeline == HALF_X:
        return "hilos, X for half of the rows"
    return pipeline if pipeline in PRESETS else str(Pipeline.parse(pipeline))


def plot(
    args: argparse.Namespace,
    counts: list[int],
    pipelines: list[str],
    measured: dict[Arm, list[Steps]],
) -> None:
    """Decode rate by number of devices, a panel for each kind of attention."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, attention in zip(figure.subplots(1, len(KV_HEADS)), KV_HEADS, strict=True):
        for pipeline in pipelines:
            medians = [median(rates(measured[Arm(attention, n, pipeline)])) for n in counts]
            axes.plot(counts, medians, "o-", label=label(pipeline))
        axes.set_title(f"{attention}, {args.batch} rows of {args.context} tokens")
        by_devices(
            axes,
            counts,
            x=f"devices of {args.device_read} behind a link of {args.link}",
            y="decode, tokens/s",
        )
        axes.legend(fontsize="small")
    save(figure, args.plot)


if __name__ == "__main__":
    main()
