"""GGUF files, as decoders: compared with the Hugging Face directory that they were made of."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_checkpoint
from flax import nnx
from safetensors.numpy import save_file

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")

from gguf import GGMLQuantizationType as Format  # noqa: E402
from gguf_files import write_gguf  # noqa: E402

from nspjax.errors import CheckpointError, UnsupportedModelError  # noqa: E402
from nspjax.models import RopeFactors, load_config, load_decoder  # noqa: E402
from nspjax.models.rope import inverse_frequencies  # noqa: E402

E, F, V, KV, D = 64, 96, 50, 32, 16
SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5},
    "llama biased": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": True,
        "mlp_bias": True,
    },
    "mixtral": {
        "architectures": ["MixtralForCausalLM"],
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
    },
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": True},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 32, "num_attention_heads": 2},
}
QUANTISED = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
K_QUANTS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


def write_directory(directory: Path, family: str) -> Path:
    """A directory of the family with random float32 weights; its sizes suit blocks of 32."""
    model_type = family.split()[0]
    sizes = {"hidden_size": E, "intermediate_size": F, "vocab_size": V, "rope_theta": 5000.0}
    settings = {"num_key_value_heads": 2, "rms_norm_eps": 1e-6, **sizes, **SETTINGS[family]}
    settings |= {"model_type": model_type, "bos_token_id": 1, "eos_token_id": 2}
    settings = {**tiny_checkpoint.CONFIG, **settings}
    d = settings.get("head_dim", E // settings["num_attention_heads"])
    heads = {"q": settings["num_attention_heads"] * d, "k": 2 * d, "v": 2 * d}
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (V, E), "norm.weight": (E,)}
    for i in range(2):
        at = f"layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}{norm}.weight"] = (E,)
        for part, n in heads.items():
            shapes[f"{at}self_attn.{part}_proj.weight"] = (n, E)
            if settings.get("attention_bias") or model_type == "qwen2":
                shapes[f"{at}self_attn.{part}_proj.bias"] = (n,)
            if part != "v" and model_type == "qwen3":
                shapes[f"{at}self_attn.{part}_norm.weight"] = (d,)
        shapes[f"{at}self_attn.o_proj.weight"] = (E, heads["q"])
        if settings.get("attention_bias"):
            shapes[f"{at}self_attn.o_proj.bias"] = (E,)
        mlp = {"gate": (F, E), "up": (F, E), "down": (E, F)}
        if model_type == "mixtral":
            shapes[f"{at}block_sparse_moe.gate.weight"] = (3, E)
            for expert in range(3):
                for w, part in (("w1", "gate"), ("w2", "down"), ("w3", "up")):
                    shapes[f"{at}block_sparse_moe.experts.{expert}.{w}.weight"] = mlp[part]
        else:
            for part, shape in mlp.items():
                shapes[f"{at}mlp.{part}_proj.weight"] = shape
                if settings.get("mlp_bias"):
                    shapes[f"{at}mlp.{part}_proj.bias"] = shape[:1]
    rng = np.random.default_rng(3)
    shapes = {f"model.{name}": shape for name, shape in shapes.items()}
    if not settings["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (V, E)
    weights = {name: rng.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}
    return tiny_checkpoint.write(directory, weights, **settings)


def split_experts(held: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of `write_gguf` with one for each expert, as the directory has them."""
    found = {}
    for name, values in held.items():
        if "experts." in name:
            before, after = name.split("experts.")
            found |= {f"{before}experts.{i}.{after}": v for i, v in enumerate(values)}
        else:
            found[name] = values
    return {name: np.ascontiguousarray(values) for name, values in found.items()}


def leaves(decoder: Any) -> dict[str, np.ndarray]:
    paths = jax.tree_util.tree_leaves_with_path(nnx.state(decoder))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in paths}


def assert_same(file: Path, directory: Path) -> None:
    a, b = (leaves(load_decoder(each, dtype="float32")) for each in (file, directory))
    assert a.keys() == b.keys()
    for name, values in b.items():
        np.testing.assert_array_equal(a[name], values, err_msg=name)


