"""The engine's calls and the operations that are lowered to them: the same names on both sides."""

import pytest

from nspjax import _engine
from nspjax.compiler import nsp
from nspjax.compiler.lowering import EXPANSIONS

CALLS = _engine.call_descriptions()
OPS = {
    op.name.removeprefix("nsp."): op
    for op in vars(nsp).values()
    if isinstance(op, nsp.Op) and op.name not in EXPANSIONS
}
MADE_BY_EXPANSIONS = {"fetch"}


def test_every_operation_has_a_call_and_every_call_an_operation():
    assert set(CALLS) - MADE_BY_EXPANSIONS == set(OPS)
    assert not MADE_BY_EXPANSIONS & set(OPS)
    assert {f"nspjax.{name}" for name in CALLS} == set(_engine.registrations())


@pytest.mark.parametrize("name", OPS)
def test_they_have_the_same_operands_attributes_and_results(name):
    call, op = CALLS[name], OPS[name]
    assert tuple(call["operands"]) == op.operands
    assert tuple(call["attributes"]) == op.attributes
    assert tuple(call["results"]) == op.results


def test_what_a_description_says():
    """Element types, axes (a digit is a size), and attributes' types, in one call of many kinds."""
    attend = CALLS["attend"]
    assert attend["operands"]["handle_k"] == ("i32", "4")
    assert attend["operands"]["q"] == ("float", "BTQD")
    assert attend["results"]["lse"] == ("f32", "BTQ")
    assert attend["attributes"] == {
        "scale": "f32", "window": "i64", "softcap": "f32", "read_ahead": "bool",
    }  # fmt: skip
    assert CALLS["fetch"]["results"]["k"] == ("cache", "BTHD")
    assert CALLS["attend_start"]["results"]["ticket"] == ("i32", "2")
