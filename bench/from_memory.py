"""Decode with the KV in memory: ours, llama.cpp and transformers, in turn, on two threads each.

Llama 3.2 1B's shape with random weights of 16 bits; every sequence has a KV of its own, 16 bits as
well. Ours is a store on "memory:" with synthetic KV; llama.cpp's first sequence is prefilled and
copied into the others' own buffers; transformers' StaticCache is filled with random values. Each
peer runs with the fastest of its settings (peer.py), found first. KV GB/s is the KV of the context
over the time of a whole step, the weights' work included.

Only on a quiet machine: llama.cpp's threads wait for each other by spinning, and where others want
the cores as well, its steps take ten times as long. The load average at the start is printed.

    python bench/from_memory.py --peers /work/venv/peers --folder /path/for/gguf
    python bench/from_memory.py --peers /work/venv/peers --folder /tmp/gguf --layers 2 --batch 2 \\
        --context 256 --rounds 2                                                     # does it run
"""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from statistics import median
from typing import Any

from model_decode import make_decode, random_weights
from peer import SETTINGS, Peer, shape_of
from report import Table, bench_parser, publish
from shapes import kv_token_bytes, shape_named
from turns import in_turn, median_ratio, spread

from nspjax import Store
from nspjax.byte_size import format_bytes

MODEL = "llama-1b"
TRIAL_STEPS = 3
WARM_UPS = 1
OURS = "nspjax"


def main() -> None:
    parser = bench_parser(__doc__, store=False)
    parser.add_argument("--peers", required=True, type=Path, help="the peers' environment")
    parser.add_argument("--folder", required=True, type=Path, help="for llama.cpp's weights")
    parser.add_argument("--batch", default=16, type=int, help="rows (default %(default)s)")
    parser.add_argument("--context", default=4096, type=int, help="tokens (default %(default)s)")
    parser.add_argument("--steps", default=3, type=int, help="a round (default %(default)s)")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    parser.add_argument("--host-memory", default="1GiB", help="of ours (default %(default)s)")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    args.folder.mkdir(parents=True, exist_ok=True)

    most_steps = (args.rounds + WARM_UPS) * args.steps + 2 * TRIAL_STEPS
    config = shape_named(MODEL, args.context + 2 * most_steps, args.layers)
    job = {
        "shape": shape_of(config),
        "batch": args.batch,
        "context_tokens": args.context,
        "most_steps": most_steps,
        "threads": os.cpu_count(),
        "folder": str(args.folder),
    }
    with contextlib.ExitStack() as stack:
        peers, trials = fastest_peers(args, job)
        for peer in peers:
            stack.callback(peer.close)
        store = stack.enter_context(Store("memory:", host_memory=args.host_memory))
        decode = make_decode(
            random_weights(config),
            store,
            batch=args.batch,
            context_tokens=args.context,
            most_steps=most_steps,
        )

        def ours() -> float:
            return median(decode(1).seconds for _ in range(args.steps))

        arms = {OURS: ours}
        for peer in peers:
            arms[peer.setting.peer] = lambda peer=peer: peer.step_seconds(args.steps)
        seconds = in_turn(arms, args.rounds, WARM_UPS)
        labels = {peer.setting.peer: f"{peer.version}; {peer.setting.label}" for peer in peers}

    kv_bytes = args.batch * args.context * kv_token_bytes(config)
    print(
        f"{config.n_layers} layers, {args.batch} rows × {args.context} tokens, "
        f"{format_bytes(kv_bytes)} of KV, {args.rounds} rounds of {args.steps} steps; "
        f"load average {load:.1f} at the start\n"
    )
    trial_rows = [(name, f"{value * 1e3:.0f}") for name, value in trials.items()]
    tables = [
        results(seconds, labels, kv_bytes, args.batch),
        Table(("settings tried", "step, ms"), trial_rows),
    ]
    publish(args, tables, {"step_seconds": seconds, "trials": trials, "load": load})


def fastest_peers(
    args: argparse.Namespace, job: dict[str, Any]
) -> tuple[list[Peer], dict[str, float]]:
    """Each peer with its fastest setting, still running; and the step time of all settings."""
    best: dict[str, tuple[float, Peer]] = {}
    trials = {}
    for setting in SETTINGS:
        peer = Peer(args.peers / "bin" / "python", setting, job)
        peer.step_seconds(TRIAL_STEPS)
        seconds = peer.step_seconds(TRIAL_STEPS)
        trials[f"{setting.peer}, {setting.label}"] = seconds
        other = best.get(setting.peer)
        if other is not None:
            (other[1] if seconds < other[0] else peer).close()
        if other is None or seconds < other[0]:
            best[setting.peer] = (seconds, peer)
    return [peer for _, peer in best.values()], trials


def results(
    seconds: dict[str, list[float]], labels: dict[str, str], kv_bytes: int, batch: int
) -> Table:
    rows = [
        (
            f"{name} ({labels[name]})" if name in labels else name,
            spread([each * 1e3 for each in measured], 1),
            f"{batch / median(measured):.1f}",
            f"{kv_bytes / median(measured) / 1e9:.2f}",
            f"{median_ratio(measured, seconds[OURS]):.2f}",
        )
        for name, measured in seconds.items()
    ]
    return Table(("", "step, ms", "tokens/s", "KV, GB/s", "step, of ours"), rows)


if __name__ == "__main__":
    main()
