"""What an execution moves and when: counted by hand."""

import dataclasses

import pytest
from counted_modules import (
    CACHE,
    DOT,
    KV_TOKEN,
    NEW_BYTES,
    OUT_BYTES,
    Q_BYTES,
    RATES,
    append,
    attend,
    dot,
    main,
    prefetch,
    start,
    wait,
    writeback,
)

from nspjax.compiler import Pipeline, mlir, nsp
from nspjax.compiler.machine.costs import Cost, capacity_tokens, module_costs
from nspjax.compiler.machine.timeline import Schedule
from nspjax.errors import CompilerError


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (append(0), Cost(link_bytes=NEW_BYTES, written_bytes=NEW_BYTES)),
        (attend(0), Cost(link_bytes=Q_BYTES + OUT_BYTES, read_bytes=400 * KV_TOKEN)),
        (attend(0, window=30), Cost(link_bytes=Q_BYTES + OUT_BYTES, read_bytes=120 * KV_TOKEN)),
        (start(0), Cost(link_bytes=Q_BYTES, read_bytes=400 * KV_TOKEN)),
        (start(0) + wait(0), Cost(link_bytes=Q_BYTES + OUT_BYTES, read_bytes=400 * KV_TOKEN)),
        (
            attend(0, op="haul", more="chunk_tokens = 64 : i64"),
            Cost(
                4 * 4 * 4 * 8 * 100, 400 * KV_TOKEN, 400 * KV_TOKEN, attended_bytes=400 * KV_TOKEN
            ),
        ),
        (prefetch(0) + start(0), Cost(link_bytes=Q_BYTES, read_bytes=400 * KV_TOKEN)),
        (
            append(0, hold="true") + writeback(0),
            Cost(link_bytes=NEW_BYTES, written_bytes=NEW_BYTES),
        ),
        (dot() + dot(), DOT * 2),
    ],
)
def test_one_operation(body, expected):
    assert module_costs(main(body)).total == expected


def test_context():
    def read(module, context_tokens):
        return module_costs(module, context_tokens).total.read_bytes / (4 * KV_TOKEN)

    module = main(attend(0))
    assert [read(module, n) for n in (1, 40, 100, 1000, None)] == [1, 40, 100, 100, 100]
    assert read(main(attend(0, window=30)), 20) == 20
    assert capacity_tokens(module) == 100
    assert capacity_tokens(main(dot())) is None


def test_a_cache_that_is_not_known():
    module = main(attend(0, cache=""))
    with pytest.raises(CompilerError, match=r"nsp.attend .* nsp.cache_attributes"):
        module_costs(module)
    # another operation on the same cache says it, or none does
    assert module_costs(
        main(append(0) + attend(0, handles="%append0#0, %append0#1", cache=""))
    ) == (module_costs(main(append(0) + attend(0, handles="%append0#0, %append0#1"))))


@pytest.mark.parametrize(
    "text",
    [
        '"nsp.rotate"(%rows)',
        "stablehlo.custom_call @nspjax.rotate(%rows) {api_version = 4 : i32}",
    ],
)
def test_an_operation_that_is_not_known(text):
    """It is neither free nor invisible."""
    module = main(f"%r = {text} : (tensor<4xi32>) -> tensor<4xi32>")
    for ask in (module_costs, capacity_tokens, lambda module: Schedule.of(module).on(RATES)):
        with pytest.raises(CompilerError, match=r"rotate at .* is no operation of nspjax; there"):
            ask(module)


def test_an_operation_without_a_place_in_a_timeline(monkeypatch):
    rotate = dataclasses.replace(nsp.LOAD_AHEAD, name="nsp.rotate")
    monkeypatch.setitem(nsp.OPS, rotate.name, rotate)
    module = main('%r = "nsp.rotate"(%k0) : (tensor<4xi32>) -> tensor<1xi32>')
    assert module_costs(module).operations == {"nsp.rotate": 1}
    with pytest.raises(CompilerError, match=r"nsp.rotate at .* has no place in a timeline"):
        Schedule.of(module).on(RATES)


