"""Two commits in turn: what did a change cost?

Each side is a checkout with its .venv and runs in a process of its own; in a round each measures
once, in an order that alternates, and ratios are taken round by round, after one that is thrown
away. Rates are those of before_after_child.py's measures: the more the better.

    python bench/before_after.py --before /path/to/other/checkout --disk /path/on/nvme
    python bench/before_after.py --before /path/to/other/checkout --disk /tmp --measure kernel
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from turns import spread

MEASURES = ["scan", "decode", "spill", "empty", "compile", "kernel"]


class Side:
    """A checkout, and the process that measures it."""

    def __init__(self, checkout: Path, disk: Path) -> None:
        child = Path(__file__).with_name("before_after_child.py")
        disk.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [checkout / ".venv/bin/python", child, checkout, disk],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def rate(self, measure: str, arguments: list[Any], *, again: bool) -> float:
        """What the measure gives; again: of what the last one has set up."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([measure, arguments, again]) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def cases(args: argparse.Namespace) -> Iterator[tuple[str, str, str, list[Any]]]:
    """(name, unit, measure, its arguments) of every row of the table."""
    for measure in args.measure:
        if measure == "kernel":
            for kv_type, head_dim, group in product(args.type, (64, 128), (1, 4)):
                arguments = ["auto", kv_type, head_dim, 8, group, 256, 256 << 20, 2, 3]
                yield f"kernel, {kv_type}, {head_dim}, group {group}", "GB/s", measure, arguments
        elif measure == "empty":
            yield "attend over one token", "calls/s", measure, [256]
        elif measure == "compile":
            yield "compile, 16 layers", "1/s", measure, [16]
        else:
            yield f"{measure} in memory", "GB/s", measure, [args.mib << 19, False]
            yield f"{measure} on disk", "GB/s", measure, [args.mib << 20, True]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", required=True, type=Path, help="the other checkout")
    parser.add_argument("--disk", required=True, type=Path, help="a directory on the disk")
    parser.add_argument("--measure", nargs="+", default=MEASURES, choices=MEASURES)
    parser.add_argument("--type", nargs="+", default=["bf16", "f16", "f32", "int8", "int4"])
    parser.add_argument(
        "--mib", type=int, default=2048, help="of KV, half in memory (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=11, help="default %(default)s")
    args = parser.parse_args()

    sides = {
        "before": Side(args.before, args.disk / "before"),
        "after": Side(Path(__file__).resolve().parents[1], args.disk / "after"),
    }
    print("| what | unit | before | after | after / before |\n|---|---|---|---|---|")
    for name, unit, measure, arguments in cases(args):
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for i in range(args.rounds + 1):
            for side in sides if i % 2 else reversed(sides):
                rate = sides[side].rate(measure, arguments, again=i > 0)
                if i > 0:
                    rates[side].append(rate)
        ratio = median(b / a for a, b in zip(rates["before"], rates["after"], strict=True))
        columns = [name, unit, spread(rates["before"]), spread(rates["after"]), f"{ratio:.3f}"]
        print(f"| {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
