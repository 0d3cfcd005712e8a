"""Products of few rows with bf16 weights: host-dot's kernel against XLA's own product.

One layer's weights after the other, more of them than caches hold, as a decode step meets them; w
as [in, out], and as [out, in], which tied embeddings are. Both sum in float32.

    python bench/host_dot.py
    python bench/host_dot.py --rows 1 16 --mib 32 --rounds 1                         # does it run
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from report import Table, bench_parser, publish
from turns import in_turn, median_ratio

from nspjax.runtime import register_targets

SHAPES = {"[2048, 8192]": (2048, 8192, False), "[8192, 2048] transposed": (2048, 8192, True)}
KERNEL, XLA = "host-dot", "XLA"


def main() -> None:
    parser = bench_parser(__doc__, store=False)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--mib", type=int, default=256, help="of weights (default %(default)s)")
    args = parser.parse_args()
    register_targets()

    rows, rounds = [], {}
    for name, (k, n, transposed) in SHAPES.items():
        shape = (n, k) if transposed else (k, n)
        keys = jax.random.split(jax.random.key(0), max(1, (args.mib << 20) // (2 * k * n)))
        weights = [jax.random.normal(key, shape, jnp.bfloat16) for key in keys]
        for m in args.rows:
            x = jax.random.normal(jax.random.key(1), (m, k), jnp.bfloat16)
            arms = {
                KERNEL: timed(lambda x, w, t=transposed: kernel(x, w, t), x, weights),
                XLA: timed(lambda x, w, t=transposed: xla(x, w, t), x, weights),
            }
            seconds = in_turn(arms, args.rounds)
            ours = median(seconds[KERNEL])
            rows.append(
                (
                    name,
                    str(m),
                    f"{ours * 1e3:.2f}",
                    f"{median(seconds[XLA]) * 1e3:.2f}",
                    f"{2 * k * n / ours / 1e9:.1f}",
                    f"{2 * m * k * n / ours / 1e9:.0f}",
                    f"{median_ratio(seconds[XLA], seconds[KERNEL]):.2f}",
                )
            )
            rounds[f"{name}, {m} rows"] = seconds
    columns = ("w", "rows", "ms", "XLA, ms", "weights, GB/s", "GFLOP/s", "XLA / host-dot")
    publish(args, [Table(columns, rows)], rounds)


def kernel(x: jax.Array, w: jax.Array, transposed: bool) -> jax.Array:
    n = w.shape[0 if transposed else 1]
    call = jax.ffi.ffi_call("nspjax.dot", jax.ShapeDtypeStruct((x.shape[0], n), jnp.float32))
    return call(x, w, transposed=np.int64(transposed))


def xla(x: jax.Array, w: jax.Array, transposed: bool) -> jax.Array:
    dimensions = (((1,), (1 if transposed else 0,)), ((), ()))
    return jax.lax.dot_general(x, w, dimensions, preferred_element_type=jnp.float32)


def timed(
    product: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, weights: list[jax.Array]
) -> Callable[[], float]:
    """Seconds of one product, as a mean over all weights in one program."""
    step = jax.jit(lambda x, weights: [product(x, w) for w in weights])

    def measure() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(step(x, weights))
        return (time.perf_counter() - begin) / len(weights)

    return measure


if __name__ == "__main__":
    main()
