"""Which tensor of a checkpoint ends up where, and every way in which a checkpoint can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_checkpoint
from flax import nnx
from safetensors.numpy import save_file

from nspjax.errors import CheckpointError, InvalidArgumentError, UnsupportedModelError
from nspjax.models import load_decoder


def weights_of(decoder) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.split(decoder)[1])]


def assert_same(a, b) -> None:
    for x, y in zip(weights_of(a), weights_of(b), strict=True):
        np.testing.assert_array_equal(x, y)


def without(*names: str) -> dict[str, np.ndarray]:
    return {n: w for n, w in tiny_checkpoint.tensors().items() if n not in names}


# ---- what loads ---------------------------------------------------------------------------------


def test_linear_weights_are_transposed_and_the_head_is_not(tmp_path: Path) -> None:
    decoder = load_decoder(tiny_checkpoint.write(tmp_path), dtype="float32")
    stored = tiny_checkpoint.tensors()
    layer = decoder.layers[1]
    np.testing.assert_array_equal(
        layer.attention.k.w[...], stored["model.layers.1.self_attn.k_proj.weight"].T
    )
    np.testing.assert_array_equal(decoder.head[...], stored["lm_head.weight"])


def test_a_sharded_checkpoint_is_the_same_model(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert_same(
        load_decoder(tiny_checkpoint.write(tmp_path / "one")),
        load_decoder(tiny_checkpoint.write_sharded(tmp_path / "two")),
    )


def test_names_without_model_prefix(tmp_path: Path) -> None:
    bare = {n.removeprefix("model."): w for n, w in tiny_checkpoint.tensors().items()}
    (tmp_path / "bare").mkdir()
    assert_same(
        load_decoder(tiny_checkpoint.write(tmp_path / "bare", bare)),
        load_decoder(tiny_checkpoint.write(tmp_path)),
    )


def test_known_buffers_are_ignored(tmp_path: Path) -> None:
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}
    load_decoder(tiny_checkpoint.write(tmp_path, {**tiny_checkpoint.tensors(), **buffer}))


QUANTISATION = (
    "k_scale k_proj.weight_scale q_proj.weight_scale_inv q_proj.input_scale q_proj.scales "
    "k_proj.qzeros v_proj.g_idx q_proj.weight_zero_point q_proj.SCB"
)


@pytest.mark.parametrize("name", QUANTISATION.split())
def test_scales_of_a_quantisation_that_is_gone(tmp_path: Path, name: str) -> None:
    left = {f"model.layers.{i}.self_attn.{name}": np.ones(1, np.float32) for i in range(2)}
    with pytest.warns(RuntimeWarning, match=rf"2 tensors of a quantisation.*layers.0.*{name}"):
        decoder = load_decoder(
            tiny_checkpoint.write(tmp_path, {**tiny_checkpoint.tensors(), **left})
        )
    assert_same(decoder, load_decoder(tiny_checkpoint.write(tmp_path)))


@pytest.mark.parametrize("spelling", [str, jnp.dtype, lambda name: getattr(jnp, name)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_asked_for(tmp_path: Path, dtype: str, spelling) -> None:
    decoder = load_decoder(tiny_checkpoint.write(tmp_path), dtype=spelling(dtype))
    assert {w.dtype.name for w in weights_of(decoder)} == {dtype}
    assert decoder.init_caches(1, 8)[0].k.dtype == dtype


@pytest.mark.parametrize("asked", [None, "auto"])
@pytest.mark.parametrize(
    ("settings", "dtype"),
    [({"dtype": "bfloat16"}, "bfloat16"), ({"torch_dtype": "float16"}, "float16"), ({}, "float32")],
)
def test_dtype_of_the_checkpoint(tmp_path: Path, settings, dtype: str, asked) -> None:
    assert load_decoder(tiny_checkpoint.write(tmp_path, **settings), dtype=asked).dtype == dtype


@pytest.mark.parametrize("dtype", ["int8", "float64", "no such thing"])
def test_a_dtype_we_do_not_have(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"float32, bfloat16, float16.*{dtype}"):
        load_decoder(tiny_checkpoint.write(tmp_path), dtype=dtype)


# ---- tied embeddings ----------------------------------------------------------------------------


def test_tied_without_head(tmp_path: Path) -> None:
    weights = without("lm_head.weight")
    decoder = load_decoder(tiny_checkpoint.write(tmp_path, weights, tie_word_embeddings=True))
    assert decoder.head is None


def test_tied_with_an_equal_head(tmp_path: Path) -> None:
    weights = tiny_checkpoint.tensors()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    decoder = load_decoder(tiny_checkpoint.write(tmp_path, weights, tie_word_embeddings=True))
    assert decoder.head is None


def test_tied_with_another_head_is_not_tied(tmp_path: Path) -> None:
    decoder = load_decoder(tiny_checkpoint.write(tmp_path, tie_word_embeddings=True), dtype=None)
    stored = tiny_checkpoint.tensors()
    assert not decoder.config.tied_embeddings
    np.testing.assert_array_equal(decoder.head[...], stored["lm_head.weight"])
    np.testing.assert_array_equal(decoder.embedding[...], stored["model.embed_tokens.weight"])


def test_tied_and_quantised(tmp_path: Path) -> None:
    weights = tiny_checkpoint.tensors()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = np.zeros((20, 16), np.int8)
    with pytest.raises(UnsupportedModelError, match="quantised"):
        load_decoder(tiny_checkpoint.write(tmp_path, weights, tie_word_embeddings=True))


def test_tied_with_the_head_alone(tmp_path: Path) -> None:
    weights = without("model.embed_tokens.weight")
    directory = tiny_checkpoint.write(tmp_path, weights, tie_word_embeddings=True)
    decoder = load_decoder(directory, dtype=None)
    np.testing.assert_array_equal(decoder.embedding[...], weights["lm_head.weight"])


# ---- tensors that do not fit --------------------------------------------------------------------


def test_missing_tensor(tmp_path: Path) -> None:
    weights = without("model.layers.1.self_attn.k_proj.weight", "model.norm.weight")
    with pytest.raises(CheckpointError) as error:
        load_decoder(tiny_checkpoint.write(tmp_path, weights))
    assert "2 missing tensors" in str(error.value)
    assert "model.layers.1.self_attn.k_proj.weight" in str(error.value)
    assert "model.norm.weight" in str(error.value)


def test_missing_head_when_not_tied(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"1 missing tensor \(lm_head.weight\)"):
        load_decoder(tiny_checkpoint.write(tmp_path, without("lm_head.weight")))


def test_surplus_tensor(tmp_path: Path) -> None:
    extra = {"model.layers.0.self_attn.q_proj.bias": np.zeros(16, np.float32)}
    with pytest.raises(CheckpointError, match=r"1 surplus tensor \(.*q_proj.bias\)"):
        load_decoder(tiny_checkpoint.write(tmp_path, {**tiny_checkpoint.tensors(), **extra}))


def test_a_layer_more_than_config_says(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"9 surplus tensors \(model.layers.1.* 4 more\)"):
        load_decoder(tiny_checkpoint.write(tmp_path, num_hidden_layers=1))


def test_wrong_shape(tmp_path: Path) -> None:
    weights = tiny_checkpoint.tensors()
    weights["model.layers.0.mlp.down_proj.weight"] = np.zeros((24, 16), np.float32)
    with pytest.raises(
        CheckpointError, match=r"layers.0.mlp.down_proj.weight .*\[24, 16\].*\[16, 24\]"
    ):
        load_decoder(tiny_checkpoint.write(tmp_path, weights))


def test_quantised_tensor(tmp_path: Path) -> None:
    weights = tiny_checkpoint.tensors()
    weights["model.norm.weight"] = np.zeros(16, np.int8)
    with pytest.raises(UnsupportedModelError, match=r"model.norm.weight.*I8: quantised"):
        load_decoder(tiny_checkpoint.write(tmp_path, weights))


@pytest.mark.parametrize("kind", ["qweight", "weight_packed"])
def test_packed_weights(tmp_path: Path, kind: str) -> None:
    name = f"model.layers.0.self_attn.q_proj.{kind}"
    weights = {**tiny_checkpoint.tensors(), name: np.zeros((2, 16), np.int32)}
    with pytest.raises(UnsupportedModelError, match=f"{name} in .* is a quantised weight"):
        load_decoder(tiny_checkpoint.write(tmp_path, weights))


@pytest.mark.parametrize("whole", [False, True])
def test_an_adapter(tmp_path: Path, whole: bool) -> None:
    """Without a model beside it, or with one, which transformers would not use as it is."""
    if whole:
        tiny_checkpoint.write(tmp_path)
    adapter = {"base_model_name_or_path": "meta-llama/Llama-3.1-8B", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(UnsupportedModelError) as error:
        load_decoder(tmp_path)
    assert "adapter (adapter_config.json: 'LORA')" in str(error.value)
    assert "the model 'meta-llama/Llama-3.1-8B'" in str(error.value)
    assert "merge_and_unload" in str(error.value)


# ---- files that are missing or damaged ----------------------------------------------------------


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no directory .*nowhere"):
        load_decoder(tmp_path / "nowhere")


def test_a_file_instead_of_a_directory(tmp_path: Path) -> None:
    directory = tiny_checkpoint.write(tmp_path)
    with pytest.raises(CheckpointError, match="is a file: give the directory"):
        load_decoder(directory / "model.safetensors")


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config.json"):
        load_decoder(tmp_path)


@pytest.mark.parametrize("text", ['{"hidden_size": 4,', "[]", "\xff"])
def test_malformed_config(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config.json (is not valid JSON|must hold|cannot)"):
        load_decoder(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor .*no weights"):
        load_decoder(tiny_checkpoint.write_config(tmp_path))


def test_pickled_weights_only(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(
        CheckpointError, match=r"only pytorch_model.bin, which is not read.*convert"
    ):
        load_decoder(tiny_checkpoint.write_config(tmp_path))


def test_weights_under_another_name(tmp_path: Path) -> None:
    tiny_checkpoint.write(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "adapter.safetensors")
    with pytest.raises(CheckpointError, match=r"only adapter.safetensors"):
        load_decoder(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100, -4])
def test_truncated_shard(tmp_path: Path, keep: int) -> None:
    path = tiny_checkpoint.write(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model.safetensors \(\d+ bytes\) is truncated"):
        load_decoder(tmp_path)


def test_damaged_header(tmp_path: Path) -> None:
    path = tiny_checkpoint.write(tmp_path) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[8:12] = b"\x00\x01\x02\x03"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_decoder(tmp_path)


def test_missing_shard(tmp_path: Path) -> None:
    tiny_checkpoint.write_sharded(tmp_path)
    (tmp_path / "model-2-of-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"2 shards, of which model-2-of-2.safetensors"):
        load_decoder(tmp_path)


@pytest.mark.parametrize("weight_map", [None, {}, []])
def test_index_without_weight_map(tmp_path: Path, weight_map: object) -> None:
    tiny_checkpoint.write_sharded(tmp_path)
    tiny_checkpoint.write_index(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match="no weight_map"):
        load_decoder(tmp_path)


def test_malformed_index(tmp_path: Path) -> None:
    index = tiny_checkpoint.write_sharded(tmp_path) / "model.safetensors.index.json"
    index.write_text("{")
    with pytest.raises(CheckpointError, match=r"index.json is not valid JSON"):
        load_decoder(tmp_path)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", 3, ""])
def test_index_that_leaves_its_directory(tmp_path: Path, shard: object) -> None:
    tiny_checkpoint.write_sharded(tmp_path)
    tiny_checkpoint.write_index(tmp_path, {"model.norm.weight": shard})
    with pytest.raises(CheckpointError, match="must be a file beside the index"):
        load_decoder(tmp_path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    tiny_checkpoint.write_sharded(tmp_path)
    shutil.copy(tmp_path / "model-1-of-2.safetensors", tmp_path / "model-2-of-2.safetensors")
    with pytest.raises(CheckpointError, match=r"is both in model-1-of-2.* and model-2-of-2"):
        load_decoder(tmp_path)


# ---- the expert weights of Mixtral --------------------------------------------------------------


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


# ---- everything is checked before anything is read ----------------------------------------------


def test_no_weight_is_read_from_a_checkpoint_that_does_not_fit(tmp_path: Path, monkeypatch) -> None:
    from nspjax.models.safetensors_file import SafetensorsTensor

    def read(self):
        raise AssertionError(f"{self.name} was read")

    monkeypatch.setattr(SafetensorsTensor, "read", read)
    with pytest.raises(CheckpointError, match=r"missing tensor \(model.norm.weight\)"):
        load_decoder(tiny_checkpoint.write(tmp_path, without("model.norm.weight")))


def test_a_shard_that_vanishes_while_loading(tmp_path: Path, monkeypatch) -> None:
    from nspjax.models import load

    plan = load.plan_weights

    def plan_and_damage(*args):
        made = plan(*args)
        save_file({"x": np.zeros(1)}, tmp_path / "model.safetensors")
        return made

    monkeypatch.setattr(load, "plan_weights", plan_and_damage)
    with pytest.raises(CheckpointError, match=r"model.safetensors"):
        load_decoder(tiny_checkpoint.write(tmp_path))
