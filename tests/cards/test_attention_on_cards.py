"""Attention of stores on emulated cards (the real XRT, the kernel's own source) against float64."""

import itertools
import json

import pytest
from on_cards import run_on_cards

RAGGED = [1, 2, 31, 128, 129, 1000, 4097]
PLAIN = {"dtype": "bf16", "kv_dtype": "", "n_tokens": 1, "window": 0, "softcap": 0.0}
TOLERANCE = 2e-5


def cases():
    """All that a kernel may be asked, and a row so long that any mistake in a sum shows."""
    for group, head_dim in itertools.product((1, 4, 5, 8), (64, 80, 128, 256)):
        yield f"g{group}-d{head_dim}", {"group": group, "head_dim": head_dim, "lengths": RAGGED}
    small = {"group": 4, "head_dim": 64, "lengths": RAGGED}
    for dtype, kv_dtype in (("f32", ""), ("f16", ""), ("f32", "int8"), ("f32", "int4")):
        yield f"{dtype}-{kv_dtype}", {**small, "dtype": dtype, "kv_dtype": kv_dtype}
    yield "window", {**small, "window": 300}
    yield "softcap", {**small, "softcap": 5.0}
    yield "queries", {**small, "n_tokens": 21}
    yield "long", {"group": 4, "head_dim": 80, "lengths": [69_999, 70_000]}


def json_of(chosen):
    return json.dumps([{"name": name, **PLAIN, **case} for name, case in chosen])


@pytest.mark.parametrize(
    ("cards", "options"),
    [
        pytest.param(1, ["--compute-units", "2"], id="1-zero-copy"),
        pytest.param(4, ["--strict-sync"], id="4-strict-sync"),
        pytest.param(16, [], id="16-zero-copy"),
    ],
)
def test_against_float64(cards, options, tmp_path):
    every = ",".join(map(str, range(cards)))
    chosen = list(cases())
    said = run_on_cards(
        ["attention_child.py", every], cards=cards, options=options, stdin=json_of(chosen),
        directory=tmp_path,
    )  # fmt: skip
    errors = {name: float(error) for name, error in (line.split() for line in said.splitlines())}
    assert errors.pop("bytes_read") > 0
    assert list(errors) == [name for name, _ in chosen]
    assert {name: error for name, error in errors.items() if not error < TOLERANCE} == {}