@pytest.mark.parametrize("family", SETTINGS)
def test_a_family_is_as_its_directory(tmp_path: Path, family: str) -> None:
    directory = write_directory(tmp_path, family)
    write_gguf(tmp_path / "x.gguf", directory)
    assert_same(tmp_path / "x.gguf", directory)
    ours, theirs = load_config(tmp_path / "x.gguf"), load_config(directory)
    assert ours.norm_eps == pytest.approx(theirs.norm_eps)
    same = {"norm_eps": 1.0, "checkpoint_dtype": None}
    assert dataclasses.replace(ours, **same) == dataclasses.replace(theirs, **same)


@pytest.mark.parametrize("form", QUANTISED)
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_a_format_is_decoded_as_gguf_does(tmp_path: Path, family: str, form: str) -> None:
    directory = write_directory(tmp_path, family)
    held = write_gguf(tmp_path / "x.gguf", directory, Format[form])
    save_file(split_experts(held), directory / "model.safetensors")
    assert_same(tmp_path / "x.gguf", directory)


@pytest.mark.parametrize("form", K_QUANTS)
def test_k_quants(tmp_path: Path, form: str, monkeypatch) -> None:
    """In chunks of a few rows: the last is shorter."""
    from nspjax.models.gguf import read_header, tensor

    monkeypatch.setattr(tensor, "_CHUNK_VALUES", 1100)
    rng = np.random.default_rng(1)
    _, n_bytes = gguf.GGML_QUANT_SIZES[Format[form]]
    blocks = rng.integers(0, 0x40, (9, 2 * n_bytes), np.uint8)  # no scale is beyond 2
    write_gguf_of(tmp_path / "x.gguf", {"w": (blocks, Format[form])})
    read = read_header(tmp_path / "x.gguf").tensors["w"].read()
    np.testing.assert_array_equal(read, gguf.quants.dequantize(blocks, Format[form]))
    assert np.ptp(read) > 0.1


def write_gguf_of(path: Path, tensors: dict[str, Any], **metadata: str) -> Path:
    writer = gguf.GGUFWriter(path, metadata.pop("architecture", "llama"))
    for key, value in metadata.items():
        writer.add_string(key, value)
    for name, (blocks, form) in tensors.items():
        writer.add_tensor(name, blocks, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("form", "dtype"),
    [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16"), ("Q4_1", "bfloat16")],
)
def test_the_dtype_that_is_automatic(tmp_path: Path, form: str, dtype: str) -> None:
    write_gguf(tmp_path / "x.gguf", write_directory(tmp_path, "llama"), Format[form])
    decoder = load_decoder(tmp_path / "x.gguf", dtype="auto")
    assert decoder.dtype == dtype
    exact = leaves(load_decoder(tmp_path / "x.gguf", dtype="float32"))
    for name, values in leaves(decoder).items():
        np.testing.assert_array_equal(values, exact[name].astype(dtype), err_msg=name)


# ---- rotation -----------------------------------------------------------------------------------


def test_factors_divide_the_frequencies(tmp_path: Path) -> None:
    factors = np.array([1, 1, 1.5, 2, 4, 8, 8, 8], np.float32)
    directory = write_directory(tmp_path, "llama")
    write_gguf(tmp_path / "x.gguf", directory, more={"rope_freqs.weight": factors})
    config = load_config(tmp_path / "x.gguf")
    assert config.rope_scaling == RopeFactors(tuple(factors.tolist()))
    expected = 5000.0 ** (-np.arange(0, D, 2) / D) / factors
    np.testing.assert_allclose(inverse_frequencies(config), expected, rtol=1e-6)
    load_decoder(tmp_path / "x.gguf")


def test_linear_scaling(tmp_path: Path) -> None:
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    write_gguf(tmp_path / "x.gguf", write_directory(tmp_path, "llama"), metadata=scaling)
    expected = 5000.0 ** (-np.arange(0, D, 2) / D) / 4
    np.testing.assert_allclose(
        inverse_frequencies(load_config(tmp_path / "x.gguf")), expected, rtol=1e-6
    )


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.rope.scaling.type": "yarn"}, "rope.scaling.type to 'yarn'.*it has: none, linear"),
        ({"llama.logit_scale": 2.0}, "llama.logit_scale to 2.0, which nspjax does not have"),
        ({"llama.attention.sliding_window": 8}, "sliding_window to 8"),
        ({"llama.attention.value_length": 8}, "value_length to 8, .*it has: 16"),
        ({"llama.rope.dimension_count": 8}, "dimension_count to 8, .*it has: 16"),
        ({"llama.attention.causal": False}, "causal to False"),
        ({"split.count": 3}, "one of 3 parts .*llama-gguf-split --merge"),
    ],
)
def test_settings_that_are_not_there(tmp_path: Path, metadata: dict, message: str) -> None:
    write_gguf(tmp_path / "x.gguf", write_directory(tmp_path, "llama"), metadata=metadata)
    with pytest.raises(UnsupportedModelError, match=message):
        load_config(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.block_count": None}, "has no llama.block_count"),
        ({"llama.block_count": 3}, r"fit its metadata: 9 missing tensors \(blk.2.attn_"),
        ({"llama.block_count": 1}, r"surplus tensors \(blk.1.attn_norm.weight"),
        ({"llama.block_count": 9000}, "21 tensors in all, but its metadata says 9000 layers"),
        (
            {"llama.feed_forward_length": 80},
            r"ffn_.*96.*, but its metadata makes it .*80",
        ),
        ({"llama.embedding_length": "64"}, "embedding_length .*integer of at least 1, got '64'"),
        ({"llama.attention.head_count_kv": [2, 1]}, "head_count_kv .* got array"),
        ({"llama.attention.head_count_kv": 3}, "n_heads .4. must be a multiple of n_kv_heads .3."),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "epsilon .*finite number"),
        ({"tokenizer.ggml.eos_token_id": "x"}, "eos_token_id .*integer"),
        ({"general.alignment": 3}, "alignment 3, which is no power of 2"),
    ],
)
def test_metadata_that_is_wrong(tmp_path: Path, metadata: dict, message: str) -> None:
    write_gguf(tmp_path / "x.gguf", write_directory(tmp_path, "llama"), metadata=metadata)
    with pytest.raises(CheckpointError, match=message):
        load_decoder(tmp_path / "x.gguf")


