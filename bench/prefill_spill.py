"""KV written as prefill does it, in bulk appends, against fio writing as much sequentially.

Random bfloat16 tokens, made once and appended in every chunk: batch rows × chunk tokens to one
layer after the other, then a flush (fdatasync). fio ends with fsync. Each round writes new files
on both sides; the time of making the store and of removing the file does not count.

    python bench/prefill_spill.py --store /path/on/nvme
    python bench/prefill_spill.py --store /path/on/nvme --kv 64MiB --layers 2 --batch 4 --rounds 1
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import fio
import numpy as np
from process_memory import peak_rss_bytes, rss_bytes
from raw_attention import Heads, append, make_layers, random_bits
from report import Table, bench_parser, publish
from turns import in_turn, median_ratio, spread

from nspjax import Store
from nspjax.byte_size import format_bytes, parse_bytes


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--kv", default="4GiB", help="KV bytes (default %(default)s)")
    parser.add_argument("--sweep", default="1GiB", help="of fio's sweep (default %(default)s)")
    parser.add_argument("--batch", default=8, type=int, help="rows (default %(default)s)")
    parser.add_argument("--layers", default=16, type=int, help="default %(default)s")
    parser.add_argument("--chunk", default=512, type=int, help="tokens (default %(default)s)")
    parser.add_argument("--host-memory", default="1GiB", help="default %(default)s")
    args = parser.parse_args()

    heads = Heads()
    chunk_bytes = args.layers * args.batch * args.chunk * heads.kv_token_bytes
    n_chunks = max(1, parse_bytes(args.kv) // chunk_bytes)
    kv_bytes = n_chunks * chunk_bytes
    args.store.mkdir(parents=True, exist_ok=True)
    fio_file, directory = args.store / "fio", args.store / "spill"
    sweep_bytes = min(parse_bytes(args.sweep), kv_bytes)
    rates = fio.sweep("write", fio_file, sweep_bytes)
    setting = fio.best(rates)

    shape = (args.batch, args.chunk, heads.n_kv_heads, heads.head_dim)
    k, v = random_bits(shape, seed=1), random_bits(shape, seed=2)
    rss_before = rss_bytes()

    def fio_round() -> float:
        done = fio.transfer("write", fio_file, kv_bytes, setting, fresh=True)
        fio_file.unlink()
        return done.gb_per_second

    def spill_round() -> float:
        seconds = spill(directory, args, heads, k, v, n_chunks)
        shutil.rmtree(directory)
        return kv_bytes / seconds / 1e9

    gb_per_second = in_turn({"fio": fio_round, "append": spill_round}, args.rounds)

    print(
        f"{format_bytes(kv_bytes)}: {args.layers} layers × {args.batch} rows × "
        f"{n_chunks * args.chunk} tokens, appended {args.chunk} at a time; {args.rounds} rounds\n"
        f"{fio.sweep_text(rates)}\n"
    )
    ours, theirs = gb_per_second["append"], gb_per_second["fio"]
    rows = [
        (
            spread(ours),
            f"{spread(theirs)}, {setting}",
            f"{median_ratio(ours, theirs):.3f}",
            args.host_memory,
            format_bytes(rss_before),
            format_bytes(peak_rss_bytes()),
        )
    ]
    columns = ("append, GB/s", "fio, GB/s", "of fio", "host_memory", "RSS before", "peak RSS")
    publish(
        args,
        [Table(columns, rows)],
        {
            "gb_per_second": gb_per_second,
            "fio_sweep": fio.sweep_json(rates),
            "rss_before_bytes": rss_before,
            "peak_rss_bytes": peak_rss_bytes(),
        },
    )


def spill(
    directory: Path,
    args: argparse.Namespace,
    heads: Heads,
    k: np.ndarray,
    v: np.ndarray,
    n_chunks: int,
) -> float:
    """Seconds to append n_chunks to every layer of a new store and to flush."""
    batch, chunk_tokens = k.shape[:2]
    directory.mkdir()
    with Store(directory, host_memory=args.host_memory, pinned="0") as store:
        layers = make_layers(store, args.layers, batch, n_chunks * chunk_tokens, heads)
        rows = np.arange(batch, dtype=np.int32)
        begin = time.perf_counter()
        for _ in range(n_chunks):
            append(layers, rows, k, v)
        store.flush()
        return time.perf_counter() - begin


if __name__ == "__main__":
    main()