def test_calls_and_loops():
    """A function is as much as its calls; a loop is one turn of it."""
    module = mlir.parse(
        """
        func.func public @main(%x: tensor<8x8xf32>, %n: tensor<i32>) -> tensor<8x8xf32> {
          %0 = call @twice(%x) : (tensor<8x8xf32>) -> tensor<8x8xf32>
          %1 = call @twice(%0) : (tensor<8x8xf32>) -> tensor<8x8xf32>
          %2:2 = stablehlo.while(%i = %n, %y = %1) : tensor<i32>, tensor<8x8xf32>
          cond {
            %go = stablehlo.compare LT, %i, %n : (tensor<i32>, tensor<i32>) -> tensor<i1>
            stablehlo.return %go : tensor<i1>
          } do {
            %3 = func.call @twice(%y) : (tensor<8x8xf32>) -> tensor<8x8xf32>
            stablehlo.return %i, %3 : tensor<i32>, tensor<8x8xf32>
          }
          return %2#1 : tensor<8x8xf32>
        }
        func.func private @twice(%x: tensor<8x8xf32>) -> tensor<8x8xf32> {
          %0 = stablehlo.dot_general %x, %x, contracting_dims = [1] x [0]
            : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
          %1 = stablehlo.dot_general %0, %x, contracting_dims = [1] x [0]
            : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
          return %1 : tensor<8x8xf32>
        }"""
    )
    costs = module_costs(module)
    assert costs.operations == {"stablehlo.dot_general": 6}
    assert costs.total == DOT * 6


def test_a_loop_of_chunks():
    """The engine's fetch in a loop: as often as the context has chunks."""
    module = main(
        """
        %zero = stablehlo.constant dense<0> : tensor<1xi32>
        %0:2 = stablehlo.while(%a = %k0, %b = %v0) : tensor<4xi32>, tensor<4xi32>
        cond {
          %true = stablehlo.constant dense<true> : tensor<i1>
          stablehlo.return %true : tensor<i1>
        } do {
          %c:4 = "nsp.fetch"(%a, %b, %rows, %zero, %rows) {"""
        + CACHE
        + """, n_tokens = 32 : i64}
            : (tensor<4xi32>, tensor<4xi32>, tensor<4xi32>, tensor<1xi32>, tensor<4xi32>)
            -> (tensor<4x32x2x8xbf16>, tensor<4x32x2x8xbf16>, tensor<4xi32>, tensor<4xi32>)
          %d = stablehlo.dot_general %w, %w, contracting_dims = [1] x [0]
            : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
          stablehlo.return %c#2, %c#3 : tensor<4xi32>, tensor<4xi32>
        }"""
    )
    chunk_bytes = 4 * 32 * KV_TOKEN
    moved = Cost(link_bytes=chunk_bytes, read_bytes=chunk_bytes)
    for _ in range(2):
        assert module_costs(module, 100).total == (DOT + moved) * 4
        module = Pipeline.parse("lower-to-ffi").run(module)


def test_rows_whose_x_is_kept():
    """One row of four: the others alone are in the cache, and it alone in the companion."""
    module = main(
        append(0)
        + attend(0, handles="%append0#0, %append0#1")
        + f"""
        %x:2 = "nsp.x_cache"(%append0#0, %append0#1) {{{CACHE}, head_dim = 8 : i64,
          n_heads = 2 : i64}} : (tensor<4xi32>, tensor<4xi32>) -> (tensor<4xi32>, tensor<4xi32>)"""
        + append(1, k=("%x#0", "%x#1"))
        + """
        %zero = stablehlo.constant dense<0> : tensor<1xi32>
        %row = stablehlo.slice %rows [3:4] : (tensor<4xi32>) -> tensor<1xi32>
        %c:4 = "nsp.fetch"(%append1#0, %append1#1, %row, %zero, %row) {"""
        + CACHE
        + """,
          n_tokens = 100 : i64} : (tensor<4xi32>, tensor<4xi32>, tensor<1xi32>,
          tensor<1xi32>, tensor<1xi32>)
          -> (tensor<1x100x2x8xbf16>, tensor<1x100x2x8xbf16>, tensor<4xi32>, tensor<4xi32>)"""
    )
    total = module_costs(module).total
    assert total.written_bytes == NEW_BYTES * 3 // 4 + NEW_BYTES // 4
    assert total.read_bytes == 300 * KV_TOKEN + 100 * KV_TOKEN
    found = Schedule.of(module).on(RATES)
    assert len(found.layer_begins_s) == 1
    assert {"append L0", "attend L0", "append X0", "fetch X0"} <= {s.label for s in found.spans}


def test_lowering_changes_nothing():
    module = main(append(0) + start(0, "%append0#0, %append0#1") + wait(0) + dot())
    before = module_costs(module, 50)
    after = module_costs(Pipeline.parse("lower-to-ffi").run(module), 50)
    assert after.total == before.total
    assert after.operations["nspjax.attend_start"] == 1
