"""What waits for what in a block: an operation with regions waits for what its regions use."""

import pytest

from nspjax.compiler import mlir
from nspjax.compiler.nsp.dependence import Dependence

IN_A_BRANCH = """
func.func @main(%p: tensor<i1>, %a: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
  %x = stablehlo.negate %a : tensor<f32>
  %y = "stablehlo.if"(%p) ({
    %z = stablehlo.add %x, %a : tensor<f32>
    stablehlo.return %z : tensor<f32>
  }, {
    stablehlo.return %a : tensor<f32>
  }) : (tensor<i1>) -> tensor<f32>
  %w = stablehlo.abs %a : tensor<f32>
  return %y, %w : tensor<f32>, tensor<f32>
}"""
IN_A_BRANCH_OF_A_BRANCH = IN_A_BRANCH.replace(
    "%z = stablehlo.add %x, %a : tensor<f32>",
    """%z = "stablehlo.if"(%p) ({
      stablehlo.return %x : tensor<f32>
    }, {
      stablehlo.return %a : tensor<f32>
    }) : (tensor<i1>) -> tensor<f32>""",
)


@pytest.mark.parametrize("text", [IN_A_BRANCH, IN_A_BRANCH_OF_A_BRANCH])
def test_what_a_region_uses_is_waited_for(text):
    module = mlir.parse(text)
    (block,) = mlir.function(module, "main").regions[0].blocks
    found = Dependence.of(block)
    at = {op.name: i for i, op in enumerate(found.ops)}
    used = 1 << at["stablehlo.negate"]
    assert found.needs_any(at["stablehlo.if"], used)
    assert found.needs_any(at["func.return"], used)
    assert not found.needs_any(at["stablehlo.abs"], used)
