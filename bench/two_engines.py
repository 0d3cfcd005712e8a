"""The kernels of two engines in turn, such as those of two commits: what did a change cost?

Each engine is the one of a Python installation and runs in a process of its own; in a round each
measures once, in an order that alternates, and ratios are taken round by round.

    python bench/two_engines.py --before /path/to/other/.venv/bin/python --rounds 25
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import product
from statistics import median

TYPES = ["bf16", "f16", "f32", "int8", "int4"]
_MEASURE = """
import json, sys
from nspjax import _engine
for line in sys.stdin:
    print(_engine.measure_kernel(*json.loads(line)), flush=True)
"""


class Engine:
    """The engine of a Python installation."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, "-c", _MEASURE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def rate(self, case: list[object]) -> float:
        """GB/s; case: the arguments of `measure_kernel`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", required=True, help="the Python that has the other engine")
    parser.add_argument("--type", nargs="+", default=TYPES, choices=TYPES)
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--mib", type=int, default=256, help="MiB of KV (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="default %(default)s")
    parser.add_argument("--tile-tokens", type=int, default=256, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=25, help="default %(default)s")
    args = parser.parse_args()

    before, after = Engine(args.before), Engine(sys.executable)
    print("| type | head_dim | group | before, GB/s | after, GB/s | after / before |")
    print("|---|---|---|---|---|---|")
    for kv_type, head_dim, group in product(args.type, (64, 128), (1, 4)):
        case = [args.kernel, kv_type, head_dim, 8, group, args.tile_tokens, args.mib << 20]
        case += [args.threads, 3]
        pairs = []
        for i in range(args.rounds):
            first, second = (before, after) if i % 2 == 0 else (after, before)
            rates = {first: first.rate(case), second: second.rate(case)}
            pairs.append((rates[before], rates[after]))
        old, new = (median(rates) for rates in zip(*pairs, strict=True))
        ratio = median(b / a for a, b in pairs)
        print(f"| {kv_type} | {head_dim} | {group} | {old:.1f} | {new:.1f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
