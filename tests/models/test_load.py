"""Which tensor of a checkpoint ends up where, and every way in which a checkpoint can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_checkpoint
from loaded_weights import assert_same, weights_of
from safetensors.numpy import save_file

from nspjax.errors import CheckpointError, InvalidArgumentError, UnsupportedModelError
from nspjax.models import load_decoder


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
