"""What the pipeline adds to JAX's own time to trace and compile a decode step, pass by pass.

    python bench/compile_time.py --layers 32 --rounds 5
    python bench/compile_time.py --layers 4 --rounds 1      # in seconds
    python bench/compile_time.py --pipeline auto --rates device=3GB/s,link=16GB/s,compute=1TFLOP/s

Nothing is run; without --rates, the passes that choose by them choose nothing. JAX's own time is
of the step with its cache in memory: jax.jit(step).lower().compile().
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from report import Table, bench_parser, publish

from nspjax.cli.rates_option import parse_rates
from nspjax.compiler import DEFAULT_PIPELINE, Pipeline, mlir
from nspjax.compiler.jit.marked_module import marked_module, spec
from nspjax.compiler.machine.rates import Rates, set_rates
from nspjax.models import ModelConfig, random_decoder
from nspjax.ops import KVCache


@dataclasses.dataclass(frozen=True)
class Round:
    """Seconds."""

    jax: float
    """JAX's own: trace, lower, compile"""
    modules: float
    """to take the module out of an export and put it back"""
    passes: dict[str, float]
    """each with the verifier behind it; the time of a pass that occurs twice is that of both"""

    @property
    def added(self) -> float:
        return self.modules + sum(self.passes.values())


def main() -> None:
    args = _arguments()
    pipelines = {text: Pipeline.parse(text) for text in args.pipeline}
    make_step, operands = _model(args.layers, args.batch)
    rounds: dict[str, list[Round]] = {text: [] for text in pipelines}
    for index in range(args.rounds + 1):
        own = _jax_seconds(make_step(), operands)
        for text, pipeline in pipelines.items():
            measured = _round(own, make_step(), operands, pipeline, args.rates)
            if index:  # the first one warms up
                rounds[text].append(measured)
    publish(args, [_table(text, measured) for text, measured in rounds.items()], rounds)


def _arguments() -> argparse.Namespace:
    parser = bench_parser(__doc__, store=False)
    parser.add_argument("--layers", default=32, type=int, help="of the model (default 32)")
    parser.add_argument("--batch", default=4, type=int, help="rows (default 4)")
    parser.add_argument(
        "--pipeline",
        nargs="+",
        default=[DEFAULT_PIPELINE],
        help="one table for each (default near_storage's)",
    )
    parser.add_argument("--rates", type=parse_rates, help="as nspjax opt has them")
    return parser.parse_args()


def _model(n_layers: int, batch: int) -> tuple[Callable[[], Any], tuple[Any, ...]]:
    """A function that makes the decode step anew, so that nothing of it is cached; its operands."""
    config = ModelConfig.llama(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        n_layers=n_layers,
        n_heads=4,
        n_kv_heads=2,
        max_position_tokens=4096,
    )
    graph, state = nnx.split(random_decoder(config, seed=0, dtype=jnp.bfloat16))
    kv = jax.ShapeDtypeStruct((batch, 1024, config.n_kv_heads, config.head_dim), jnp.bfloat16)
    lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)
    caches = [KVCache(kv, kv, lengths) for _ in range(n_layers)]

    def make_step() -> Any:
        def step(state: Any, tokens: jax.Array, caches: Any) -> Any:
            model = nnx.merge(graph, state)
            hidden, caches = model(tokens, caches)
            return jnp.argmax(model.logits(hidden), -1).astype(jnp.int32), caches

        return step

    tokens = jax.ShapeDtypeStruct((batch, 1), jnp.int32)
    return make_step, (jax.tree.map(spec, state), tokens, caches)


def _jax_seconds(step: Any, operands: tuple[Any, ...]) -> float:
    jax.clear_caches()
    begin = time.perf_counter()
    jax.jit(step).lower(*operands).compile()
    return time.perf_counter() - begin


def _round(
    own: float, step: Any, operands: tuple[Any, ...], pipeline: Pipeline, rates: Rates | None
) -> Round:
    jax.clear_caches()
    marked = marked_module(step, operands)
    set_rates(marked.module, rates)
    before = mlir.signature(marked.module)
    begin = time.perf_counter()
    mlir.module_of(marked.exported)
    modules = time.perf_counter() - begin
    passes: collections.Counter[str] = collections.Counter()
    module = pipeline.run(
        marked.module, [lambda report: passes.update({report.name: report.run_us / 1e6})]
    )
    begin = time.perf_counter()
    mlir.with_module(marked.exported, module, before)
    modules += time.perf_counter() - begin
    return Round(own, modules, dict(passes))


def _table(text: str, rounds: list[Round]) -> Table:
    """Medians; a share is the median of the rounds' shares."""

    def row(name: str, of: Callable[[Round], float]) -> list[str]:
        seconds = statistics.median(map(of, rounds))
        share = statistics.median(of(r) / r.jax for r in rounds)
        return [name, f"{seconds * 1e3:.1f}", f"{share:.1%}"]

    rows = [row("JAX: trace, lower, compile", lambda r: r.jax)]
    rows += [row(name, lambda r, name=name: r.passes[name]) for name in rounds[0].passes]
    rows.append(row("module out of the export and back", lambda r: r.modules))
    rows.append(row("**added**", lambda r: r.added))
    return Table([f"`{text}`", "ms", "of JAX's own"], rows)


if __name__ == "__main__":
    main()
