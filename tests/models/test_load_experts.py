"""The expert weights of Mixtral, in both of their spellings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoint
from loaded_weights import assert_same

from nspjax.errors import CheckpointError
from nspjax.models import load_decoder

MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 2,
}


def mixtral_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    dense = {n: w for n, w in tiny_checkpoint.tensors().items() if ".mlp." not in n}
    for i in range(2):
        moe = f"model.layers.{i}.block_sparse_moe"
        dense[f"{moe}.gate.weight"] = rng.standard_normal((2, 16), dtype=np.float32)
        for expert in range(2):
            for name, shape in (("w1", (24, 16)), ("w2", (16, 24)), ("w3", (24, 16))):
                weight = rng.standard_normal(shape, dtype=np.float32)
                dense[f"{moe}.experts.{expert}.{name}.weight"] = weight
    return dense


def fused(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    out = {n: w for n, w in weights.items() if "block_sparse_moe" not in n}
    for i in range(2):
        moe, mlp = f"model.layers.{i}.block_sparse_moe", f"model.layers.{i}.mlp"
        w1, w2, w3 = (
            np.stack([weights[f"{moe}.experts.{e}.{name}.weight"] for e in range(2)])
            for name in ("w1", "w2", "w3")
        )
        out[f"{mlp}.gate.weight"] = weights[f"{moe}.gate.weight"]
        out[f"{mlp}.experts.gate_up_proj"] = np.concatenate([w1, w3], axis=1)
        out[f"{mlp}.experts.down_proj"] = w2
    return out


def test_both_spellings_of_experts_are_the_same_model(tmp_path: Path) -> None:
    (tmp_path / "fused").mkdir()
    one_by_one = mixtral_tensors()
    a = load_decoder(tiny_checkpoint.write(tmp_path, one_by_one, **MIXTRAL), dtype=None)
    b = load_decoder(
        tiny_checkpoint.write(tmp_path / "fused", fused(one_by_one), **MIXTRAL), dtype=None
    )
    assert_same(a, b)
    up = one_by_one["model.layers.1.block_sparse_moe.experts.1.w3.weight"]
    np.testing.assert_array_equal(a.layers[1].mlp.gate_up[...][1, :, 24:], up.T)


def test_a_mixture_of_one_expert(tmp_path: Path) -> None:
    weights = {n: w for n, w in mixtral_tensors().items() if ".experts.1." not in n}
    weights = {n: w[:1] if ".gate." in n else w for n, w in weights.items()}
    one = {**MIXTRAL, "num_local_experts": 1, "num_experts_per_tok": 1}
    decoder = load_decoder(tiny_checkpoint.write(tmp_path, weights, **one), dtype=None)
    down = weights["model.layers.0.block_sparse_moe.experts.0.w2.weight"]
    np.testing.assert_array_equal(decoder.layers[0].mlp.down[...], down.T[None])


def test_one_missing_expert_tensor(tmp_path: Path) -> None:
    weights = mixtral_tensors()
    gone = "model.layers.1.block_sparse_moe.experts.1.w3.weight"
    del weights[gone]
    with pytest.raises(CheckpointError, match=rf"1 missing tensor \({gone}\)"):
        load_decoder(tiny_checkpoint.write(tmp_path, weights, **MIXTRAL))


def test_missing_experts_are_named_as_the_others_are(tmp_path: Path) -> None:
    weights = fused(mixtral_tensors())
    del weights["model.layers.1.mlp.experts.down_proj"]
    with pytest.raises(CheckpointError, match=r"\(model.layers.1.mlp.experts.down_proj\)"):
        load_decoder(tiny_checkpoint.write(tmp_path, weights, **MIXTRAL))


def test_an_expert_too_many(tmp_path: Path) -> None:
    weights = mixtral_tensors()
    name = "model.layers.0.block_sparse_moe.experts.{}.w1.weight"
    weights[name.format(2)] = weights[name.format(1)]
    with pytest.raises(CheckpointError, match=r"surplus tensor .*experts.2.w1.*2 experts"):
        load_decoder(tiny_checkpoint.write(tmp_path, weights, **MIXTRAL))


def test_experts_in_both_spellings_at_once(tmp_path: Path) -> None:
    weights = mixtral_tensors()
    weights = {**weights, **fused(weights)}
    with pytest.raises(CheckpointError, match="the checkpoint has it twice"):
        load_decoder(tiny_checkpoint.write(tmp_path, weights, **MIXTRAL))
