"""The operations of the dialect: what is refused when one is made, and what lowering keeps."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from nspjax import KVCache, cached_attention
from nspjax.compiler import Pipeline, mlir, nsp
from nspjax.compiler.jit.marked_module import marked_module
from nspjax.compiler.lowering import EXPANSIONS
from nspjax.compiler.machine import timeline
from nspjax.compiler.machine.costs import module_costs
from nspjax.compiler.nsp import ops
from nspjax.errors import CompilerError

MAIN = """
func.func public @main(%hk: tensor<4xi32>, %hv: tensor<4xi32>, %q: tensor<2x1x4x8xf32>,
    %k: tensor<2x1x2x8xbf16>, %i: tensor<2xi32>, %i3: tensor<3xi32>, %h5: tensor<5xi32>,
    %x: tensor<32x64xbf16>, %w: tensor<96x64xbf16>) {
  return
}"""
NAMES = ("hk", "hv", "q", "k", "i", "i3", "h5", "x", "w")
CACHE = {"cache_shape": (2, 16, 2, 8), "cache_dtype": "bf16"}


class Making:
    """Values to make operations of."""

    def __init__(self):
        self.module = mlir.parse(MAIN)
        block = mlir.function(self.module, "main").regions[0].blocks[0]
        self.values = dict(zip(NAMES, block.arguments, strict=True))
        self.build = mlir.Builder(mlir.terminator(block))

    def given(self, kind, **changes):
        """What makes a right operation, with changes; of a name of NAMES it is that value."""
        right = {
            "nsp.append": {"k": "k", "v": "k", "rows": "i", "start": "i", "n_new": "i"},
            "nsp.attend": {"q": "q", "rows": "i", "position": "i", "length": "i", "scale": 0.5},
            "nsp.writeback": {"interval_tokens": 16},
            "nsp.fetch": {"rows": "i", "begin": "i", "length": "i", "n_tokens": 4},
            "nsp.dot": {"x": "x", "w": "w", "transposed": True},
        }[kind.name]
        right |= CACHE | {"handle": ("hk", "hv")} if kind.has_cache else {}
        right |= changes
        return {name: self._value(value) for name, value in right.items() if value is not None}

    def _value(self, value):
        if isinstance(value, tuple) and all(isinstance(item, str) for item in value):
            return tuple(map(self._value, value))
        return self.values.get(value, value) if isinstance(value, str) else value

    def make(self, kind, **changes):
        return kind.build(self.build, **self.given(kind, **changes))


def test_results_follow_from_the_rest():
    making = Making()
    attend = making.make(nsp.ATTEND, window=7)
    assert [mlir.tensor(value) for value in attend.results] == [
        ((2, 1, 4, 8), "f32"), ((2, 1, 4), "f32"), ((4,), "i32"), ((4,), "i32")
    ]  # fmt: skip
    dense = {"mass": 1.0, "budget": 1.0, "block_tokens": 0}
    expected = {"scale": 0.5, "window": 7, "softcap": 0.0, "read_ahead": True, **dense, **CACHE}
    assert nsp.attributes(attend) == expected
    assert nsp.handle(attend) == (making.values["hk"], making.values["hv"])
    assert nsp.next_handle(attend) == tuple(attend.results)[2:]
    dot = making.make(nsp.DOT)
    assert mlir.tensor(nsp.result(dot, "out")) == ((32, 96), "f32")
    written = making.make(nsp.WRITEBACK, after=[dot.results[0]])
    assert nsp.after(written) == [dot.results[0]]
    assert nsp.attribute(written, "exclusive") is False


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (nsp.APPEND, {"n_new": None}, "nsp.append is made without its operand 'n_new'"),
        (nsp.APPEND, {"handle": None}, "nsp.append is made without its operand 'handle_k'"),
        (nsp.APPEND, {"hod": True}, "nsp.append has no operand and no attribute 'hod'"),
        (nsp.APPEND, {"hold": 1}, "nsp.append has 'hold' as an attribute, a bool, got 1"),
        (nsp.APPEND, {"k": True}, "nsp.append has 'k' as an operand, a value, got True"),
        (nsp.APPEND, {"v": "q"}, r"nsp.append has 'v' \[B = 2, T = 1, H = 2, D = 8\], got "),
        (nsp.APPEND, {"cache_dtype": "f32"}, "nsp.append has 'k' of f32, got .*bf16"),
        (nsp.APPEND, {"cache_shape": None}, "nsp.append is without its attribute 'cache_shape'"),
        (nsp.APPEND, {"cache_shape": (2, 8)}, r"cache_shape \[S, C, Hkv, D\], got \[2, 8\]"),
        (nsp.ATTEND, {"scale": None}, "nsp.attend is without its attribute 'scale'"),
        (nsp.ATTEND, {"handle": ("hk", "h5")}, r"nsp.attend has 'handle_v' \[4\], got .*5xi32"),
        (nsp.ATTEND, {"length": "i3"}, r"nsp.attend has 'length' \[B = 2\], got tensor<3xi32>"),
        (nsp.ATTEND, {"rows": "q"}, r"nsp.attend has 'rows' \[B = 2\], got tensor<2x1x4x8xf32>"),
        (nsp.WRITEBACK, {"interval_tokens": None}, "without its attribute 'interval_tokens'"),
        (nsp.FETCH, {}, r"nsp.fetch has 'begin' \[1\], got tensor<2xi32>"),
        (nsp.DOT, {"transposed": False}, r"nsp.dot has 'w' \[K = 64, N\], got tensor<96x64xbf16>"),
        (nsp.DOT, {"x": "q"}, r"nsp.dot has 'x' \[M, K\], got tensor<2x1x4x8xf32>"),
    ],
)
def test_what_is_wrong_is_named(kind, changes, message):
    with pytest.raises(CompilerError, match=message):
        Making().make(kind, **changes)


def test_a_result_whose_type_does_not_follow():
    making = Making()
    with pytest.raises(CompilerError, match=r"nsp.load is made without .* its result 'value'"):
        nsp.LOAD.build(making.build, weight=making.values["hk"])


@pytest.mark.parametrize("change", [{"hold": 0}, {"more": True}])
def test_an_operation_of_a_module_is_checked_too(change):
    making = Making()
    append = making.make(nsp.APPEND)
    for name, value in change.items():
        append.attributes[name] = mlir.attribute(value, append.context)
    with pytest.raises(CompilerError, match=f"nsp.append at .* has .*{next(iter(change))!r}"):
        Pipeline.parse("lower-to-ffi").run(making.module)


# ---- what each must have elsewhere --------------------------------------------------------------


def test_each_that_is_defined_is_known():
    assert set(nsp.OPS.values()) == {op for op in vars(ops).values() if isinstance(op, nsp.Op)}


def test_what_the_engine_has_no_handler_for_is_expanded():
    assert {kind.name for kind in nsp.OPS.values() if not kind.is_lowered} == set(EXPANSIONS)


def test_each_has_a_place_in_a_timeline():
    computed = {nsp.DOT.name}
    assert set(nsp.OPS) - computed == set(timeline._CALLS)


@pytest.mark.parametrize("kind", nsp.OPS.values(), ids=lambda kind: kind.name)
def test_the_effect_is_what_the_handles_say(kind):
    given, made = ({item.name for item in items} for items in (kind.operands, kind.results))
    handle = {"handle_k", "handle_v"}
    assert kind.has_cache == (handle <= given)
    assert kind.gives_handle == (handle <= made)
    assert kind.has_cache == ({"cache_shape", "cache_dtype"} <= {a.name for a in kind.attributes})


# ---- what lowering keeps ------------------------------------------------------------------------


def step(q, k, v, cache):
    return cached_attention(q, k, v, cache, n_new=jnp.ones(2, jnp.int32))


def exported_step():
    spec = jax.ShapeDtypeStruct
    q, kv = spec((2, 1, 4, 8), jnp.bfloat16), spec((2, 1, 2, 8), jnp.bfloat16)
    cache = KVCache(
        spec((2, 16, 2, 8), jnp.bfloat16), spec((2, 16, 2, 8), jnp.bfloat16), spec((2,), jnp.int32)
    )
    return marked_module(step, (q, kv, kv, cache))


@pytest.mark.parametrize("passes", ["haul-kv{chunk-tokens=8}", "split-attention,prefetch"])
def test_the_module_that_runs_says_what_it_moves(passes):
    """It has been through serialisation, and XLA's program is as without what is said."""
    marked = exported_step()
    before = mlir.signature(marked.module)
    module = Pipeline.parse(f"offload-kv,{passes},delay-writeback,lower-to-ffi").run(marked.module)
    exported = mlir.with_module(marked.exported, module, before)
    runs = mlir.module_of(exported)
    calls = [op for op in mlir.operations(runs) if (mlir.call_target(op) or "")[:7] == "nspjax."]
    caches = {nsp.cache_shape(op) for op in calls if nsp.call_kind(op).has_cache}
    assert caches == {(2, 16, 2, 8)}
    assert {nsp.cache_dtype(op) for op in calls if nsp.call_kind(op).has_cache} == {"bf16"}
    assert module_costs(runs, 10).total == module_costs(module, 10).total
    assert module_costs(runs, 10).total.read_bytes > 0
    lowered = jax.jit(exported.call).lower(*exported.in_avals).as_text("hlo")
    assert "nspjax.append" in lowered
    assert "cache_shape" not in lowered


def test_a_default_is_what_a_missing_attribute_means():
    making = Making()
    append = making.make(nsp.APPEND)
    del append.attributes["hold"]
    assert nsp.attribute(append, "hold") is False
    Pipeline.parse("lower-to-ffi").run(making.module)
    (call,) = [op for op in mlir.operations(making.module) if mlir.call_target(op)]
    assert mlir.number(mlir.ffi_attributes(call)["hold"]) == 0


def test_operations_are_values():
    """A toy for a test is made of one that there is."""
    toy = dataclasses.replace(nsp.LOAD_AHEAD, name="nsp.toy")
    assert toy.target == "nspjax.toy"
    assert toy is not nsp.LOAD_AHEAD
