"""The engine's calls (csrc/calls/table.h) and the operations that become them (nsp/ops.py): the
same names, axes, element types and attributes on both sides."""

import pytest

from nspjax import _engine
from nspjax.compiler import nsp
from nspjax.compiler.nsp.definition import ANY, OF_CACHE

CALLS = _engine.call_descriptions()
OPS = {op.target: op for op in nsp.OPS.values() if op.is_lowered}
ELEMENTS = {"i32": ("i32",), "f32": ("f32",), "bf16": ("bf16",), "float": ("f32", "bf16", "f16")}
ELEMENTS |= {"cache": OF_CACHE, "bytes": ANY}
TYPES = {"bool": bool, "i64": int, "f32": float}


def test_every_operation_has_a_call_and_every_call_an_operation():
    assert {f"nspjax.{name}" for name in CALLS} == set(OPS)
    assert set(OPS) == set(_engine.registrations())


def tensors(described):
    """(name, elements, axes) of each, in order, as nsp/ops.py says it."""
    return [
        (name, ELEMENTS[elements], None if axes == "*" else axes)
        for name, (elements, axes) in described.items()
    ]


@pytest.mark.parametrize("target", OPS)
def test_they_have_the_same_operands_attributes_and_results(target):
    call, op = CALLS[target.removeprefix("nspjax.")], OPS[target]
    for described, items in ((call["operands"], op.operands), (call["results"], op.results)):
        assert tensors(described) == [(item.name, item.elements, item.axes) for item in items]
    given = {item.name: item.type for item in op.attributes if item.for_engine}
    assert {name: TYPES[kind] for name, kind in call["attributes"].items()} == given
