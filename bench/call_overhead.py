"""What a call to the engine costs where it has nothing to do: µs in a jitted loop, over empty rows.

A call's cost is that of a loop with it less that of the loop alone. With --before, another Python
installation's engine is measured in turn with this one's, each in a process of its own.

    python bench/call_overhead.py --before /path/to/other/.venv/bin/python --rounds 15
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from report import Table, publish
from turns import in_turn, median_ratio

HEADS, GROUP, D, CAPACITY_TOKENS = 8, 4, 64, 64
HANDLE = jax.ShapeDtypeStruct((4,), jnp.int32)
TICKET = jax.ShapeDtypeStruct((2,), jnp.int32)
TOKEN = jax.ShapeDtypeStruct((1,), jnp.int32)

Loop = Callable[[Any], Any]
"""(k handle, v handle) -> the same, after all turns"""


def call(name: str, results: Any, *operands: Any, **attributes: Any) -> Any:
    ffi_call = jax.ffi.ffi_call(f"nspjax.{name}", results, has_side_effect=True)
    return ffi_call(*operands, **attributes)


def loops(batch: int, n_calls: int) -> dict[str, Loop]:
    """For each call a compiled loop that makes it n_calls times; "" is the loop alone."""
    out = jax.ShapeDtypeStruct((batch, 1, HEADS * GROUP, D), jnp.float32)
    results = (out, jax.ShapeDtypeStruct(out.shape[:3], jnp.float32))
    q, kv = jnp.ones(out.shape), jnp.ones((batch, 1, HEADS, D))
    rows, none = jnp.arange(batch), jnp.zeros(batch, jnp.int32)
    query = (q, rows, none, none)
    settings = {"scale": np.float32(1), "window": 0, "softcap": np.float32(0), "read_ahead": 0}

    def append(handles: Any) -> Any:
        return call("append", (HANDLE, HANDLE), *handles, kv, kv, rows, none, none, hold=1)

    def attend(handles: Any) -> Any:
        return call("attend", (*results, HANDLE, HANDLE), *handles, *query, **settings)[2:]

    def attend_in_two(handles: Any) -> Any:
        started = (TICKET, HANDLE, HANDLE)
        ticket, *handles = call("attend_start", started, *handles, *query, **settings)
        call("attend_wait", results, ticket)
        return handles

    def prefetch(handles: Any) -> Any:
        call("prefetch", TOKEN, *handles, rows, none, most_bytes=0)
        return handles

    def writeback(handles: Any) -> Any:
        call("writeback", TOKEN, *handles, interval_tokens=16, exclusive=0)
        return handles

    def looped(body: Loop) -> Loop:
        def turn(_: Any, handles: Any) -> Any:
            return tuple(body(handles))

        return jax.jit(lambda handles: jax.lax.fori_loop(0, n_calls, turn, handles))

    return {
        "": looped(lambda handles: [h + 0 for h in handles]),
        "append": looped(append),
        "attend": looped(attend),
        "attend_start + attend_wait": looped(attend_in_two),
        "prefetch": looped(prefetch),
        "writeback": looped(writeback),
    }


def serve(batch: int, n_calls: int) -> None:
    """Measure once for each line of standard input: µs of each call, on one line."""
    from nspjax import _engine
    from nspjax.runtime import register_targets

    register_targets()
    store = _engine.Store(["memory:"], 64 << 20, threads=1)
    (cache,) = store.create_caches(1, batch, CAPACITY_TOKENS, HEADS, D, "f32")
    made = loops(batch, n_calls)

    def measured_us(loop: Loop) -> float:
        handles = tuple(map(jnp.asarray, store.cache_handles(cache, store.version(cache))))
        begin = time.perf_counter()
        jax.block_until_ready(loop(handles))
        return (time.perf_counter() - begin) / n_calls * 1e6

    for loop in made.values():
        measured_us(loop)
    for _ in sys.stdin:
        us = {name: measured_us(loop) for name, loop in made.items()}
        print(*(us[name] - us[""] for name in made if name), flush=True)


class Installation:
    """A process with the engine of a Python installation."""

    def __init__(self, python: str, batch: int, n_calls: int) -> None:
        command = [python, __file__, "--serve", "--batch", str(batch), "--calls", str(n_calls)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure_us(self) -> list[float]:
        """[call]"""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return [float(us) for us in self._process.stdout.readline().split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", help="the Python that has the other engine")
    parser.add_argument("--batch", type=int, default=8, help="rows a call (default %(default)s)")
    parser.add_argument("--calls", type=int, default=3000, help="a loop (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="default %(default)s")
    parser.add_argument("--json", type=Path, help="also write every round to this file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.batch, args.calls)
    else:
        compare(args)


def compare(args: argparse.Namespace) -> None:
    pythons = {"before": args.before, "after": sys.executable}
    arms = {
        arm: Installation(python, args.batch, args.calls).measure_us
        for arm, python in pythons.items()
        if python is not None
    }
    rounds = in_turn(arms, args.rounds)
    columns, rows = ["call", *(f"{arm}, µs" for arm in arms)], []
    for i, name in enumerate(name for name in loops(args.batch, 1) if name):
        us = {arm: [values[i] for values in rounds[arm]] for arm in arms}
        rows.append([name, *(f"{median(values):.2f}" for values in us.values())])
        if args.before:
            rows[-1].append(f"{median_ratio(us['after'], us['before']):.2f}")
    if args.before:
        columns.append("after / before")
    publish(args, [Table(columns, rows)], rounds)


if __name__ == "__main__":
    main()
