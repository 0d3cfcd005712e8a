"""Options of our passes: every whole number has a range, and what is outside is refused by name."""

import dataclasses
import typing

import pytest

from nspjax.compiler import Pipeline
from nspjax.compiler.passes import our_passes
from nspjax.errors import PipelineError

LEAST = {
    ("delay-writeback", "interval"): 1,
    ("interleave", "groups"): 1,
    ("haul-kv", "chunk-tokens"): 1,
    ("x-cache", "chunk-tokens"): 1,
    ("host-dot", "most-rows"): 1,
    ("prefetch", "distance"): 1,
    ("prefetch", "bytes"): 0,
    ("offload-weights", "keep"): 0,
    ("sparsify", "block-tokens"): 0,
}


WHOLE_NUMBERS = [
    (cls, field.name)
    for cls in our_passes()
    for field in dataclasses.fields(cls)
    if typing.get_type_hints(cls)[field.name] is int
]


def test_every_whole_number_has_a_range():
    assert {(cls.name, name.replace("_", "-")) for cls, name in WHOLE_NUMBERS} == set(LEAST)


@pytest.mark.parametrize(("name", "option"), LEAST)
def test_what_is_outside_is_refused(name, option):
    least = LEAST[name, option]
    most = 2**63 - 1 if option == "bytes" else 2**31 - 1
    for good in (0, 16, 1 << 30) if option == "block-tokens" else (least, 8, most):
        Pipeline.parse(f"{name}{{{option}={good}}}")
    for bad in (least - 1, -(2**31), most + 1, 99999999999999999999):
        message = f"^{name}: {option} must be a whole number from {least} to {most}, got {bad}$"
        with pytest.raises(PipelineError, match=message):
            Pipeline.parse(f"{name}{{{option}={bad}}}")


@pytest.mark.parametrize(("cls", "field"), WHOLE_NUMBERS)
@pytest.mark.parametrize("value", [4.0, "4", True, None])
def test_so_is_what_is_no_whole_number(cls, field, value):
    with pytest.raises(PipelineError, match=f"must be a whole number from .*, got {value!r}"):
        cls(**{field: value})
