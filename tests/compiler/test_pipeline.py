"""The pass driver: text to passes and back, observers, and what it refuses."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import pytest
from jax import export

from nspjax.compiler import Pipeline, mlir, passes, register_pass
from nspjax.compiler.driver.pipeline import dump_to, print_after
from nspjax.compiler.passes.offload_weights import OffloadWeights
from nspjax.errors import CompilerError, PipelineError

EMPTY = "func.func public @main(%x: tensor<2xf32>) -> tensor<2xf32> { return %x : tensor<2xf32> }"


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(passes, "_users", {})


@dataclasses.dataclass(frozen=True)
class Probe:
    """Does nothing; has an option of each type."""

    name: ClassVar[str] = "probe"
    distance: int = 1
    max_share: float = 0.5
    eager: bool = False
    where: str = "anywhere"

    def run(self, module):
        return module


def test_text_to_passes_and_back():
    register_pass(Probe)
    text = "offload-kv, probe{distance=3 max-share=0.25, eager=true where=step-end},probe"
    pipeline = Pipeline.parse(text)
    assert pipeline.passes[1:] == (Probe(3, 0.25, True, "step-end"), Probe())
    assert Pipeline.parse(str(pipeline)) == pipeline
    assert Pipeline.parse("").passes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("offload-kv{", "cannot read the pipeline"),
        ("offload-kv lower-to-ffi", "cannot read the pipeline"),
        ("no-such-pass", "there is no pass 'no-such-pass'; there are: .*lower-to-ffi, offload-kv"),
        ("offload-kv{depth=1}", "offload-kv has no option 'depth'; it has: none"),
        ("probe{distance}", "cannot read the option 'distance'"),
        ("probe{distance=far}", "distance must be a whole number, got 'far'"),
        ("probe{max-share=all}", "max-share must be a number, got 'all'"),
        ("probe{eager=1}", "eager must be true or false, got '1'"),
    ],
)
def test_bad_text_is_refused(text, message):
    register_pass(Probe)
    with pytest.raises(PipelineError, match=message):
        Pipeline.parse(text)


def test_a_name_is_registered_once():
    register_pass(Probe)
    with pytest.raises(PipelineError, match="exists already"):
        register_pass(Probe)


def test_observers_see_every_module(tmp_path):
    register_pass(Probe)
    printed = []
    observers = (dump_to(tmp_path / "ir"), print_after("offload-kv", printed.append))
    Pipeline.parse("probe,offload-kv").run(mlir.parse(EMPTY), observers)
    assert [p.name for p in sorted((tmp_path / "ir").iterdir())] == [
        "01-probe.mlir",
        "02-offload-kv.mlir",
    ]
    assert "func.func public @main" in (tmp_path / "ir/02-offload-kv.mlir").read_text()
    with pytest.raises(PipelineError, match="cannot print after typo"):
        print_after("typo")
    assert len(printed) == 1
    assert printed[0].startswith("// ---- after offload-kv (")


def test_a_pass_that_breaks_the_module_is_named():
    @dataclasses.dataclass(frozen=True)
    class Breaks:
        name: ClassVar[str] = "breaks"

        def run(self, module):
            main = mlir.function(module, "main")
            main.regions[0].blocks[0].arguments[0].set_type(
                mlir.tensor_type((3,), "i32", module.context)
            )
            return module

    with pytest.raises(CompilerError, match="invalid after breaks"):
        Pipeline((Breaks(),)).run(mlir.parse(EMPTY))


# ---- what passes declare ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("split-attention,offload-kv", "offload-kv", "split-attention"),
        ("offload-kv,raise-attention", "raise-attention", "offload-kv"),
        ("offload-kv,split-attention,x-cache", "x-cache", "split-attention"),
        ("offload-kv,haul-kv,x-cache", "x-cache", "haul-kv"),
        ("offload-kv,interleave,split-attention", "split-attention", "interleave"),
        ("offload-kv,prefetch,offload-weights", "offload-weights", "prefetch"),
        ("offload-kv,lower-to-ffi,host-dot", "host-dot", "lower-to-ffi"),
        ("offload-kv,lower-to-ffi,prefetch,lower-to-ffi", "prefetch", "lower-to-ffi"),
    ],
)
def test_an_order_that_cannot_work_is_refused(text, first, second):
    with pytest.raises(PipelineError, match=f"^{first} stands after {second},.*{first} before"):
        Pipeline.parse(text)
    Pipeline.parse(f"{first},{second}")


def test_a_pass_says_what_it_needs():
    def declared(text):
        pipeline = Pipeline.parse(text)
        return pipeline.needs_rates, pipeline.may_keep_x, pipeline.writeback_interval_tokens

    assert declared("offload-kv,split-attention,prefetch,lower-to-ffi") == (False, False, None)
    assert declared("x-cache") == (True, True, None)
    assert declared("x-cache{fraction=0.5}") == (False, True, None)
    assert declared("x-cache{fraction=0},delay-writeback{interval=1}") == (False, False, None)
    assert declared("auto-interleave,delay-writeback{interval=32}") == (True, False, 32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "offload-kv,prefetch,host-dot,lower-to-ffi",
            "offload-kv,^,prefetch,host-dot,lower-to-ffi",
        ),
        ("offload-kv,split-attention,lower-to-ffi", "offload-kv,split-attention,^,lower-to-ffi"),
        ("offload-kv,verify-schedule,probe", "offload-kv,^,verify-schedule,probe"),
        ("probe", "probe,^"),
    ],
)
def test_a_pass_is_put_before_those_that_come_after_it(text, expected):
    register_pass(Probe)
    pipeline = Pipeline.parse(text).including(OffloadWeights())
    assert str(pipeline) == expected.replace("^", "offload-weights")
    assert pipeline.including(OffloadWeights(keep=1)) == pipeline


def test_an_export_takes_another_module():
    """`mlir.with_module` relies on `dataclasses.replace(Exported, …)`, which is undocumented."""
    exported = export.export(jax.jit(lambda unused, x: x + 1))(jnp.ones(2), jnp.ones(3))
    assert exported.module_kept_var_idx == (1,)
    other = mlir.parse(
        "func.func public @main(%x: tensor<5xi32>) -> tensor<5xi32> { return %x : tensor<5xi32> }"
    )
    changed = mlir.with_module(exported, other, mlir.signature(mlir.module_of(exported)))
    assert [aval.shape for aval in changed.in_avals] == [(2,), (5,)]
    out = jax.jit(changed.call)(jnp.ones(2), jnp.arange(5))
    assert out.tolist() == [0, 1, 2, 3, 4]
