"""One side of before_after.py: reads what to measure from its input, a line each, writes the rates.

It imports the benches' helpers of its own checkout, whose folder is its first argument; the second
is a directory on the disk.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(sys.argv[1]) / "bench"))
DISK = Path(sys.argv[2])

import jax  # noqa: E402
import numpy as np  # noqa: E402
from model_decode import make_decode, random_weights  # noqa: E402
from raw_attention import Heads, append, attend, filled_layers, make_layers, random_bits  # noqa: E402
from shapes import kv_token_bytes, shape_named  # noqa: E402

from nspjax import Store, _engine, near_storage  # noqa: E402
from nspjax.models import ModelConfig, random_decoder  # noqa: E402

LAYERS, ROWS = 8, 32


@contextmanager
def _store(*, on_disk: bool) -> Iterator[Store]:
    directory = DISK / "kv"
    directory.mkdir(exist_ok=True)
    with Store(str(directory) if on_disk else "memory:", host_memory="1GiB", pinned="0") as store:
        yield store
    shutil.rmtree(directory)


def kernel(*case: Any) -> Iterator[float]:
    """GB/s of a kernel over tiles in memory; case: the arguments of `measure_kernel`."""
    while True:
        yield float(_engine.measure_kernel(*case))


def scan(kv_bytes: int, on_disk: bool) -> Iterator[float]:
    """GB/s of attention over synthetic KV, layer after layer, with no model between."""
    heads = Heads()
    n_tokens = kv_bytes // (LAYERS * ROWS * heads.kv_token_bytes)
    with _store(on_disk=on_disk) as store:
        layers = filled_layers(store, LAYERS, ROWS, n_tokens, heads)
        while True:
            yield attend(layers).kv_gb_per_second


def decode(kv_bytes: int, on_disk: bool) -> Iterator[float]:
    """KV GB/s of whole decode steps of a few layers in Llama 3.2 1B's shape."""
    config = shape_named("llama-1b", 1 << 17, n_layers=4)
    context_tokens = kv_bytes // (ROWS * kv_token_bytes(config))
    with _store(on_disk=on_disk) as store:
        run = make_decode(
            random_weights(config), store, batch=ROWS, context_tokens=context_tokens, most_steps=128
        )
        while True:
            yield run(1).kv_gb_per_second


def spill(kv_bytes: int, on_disk: bool) -> Iterator[float]:
    """GB/s of bulk appends, and the flush."""
    heads, batch, chunk_tokens = Heads(), 8, 512
    n_chunks = kv_bytes // (LAYERS * batch * chunk_tokens * heads.kv_token_bytes)
    k, v = (random_bits((batch, chunk_tokens, 8, 64), seed=seed) for seed in (1, 2))
    rows = np.arange(batch, dtype=np.int32)
    while True:
        with _store(on_disk=on_disk) as store:
            layers = make_layers(store, LAYERS, batch, n_chunks * chunk_tokens, heads)
            begin = time.perf_counter()
            for _ in range(n_chunks):
                append(layers, rows, k, v)
            store.flush()
            seconds = time.perf_counter() - begin
        yield kv_bytes / seconds / 1e9


def empty(n_calls: int) -> Iterator[float]:
    """Attends a second, over a cache of one token: what a call costs beside its attention."""
    heads = Heads()
    with _store(on_disk=False) as store:
        layers = filled_layers(store, n_calls, 1, 1, heads)
        while True:
            yield n_calls / attend(layers).seconds


def compile_step(n_layers: int) -> Iterator[float]:
    """Decode steps a second that are traced, passed through the default pipeline and compiled."""
    config = ModelConfig.llama(
        vocab_size=512, hidden_size=128, intermediate_size=256, n_layers=n_layers, n_heads=4,
        n_kv_heads=2, max_position_tokens=4096,
    )  # fmt: skip
    model = random_decoder(config, seed=0)
    with _store(on_disk=False) as store:
        caches = store.kv_caches(
            n_layers, batch=4, capacity_tokens=1024, n_kv_heads=2, head_dim=config.head_dim
        )
        tokens = jax.numpy.zeros((4, 1), np.int32)
        while True:
            jax.clear_caches()
            begin = time.perf_counter()
            near_storage(lambda t, c: model(t, c), store=store).lower(tokens, caches).compile()
            yield 1 / (time.perf_counter() - begin)


MEASURES: dict[str, Callable[..., Iterator[float]]] = {
    "kernel": kernel,
    "scan": scan,
    "decode": decode,
    "spill": spill,
    "empty": empty,
    "compile": compile_step,
}


def main() -> None:
    running: Iterator[float] = iter(())
    for line in sys.stdin:
        name, arguments, again = json.loads(line)
        if not again:
            getattr(running, "close", lambda: None)()
            running = MEASURES[name](*arguments)
        print(next(running), flush=True)


if __name__ == "__main__":
    main()
