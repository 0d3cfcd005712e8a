"""KV stored in fewer bits: what it gains in decode rate on a disk, and what it costs in quality.

Rates: attention alone on synthetic KV, and decode of Llama 3.2 1B's shape with random weights; each
dtype has a store of its own on the same disk, and none of the KV stays in host memory. Quality:
held-out bits per byte of examples/tiny-python-llama, whose attention reads the stored KV.

    python bench/kv_dtype.py --store /path/on/nvme
    python bench/kv_dtype.py --store /path/on/nvme --kv 64MiB --host-memory 64MiB --layers 2 \\
        --context 512 --windows 4 --rounds 1                                         # does it run
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax.numpy as jnp
from held_out_bits import held_out_windows, stored_bits_per_byte
from model_decode import Steps, make_decode, random_weights
from raw_attention import Heads, Pass, attend, filled_layers
from report import Table, bench_parser, publish
from shapes import kv_token_bytes, shape_named
from turns import in_turn, median_ratio, spread

from nspjax import Store
from nspjax.byte_size import format_bytes, parse_bytes
from nspjax.models import load_decoder

MODEL = "llama-1b"
EXAMPLE = Path(__file__).parents[1] / "examples" / "tiny-python-llama"
KV_DTYPES: dict[str, dict[str, Any]] = {
    "bf16": {},
    "int8": {"kv_dtype": "int8"},
    "int4": {"kv_dtype": "int4"},
}
QUALITY: dict[str, dict[str, Any]] = {
    "f32": {"dtype": jnp.float32},
    **{name: {"dtype": jnp.bfloat16, **options} for name, options in KV_DTYPES.items()},
}
WARM_UPS = 1


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--kv", default="4GiB", help="KV as bfloat16 (default %(default)s)")
    parser.add_argument("--host-memory", default="1GiB", help="default %(default)s")
    parser.add_argument("--batch", default=32, type=int, help="rows (default %(default)s)")
    parser.add_argument("--layers", default=16, type=int, help="default %(default)s")
    parser.add_argument("--context", default=4096, type=int, help="of the quality windows")
    parser.add_argument("--chunk", default=32, type=int, help="tokens (default %(default)s)")
    parser.add_argument("--windows", type=int, help="only so many of the held-out text")
    args = parser.parse_args()
    args.store.mkdir(parents=True, exist_ok=True)

    raw = in_turn_on_stores(args, raw_arm)
    whole = in_turn_on_stores(args, model_arm)
    quality = {name: bits(args, options) for name, options in QUALITY.items()}
    tables = [rate_table(raw, whole), quality_table(quality)]
    print(
        f"{args.kv} of KV as bf16, {args.layers} layers × {args.batch} rows, {args.rounds} rounds; "
        f"quality: windows of {args.context} bytes in chunks of {args.chunk}\n"
    )
    publish(args, tables, {"raw": raw, "whole": whole, "bits_per_byte": quality})


# ---- rates --------------------------------------------------------------------------------------


def in_turn_on_stores(
    args: argparse.Namespace, make_arm: Callable[..., Callable[[], Any]]
) -> dict[str, list[Any]]:
    """Rounds of an arm for each dtype, each with a store of its own."""
    with contextlib.ExitStack() as stores:
        arms = {}
        for name, options in KV_DTYPES.items():
            directory = args.store / name
            directory.mkdir(exist_ok=True)
            store = stores.enter_context(Store(directory, host_memory=args.host_memory, pinned="0"))
            arms[name] = make_arm(args, store, options)
        return in_turn(arms, args.rounds, WARM_UPS)


def raw_arm(args: argparse.Namespace, store: Store, options: dict[str, Any]) -> Callable[[], Pass]:
    heads = Heads()
    context = parse_bytes(args.kv) // (args.layers * args.batch * heads.kv_token_bytes)
    return partial(attend, filled_layers(store, args.layers, args.batch, context, heads, **options))


def model_arm(
    args: argparse.Namespace, store: Store, options: dict[str, Any]
) -> Callable[[], Steps]:
    most_steps = args.rounds + WARM_UPS
    token_bytes = kv_token_bytes(shape_named(MODEL, 1, args.layers))
    context = parse_bytes(args.kv) // (args.batch * token_bytes)
    weights = random_weights(shape_named(MODEL, context + 2 * most_steps, args.layers))
    decode = make_decode(
        weights,
        store,
        batch=args.batch,
        context_tokens=context,
        most_steps=most_steps,
        **options,
    )
    return partial(decode, 1)


def rate_table(raw: dict[str, list[Pass]], whole: dict[str, list[Steps]]) -> Table:
    rows = []
    for name in KV_DTYPES:
        passes, steps = raw[name], whole[name]
        rows.append(
            (
                name,
                format_bytes(passes[0].bytes_read),
                spread([each.read_gb_per_second for each in passes]),
                spread([each.seconds for each in passes], 3),
                faster(passes, raw["bf16"]),
                spread([each.seconds for each in steps], 3),
                f"{median(each.tokens_per_second for each in steps):.1f}",
                faster(steps, whole["bf16"]),
            )
        )
    columns = (
        "KV",
        "read a pass",
        "attention alone: read, GB/s",
        "a pass, s",
        "of bf16's rate",
        "model: a step, s",
        "tokens/s",
        "of bf16's rate",
    )
    return Table(columns, rows)


def faster(these: list[Any], base: list[Any]) -> str:
    return f"{median_ratio([each.seconds for each in base], [each.seconds for each in these]):.2f}×"


# ---- quality ------------------------------------------------------------------------------------


def bits(args: argparse.Namespace, options: dict[str, Any]) -> float:
    windows = held_out_windows(args.context)
    if args.windows is not None:
        windows = windows[:: max(1, len(windows) // args.windows)][: args.windows]
    directory = args.store / "quality"
    directory.mkdir(exist_ok=True)
    model = load_decoder(EXAMPLE, dtype="float32")
    with Store(directory, host_memory=args.host_memory) as store:
        return stored_bits_per_byte(model, store, windows, args.chunk, **options)


def quality_table(bits_per_byte: dict[str, float]) -> Table:
    base = bits_per_byte["f32"]
    rows = [
        (name, f"{value:.4f}", f"{(value / base - 1) * 100:+.3f}%")
        for name, value in bits_per_byte.items()
    ]
    return Table(("KV", "held-out bits per byte", "to f32"), rows)


if __name__ == "__main__":
    main()
