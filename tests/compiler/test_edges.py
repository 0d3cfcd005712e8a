"""How values flow through loops, branches, barriers and calls: read off one module by eye."""

import pytest

from nspjax.compiler import mlir
from nspjax.compiler.nsp.edges import Edges, before_loops, unchanged

MODULE = mlir.parse(
    """
    func.func public @main(%a: tensor<4xi32>, %b: tensor<4xi32>, %p: tensor<i1>)
        -> (tensor<4xi32>, tensor<4xi32>, tensor<4xi32>) {
      %called:2 = call @swap(%a, %b)
        : (tensor<4xi32>, tensor<4xi32>) -> (tensor<4xi32>, tensor<4xi32>)
      %loop:2 = stablehlo.while(%x = %called#0, %y = %b) : tensor<4xi32>, tensor<4xi32>
      cond {
        stablehlo.return %p : tensor<i1>
      } do {
        %new = stablehlo.add %x, %y : tensor<4xi32>
        stablehlo.return %new, %y : tensor<4xi32>, tensor<4xi32>
      }
      %branch = "stablehlo.if"(%p) ({
        stablehlo.return %loop#0 : tensor<4xi32>
      }, {
        stablehlo.return %a : tensor<4xi32>
      }) : (tensor<i1>) -> tensor<4xi32>
      %barrier:2 = stablehlo.optimization_barrier %branch, %p : tensor<4xi32>, tensor<i1>
      return %barrier#0, %loop#1, %called#1 : tensor<4xi32>, tensor<4xi32>, tensor<4xi32>
    }
    func.func private @swap(%s: tensor<4xi32>, %t: tensor<4xi32>)
        -> (tensor<4xi32>, tensor<4xi32>) {
      return %t, %s : tensor<4xi32>, tensor<4xi32>
    }"""
)


def named():
    """The values of the module, and its operations, by what the text calls them."""
    main, swap = (mlir.function(MODULE, name).regions[0].blocks[0] for name in ("main", "swap"))
    call, loop, branch, barrier, _ = (op.operation for op in main.operations)
    condition, body = (region.blocks[0] for region in loop.regions)
    values = dict(zip(("a", "b", "p"), main.arguments, strict=True))
    values |= {"s": swap.arguments[0], "t": swap.arguments[1]}
    values |= {"called0": call.results[0], "called1": call.results[1]}
    values |= {"loop0": loop.results[0], "loop1": loop.results[1]}
    values |= {"x": body.arguments[0], "y": body.arguments[1]}
    values |= {"x in cond": condition.arguments[0], "y in cond": condition.arguments[1]}
    values |= {"new": body.operations[0].results[0], "branch": branch.results[0]}
    values |= {"barrier0": barrier.results[0], "barrier1": barrier.results[1]}
    return values


VALUES = named()
EDGES = Edges(MODULE)


def names(values):
    return {name for name, value in VALUES.items() if value in values}


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("a", set()), ("new", set()),
        ("s", {"a"}), ("t", {"b"}), ("called0", {"t"}), ("called1", {"s"}),
        ("x", {"called0", "new"}), ("x in cond", {"called0", "new"}), ("loop0", {"called0", "new"}),
        ("y", {"b", "y"}), ("loop1", {"b", "y"}),
        ("branch", {"loop0", "a"}), ("barrier0", {"branch"}), ("barrier1", {"p"}),
    ],
)  # fmt: skip
def test_the_names_that_a_value_had_before(name, before):
    assert names(EDGES.into(VALUES[name])) == before
    assert EDGES.is_carried(VALUES[name]) == (name != "new")


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("a", {"s", "branch"}), ("b", {"t", "y", "y in cond", "loop1"}), ("p", {"barrier1"}),
        ("s", {"called1"}), ("t", {"called0"}), ("called0", {"x", "x in cond", "loop0"}),
        ("called1", set()), ("x", set()), ("new", {"x", "x in cond", "loop0"}),
        ("y", {"y", "y in cond", "loop1"}), ("loop0", {"branch"}), ("branch", {"barrier0"}),
    ],
)  # fmt: skip
def test_the_names_that_it_has_after(name, after):
    """An edge that is seen from its end is seen from its beginning."""
    found = []
    for use in VALUES[name].uses:
        found += EDGES.out_of(use.owner.operation, use.operand_number)
    assert names(found) == after
    assert all(VALUES[name] in EDGES.into(value) for value in found)


def test_where_a_value_ends():
    ends = {
        use.owner.operation.name: EDGES.passes_on(use.owner.operation)
        for name in ("x", "p", "new")
        for use in VALUES[name].uses
    }
    assert ends["stablehlo.add"] is False
    assert ends["stablehlo.if"] is False  # it reads what it is decided by
    (condition,) = [
        use.owner.operation
        for use in VALUES["p"].uses
        if use.owner.operation.name == "stablehlo.return"
    ]
    assert not EDGES.passes_on(condition)


def test_what_a_loop_leaves_as_it_is():
    assert unchanged(VALUES["y"]) == unchanged(VALUES["loop1"]) == VALUES["b"]
    assert unchanged(VALUES["x"]) is unchanged(VALUES["loop0"]) is unchanged(VALUES["new"]) is None
    assert before_loops(VALUES["y"]) == VALUES["b"]
    assert before_loops(VALUES["x"]) == VALUES["x"]
    assert before_loops(VALUES["loop1"]) == VALUES["loop1"]
