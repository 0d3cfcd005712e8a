"""Weights with NaN or infinity, in the file or by the cast, are refused by name."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tiny_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from test_load_experts import MIXTRAL, mixtral_tensors

import nspjax
from nspjax.errors import CheckpointError
from nspjax.models import Offload, finite, load_decoder

DOWN = "model.layers.1.mlp.down_proj.weight"  # [16, 24]


def damaged(name: str, *places: tuple[int, ...], value: float = np.nan, dtype=np.float32):
    weights = {n: w.astype(dtype) for n, w in tiny_checkpoint.tensors().items()}
    for place in places:
        weights[name][place] = value
    return weights


def refusal(directory: Path, weights, dtype: str = "float32", *, offload=None, **config) -> str:
    tiny_checkpoint.write(directory, weights, **config)
    with pytest.raises(CheckpointError) as error:
        load_decoder(directory, dtype=dtype, offload=offload)
    return str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stored", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_in_the_file(tmp_path: Path, stored, dtype: str, value: float) -> None:
    weights = damaged(DOWN, (3, 5), (15, 23), value=value, dtype=stored)
    message = refusal(tmp_path, weights, dtype)
    assert f"2 of 384 values of {DOWN} in {tmp_path / 'model.safetensors'}" in message
    assert f"the first, at [3, 5], is {stored(value)}" in message
    assert "download it again" in message


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", DOWN]
)
def test_in_any_tensor(tmp_path: Path, name: str) -> None:
    last = tuple(n - 1 for n in tiny_checkpoint.tensors()[name].shape)
    assert f"of {name} in" in refusal(tmp_path, damaged(name, last))


@pytest.mark.parametrize("stored", [np.float32, ml_dtypes.bfloat16, np.float64])
def test_by_the_cast(tmp_path: Path, stored) -> None:
    message = refusal(tmp_path, damaged(DOWN, (0, 23), value=-1e5, dtype=stored), "float16")
    kind = {"float32": "F32", "float64": "F64"}.get(np.dtype(stored).name, "BF16")
    assert f"1 of 384 values of {DOWN}" in message
    assert f"at [0, 23], is {stored(-1e5)} in the file ({kind})" in message
    assert "overflows in the cast to float16: load it with dtype bfloat16 or float32" in message


def test_by_a_cast_that_no_dtype_helps(tmp_path: Path) -> None:
    message = refusal(tmp_path, damaged(DOWN, (0, 0), value=1e300, dtype=np.float64), "bfloat16")
    assert "overflows in the cast to bfloat16: no dtype that nspjax has holds it" in message


def test_the_largest_values_are_finite(tmp_path: Path) -> None:
    for value in (65504.0, -65519.9, 6e-8, 1e-30):  # float16: 65520 is the first that is infinite
        tiny_checkpoint.write(tmp_path, damaged(DOWN, (1, 1), value=value))
        got = load_decoder(tmp_path, dtype="float16").layers[1].mlp.down.w[...][1, 1]
        assert got == np.float16(value)
    assert "overflows" in refusal(tmp_path, damaged(DOWN, (1, 1), value=65520.0), "float16")


def test_of_a_tied_head(tmp_path: Path) -> None:
    weights = damaged("lm_head.weight", (2, 2))
    alone = {name: w for name, w in weights.items() if name != "model.embed_tokens.weight"}
    both = {**alone, "model.embed_tokens.weight": weights["lm_head.weight"]}
    for each in (alone, both):
        message = refusal(tmp_path, each, tie_word_embeddings=True)
        assert "1 of 320 values of" in message
        assert "at [2, 2]" in message


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_of_one_expert(tmp_path: Path, dtype: str) -> None:
    weights = mixtral_tensors()
    name = "model.layers.1.block_sparse_moe.experts.1.w3.weight"
    weights[name][3, 5] = np.inf if dtype == "float32" else 1e5
    message = refusal(tmp_path, weights, dtype, **MIXTRAL)
    assert f"1 of 384 values of {name}" in message
    assert "at [3, 5]" in message


def test_of_a_weight_that_goes_elsewhere(tmp_path: Path) -> None:
    put = []
    offload = Offload(lambda sizes: [False] * len(sizes), put.append)
    assert f"of {DOWN} in" in refusal(tmp_path, damaged(DOWN, (0, 0)), offload=offload)
    assert all(np.isfinite(each).all() for each in put)


def test_the_room_of_weights_in_a_store_is_given_back(tmp_path: Path) -> None:
    tiny_checkpoint.write(tmp_path, damaged(DOWN, (0, 0)))
    with nspjax.Store("memory:", host_memory="64MiB") as store:
        for _ in range(2):
            with pytest.raises(CheckpointError, match="are not finite"):
                nspjax.LLM(tmp_path, store=store, weights_resident=0)
            assert store.stats().weight_bytes_stored == 0


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_against_isfinite(dtype, data) -> None:
    """Any bits, NaNs with any payload and denormals among them."""
    bits = np.dtype(f"u{np.dtype(dtype).itemsize}")
    words = data.draw(st_numpy.arrays(bits, st_numpy.array_shapes(min_dims=0, max_dims=3)))
    values = words.view(dtype)
    with np.errstate(invalid="ignore"):  # of signalling NaNs
        assert finite.all_finite(values) == np.isfinite(values.astype(np.float64)).all()


def test_every_chunk_is_looked_at(monkeypatch) -> None:
    monkeypatch.setattr(finite, "CHUNK_VALUES", 8)
    for place in range(21):
        values = np.zeros(21, np.float32)
        assert finite.all_finite(values)
        values[place] = np.nan
        assert not finite.all_finite(values)
