"""Where delayed writes cost least on a real drive: beside the scans, between them, at a step's end.

Decode of a decoder with little to compute, on files; synthetic prompt, real steps, none of the KV
pinned. A round is a whole number of intervals, so every placement writes as much in it.

    python bench/placement.py --store /path/on/nvme
    python bench/placement.py --store /path/on/nvme --context 128 --batch 4 --rounds 2 --steps 16
"""

from __future__ import annotations

import contextlib
from statistics import median

from model_decode import make_decode, random_weights
from report import Table, bench_parser, publish
from turns import in_turn, median_ratio, spread

from nspjax import Store
from nspjax.compiler.passes.delay_writeback import Placement
from nspjax.models import ModelConfig

WARM_UPS = 1


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--interval", default=16, type=int, help="tokens (default %(default)s)")
    parser.add_argument("--batch", default=16, type=int, help="rows (default %(default)s)")
    parser.add_argument("--context", default=2048, type=int, help="tokens (default %(default)s)")
    parser.add_argument("--layers", default=4, type=int, help="default %(default)s")
    parser.add_argument("--steps", default=32, type=int, help="a round (default %(default)s)")
    parser.add_argument("--host-memory", default="512MiB", help="default %(default)s")
    args = parser.parse_args()
    most_steps = (args.rounds + WARM_UPS) * (args.steps + 1)
    config = ModelConfig.llama(
        vocab_size=1024,
        hidden_size=512,
        intermediate_size=1024,
        n_layers=args.layers,
        n_heads=8,
        n_kv_heads=8,
        max_position_tokens=args.context + 2 * most_steps,
    )
    weights = random_weights(config)
    with contextlib.ExitStack() as stores:
        arms = {}
        for placement in Placement:
            directory = args.store / placement
            directory.mkdir(parents=True, exist_ok=True)
            store = stores.enter_context(Store(directory, host_memory=args.host_memory, pinned="0"))
            decode = make_decode(
                weights,
                store,
                batch=args.batch,
                context_tokens=args.context,
                most_steps=most_steps,
                pipeline="offload-kv,split-attention,"
                f"delay-writeback{{interval={args.interval} placement={placement}}},"
                "prefetch,lower-to-ffi",
                interval_tokens=args.interval,
            )
            arms[str(placement)] = lambda decode=decode: decode(args.steps)
        rounds = in_turn(arms, args.rounds, WARM_UPS)
    first = rounds[Placement.ANYWHERE]
    rows = [
        (
            placement,
            spread([each.step_seconds * 1e3 for each in steps], 1),
            spread([each.read_gb_per_second for each in steps]),
            f"{median(each.bytes_written / each.n_steps for each in steps) / 1e6:.2f}",
            f"{median_ratio([e.seconds for e in first], [e.seconds for e in steps]):.2f}×",
        )
        for placement, steps in rounds.items()
    ]
    columns = ("placement", "step, ms", "KV read, GB/s", "written a step, MB", "of anywhere's rate")
    publish(args, [Table(columns, rows)], rounds)


if __name__ == "__main__":
    main()
