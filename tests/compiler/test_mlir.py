"""What compiler/mlir adds to MLIR's bindings."""

import sys

import pytest

from nspjax.compiler import mlir

TEXT = """
func.func public @main(%x: tensor<4x6xbf16>, %y: tensor<2x6x3xi1>) -> tensor<1xi32> {
  %0 = stablehlo.dot_general %x, %x, contracting_dims = [1] x [1]
    : (tensor<4x6xbf16>, tensor<4x6xbf16>) -> tensor<4x4xbf16>
  %1 = "nsp.look"(%0) {shape = array<i64: 4, 2>} : (tensor<4x4xbf16>) -> tensor<1xi32>
  %2 = stablehlo.custom_call @other(%1) : (tensor<1xi32>) -> tensor<1xi32>
  return %2 : tensor<1xi32>
}
func.func private @helper() { return }
"""


@pytest.fixture
def module():
    return mlir.parse(TEXT)


def test_an_operation_of_ours_is_no_failed_import(module, monkeypatch):
    """MLIR's bindings look for a module of the dialect whenever they meet an operation."""
    asked = []

    class Spy:
        @staticmethod
        def find_spec(name, path=None, target=None):
            asked.append(name)

    monkeypatch.setattr(sys, "meta_path", [Spy, *sys.meta_path])
    names = [op.name for op in mlir.function(module, "main").regions[0].blocks[0].operations]
    assert "nsp.look" in names
    assert [name for name in asked if name.endswith("nsp")] == []


def test_functions_by_name(module):
    assert mlir.string(mlir.function(module, "helper").attributes["sym_name"]) == "helper"
    assert mlir.find_function(module, "nope") is None
    with pytest.raises(KeyError, match="nope"):
        mlir.function(module, "nope")


def test_terminators_and_targets(module):
    end = mlir.terminator(mlir.function(module, "main").regions[0].blocks[0])
    assert end.name == "func.return"
    targets = [mlir.call_target(op) for op in mlir.operations(module)]
    assert [target for target in targets if target] == ["other"]


def test_sizes(module):
    ops = {op.name: op for op in mlir.operations(module)}
    product = ops["stablehlo.dot_general"]
    assert mlir.contracted_size(product) == 6
    assert mlir.tensor_bytes(product.operands[0]) == 48
    assert mlir.tensor_bytes(mlir.function(module, "main").regions[0].blocks[0].arguments[1]) == 36
    assert mlir.integers(ops["nsp.look"].attributes["shape"]) == (4, 2)
    sizes = {"f32": 4, "bf16": 2, "ui8": 1, "i4": 0.5, "i1": 1, "complex<f32>": 8, "f8E4M3FN": 1}
    assert {name: mlir.element_bytes(name) for name in sizes} == sizes
    with pytest.raises(TypeError, match="index has no size"):
        mlir.element_bytes("index")


def test_attributes(module):
    for value in (True, 3, 0.5):
        assert mlir.number(mlir.attribute(value, module.context)) == value
    assert mlir.integers(mlir.attribute((1, 2), module.context)) == (1, 2)
    assert mlir.string(mlir.attribute("x", module.context)) == "x"