def test_other_architectures(tmp_path: Path) -> None:
    path = write_gguf_of(tmp_path / "x.gguf", {}, architecture="gemma3")
    with pytest.raises(
        UnsupportedModelError, match=r"architecture to 'gemma3'.*llama, qwen2, qwen3"
    ):
        load_config(path)


def test_a_type_of_tensor_that_cannot_be_decoded(tmp_path: Path) -> None:
    blocks = (np.zeros((4, 4), np.int32), Format.I32)
    path = write_gguf_of(tmp_path / "x.gguf", {"w": blocks})
    with pytest.raises(UnsupportedModelError, match=r"'w' .*GGML type 26, .*it can: F32, F16"):
        load_config(path)


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    directory = write_directory(tmp_path, "llama")
    path = tmp_path / "x.gguf"
    write_gguf(path, directory, Format.Q8_0)
    from nspjax.models.gguf import read_header

    at = read_header(path).tensors["blk.1.attn_k.weight"].begin
    data = bytearray(path.read_bytes())
    data[at : at + 2] = np.array([np.inf], np.float16).tobytes()
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"32 of 2048 values of blk.1.attn_k.weight .*finite"):
        load_decoder(path)


def test_files_that_are_called_otherwise(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", write_directory(tmp_path, "llama"))
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"of GGUF, give the file: x.gguf"):
        load_decoder(tmp_path)
    (tmp_path / "x.gguf").rename(tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=r"or a GGUF file, whose name ends in .gguf"):
        load_decoder(tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=r"there is no file .*x.gguf"):
        load_decoder(str(tmp_path / "x.gguf"))


def test_a_file_that_is_changed_while_it_is_loaded(tmp_path: Path) -> None:
    from nspjax.models.gguf import read_header

    path = tmp_path / "x.gguf"
    write_gguf(path, write_directory(tmp_path, "llama"))
    tensor = read_header(path).tensors["output.weight"]
    with path.open("ab") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="was changed while it was loaded"):
        tensor.read()
