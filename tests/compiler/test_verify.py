"""What a module may hold after each pass, and that the pass which did wrong is named."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from nspjax.compiler import Pipeline, mlir, nsp
from nspjax.errors import CompilerError


@dataclasses.dataclass(frozen=True)
class Says:
    """That it has brought the module somewhere."""

    stage: nsp.Stage | None
    name: ClassVar[str] = "says"

    def run(self, module):
        return module


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"nsp.rotate"() : ()', "nsp.rotate at .* is no operation of"),
        ("stablehlo.custom_call @nspjax.rotate() : ()", "nspjax.rotate at .* is no operation of"),
        ('"nsp.load"() : ()', r"nsp.load at .* got 0 and 1"),
        ('"nsp.load"() {keep = 1 : i64} : ()', "nsp.load at .* has no attribute 'keep'"),
    ],
)
def test_a_module_with_what_is_no_operation_is_refused(text, message):
    module = f"func.func public @main() {{ %0 = {text} -> tensor<2xi32> return }}"
    with pytest.raises(CompilerError, match=f"invalid after says: {message}"):
        Pipeline((Says(None),)).run(mlir.parse(module))


START = """
func.func public @main(%k: tensor<4xi32>, %v: tensor<4xi32>, %w: tensor<4xi32>,
    %q: tensor<2x1x4x8xf32>, %i: tensor<2xi32>) -> tensor<8x8xf32> {
  %s:3 = "nsp.attend_start"(%k, %v, %q, %i, %i, %i) {cache_dtype = "f32",
    cache_shape = array<i64: 2, 16, 2, 8>, scale = 0.5 : f64} : (tensor<4xi32>, tensor<4xi32>,
    tensor<2x1x4x8xf32>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>)
    -> (tensor<2xi32>, tensor<4xi32>, tensor<4xi32>)
  %o:2 = "nsp.attend_wait"(%s#0) : (tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x1x4xf32>)
  %0 = "nsp.load"(%w) : (tensor<4xi32>) -> tensor<8x8xf32>
  return %0 : tensor<8x8xf32>
}"""


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (None, None),
        (nsp.Stage.SCHEDULED, None),
        (nsp.Stage.RAISED, "attend_start .* in a module that is raised: .* once that is scheduled"),
        (
            nsp.Stage.OFFLOADED,
            "attend_start .* that is offloaded: it may be once that is scheduled",
        ),
        (nsp.Stage.LOWERED, "nsp.attend_start at .* is left in a module that is lowered"),
    ],
)
def test_what_a_module_may_hold_after_a_stage(stage, message):
    run = Pipeline((Says(stage),)).run
    if message is None:
        run(mlir.parse(START))
        return
    with pytest.raises(CompilerError, match=f"invalid after says: .*{message}"):
        run(mlir.parse(START))


@dataclasses.dataclass(frozen=True)
class Spoils:
    """The last operation of a name, in one respect."""

    op: str
    how: Callable[[mlir.Operation], object]
    name: ClassVar[str] = "spoils"

    def run(self, module):
        self.how([op for op in mlir.operations(module) if op.name == self.op][-1])
        return module


def set_type(value, shape, element):
    value.set_type(mlir.tensor_type(shape, element, mlir.maker(value).context))


TWO_LOADS = START.replace(
    "  return", '  %1 = "nsp.load"(%w) : (tensor<4xi32>) -> tensor<8x8xf32>\n  return'
)


@pytest.mark.parametrize(
    ("op", "how", "message"),
    [
        ("nsp.attend_start", {"scale": 1}, "has 'scale' as an attribute, a float, got 1"),
        ("nsp.attend_start", {"cache_dtype": 16}, "'cache_dtype' as an attribute, a str, got 16"),
        ("nsp.attend_start", {"depth": 2}, "has no attribute 'depth'"),
        ("nsp.load", {"depth": 2}, "has no attribute 'depth'"),
        (
            "nsp.attend_wait",
            lambda op: set_type(op.results[1], (2, 1, 4), "f16"),
            "has 'lse' of f32, got tensor<2x1x4xf16>",
        ),
        (
            "nsp.attend_start",
            lambda op: set_type(op.results[0], (3,), "i32"),
            r"has 'ticket' \[2\], got tensor<3xi32>",
        ),
        (
            "nsp.attend_start",
            lambda op: nsp.set_operand(op, "length", nsp.operand(op, "handle_k")),
            r"has 'length' \[B = 2\], got tensor<4xi32>",
        ),
    ],
)
def test_what_was_right_is_checked_after_every_pass(op, how, message):
    """Also where others of that name are still as they were."""

    def set_attributes(op):
        for name, value in how.items():
            op.attributes[name] = mlir.attribute(value, op.context)

    spoils = Spoils(op, set_attributes if isinstance(how, dict) else how)
    with pytest.raises(CompilerError, match=f"invalid after spoils: {op} at .* {message}"):
        Pipeline((Says(None), spoils, Says(None))).run(mlir.parse(TWO_LOADS))


def test_an_operand_is_no_result():
    """The same types, divided otherwise."""
    wrong = '%1:2 = "nsp.load"() : () -> (tensor<4xi32>, tensor<8x8xf32>)'
    text = START.replace("  return", f"  {wrong}\n  return")
    with pytest.raises(CompilerError, match=r"invalid after says: nsp.load at .* got 0 and 2"):
        Pipeline((Says(None),)).run(mlir.parse(text))


def test_a_mark_that_is_left():
    text = (Path(__file__).parent / "filecheck/decode.mlir").read_text()
    with pytest.raises(
        CompilerError, match=r"cached_attention at .* left .* is scheduled: offload"
    ):
        Pipeline.parse("split-attention").run(mlir.parse(text))
