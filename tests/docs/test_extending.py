"""docs/extending.md, followed: an operation of a pass's own, from its entry to the engine."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nspjax import KVCache, Store, cached_attention, near_storage
from nspjax.compiler import Pipeline, mlir, nsp, passes, register_pass
from nspjax.compiler.lowering import EXPANSIONS
from nspjax.compiler.machine import timeline
from nspjax.compiler.machine.rates import Rates
from nspjax.compiler.nsp.traffic import Cost
from nspjax.errors import CompilerError

ROOT = Path(__file__).parents[2]
ROWS, CAPACITY, HEADS, KV_HEADS, D = 2, 32, 4, 2, 16
RATES = Rates(1e9, 1e9, 1e9)
WARM = dataclasses.replace(
    nsp.PREFETCH,
    name="nsp.warm",
    attributes=tuple(a for a in nsp.PREFETCH.attributes if a.name != "most_bytes"),
    is_lowered=False,
    costs=lambda step, _: Cost(link_bytes=8 * mlir.tensor(step.operand("rows"))[0][0]),
)


@dataclasses.dataclass(frozen=True)
class Warm:
    """Before each attention, the device begins to read what it needs."""

    name: ClassVar[str] = "warm"
    stage: ClassVar[nsp.Stage] = nsp.Stage.SCHEDULED
    after: ClassVar[tuple[str, ...]] = ("offload-kv",)

    def run(self, module: mlir.Module) -> mlir.Module:
        for op in mlir.operations(module):
            if nsp.kind(op) is nsp.ATTEND:
                given = {name: nsp.operand(op, name) for name in ("rows", "length")}
                WARM.build(
                    mlir.Builder(op), handle=nsp.handle(op), **given, **nsp.cache_attributes(op)
                )
        return module


def expand(module: mlir.Module, op: mlir.Operation) -> None:
    given = {name: nsp.operand(op, name) for name in ("rows", "length")}
    made = nsp.PREFETCH.build(
        mlir.Builder(op), handle=nsp.handle(op), **given, **nsp.cache_attributes(op)
    )
    mlir.replace(op, list(made.results))


def step(q, k, v, cache):
    return cached_attention(q, k, v, cache)


@pytest.fixture
def follow(monkeypatch):
    """follow(leave_out): the page's steps for nsp.warm, but one."""

    def all_but(leave_out: str = "") -> None:
        monkeypatch.setattr(passes, "_users", dict(passes._users))
        register_pass(Warm)
        if leave_out != "ops.py":
            monkeypatch.setitem(nsp.OPS, WARM.name, WARM)
        if leave_out != "timeline.py":
            monkeypatch.setitem(timeline._CALLS, WARM.name, timeline._Calls._nothing)
        monkeypatch.setitem(EXPANSIONS, WARM.name, expand)

    return all_but


def arguments():
    keys = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (ROWS, 1, HEADS, D))
    k, v = (jax.random.normal(key, (ROWS, 1, KV_HEADS, D)) for key in keys[1:])
    return q, k, v


def run_near_storage() -> np.ndarray:
    with Store("memory:", pinned="0") as store:
        near = near_storage(step, store=store, pipeline="offload-kv,warm,lower-to-ffi")
        sizes = {"batch": ROWS, "capacity_tokens": CAPACITY, "n_kv_heads": KV_HEADS, "head_dim": D}
        out, _ = near(*arguments(), store.kv_cache(**sizes, dtype=jnp.float32))
        return np.asarray(out)


def warmed_module() -> mlir.Module:
    from nspjax.compiler.jit.marked_module import marked_module

    cache = KVCache.zeros(ROWS, CAPACITY, KV_HEADS, D, jnp.float32)
    module = marked_module(step, (*arguments(), cache)).module
    return Pipeline.parse("offload-kv,warm").run(module)


def test_an_operation(follow):
    follow()
    cache = KVCache.zeros(ROWS, CAPACITY, KV_HEADS, D, jnp.float32)
    in_memory, _ = jax.jit(step)(*arguments(), cache)
    np.testing.assert_allclose(run_near_storage(), in_memory, atol=1e-5)
    spans = timeline.Schedule.of(warmed_module()).on(RATES).spans
    assert spans


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("ops.py", "nsp.warm at .* is no operation of nspjax"),
        ("timeline.py", "nsp.warm at .* has no place in a timeline"),
    ],
)
def test_what_is_left_out_is_named(follow, left_out, message):
    follow(left_out)
    with pytest.raises(CompilerError, match=message):
        timeline.Schedule.of(warmed_module()).on(RATES)


def test_the_page_names_files_that_there_are():
    text = (ROOT / "docs/extending.md").read_text()
    named = re.findall(r"`((?:nspjax|csrc|hls_kernels|tests|docs)/[\w/.]+\.\w+)`", text)
    assert len(named) > 15
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []
