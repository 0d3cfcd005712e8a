"""GGUF files of Hugging Face directories, made as llama.cpp's converter makes them.

What the converter does beyond renaming is taken over from its convert_hf_to_gguf.py: the rows of
Llama's q and k change their order, and experts are stacked.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    r"model.layers.(\d+).input_layernorm.weight": r"blk.\1.attn_norm.weight",
    r"model.layers.(\d+).post_attention_layernorm.weight": r"blk.\1.ffn_norm.weight",
    r"model.layers.(\d+).self_attn.([qkv])_proj.(weight|bias)": r"blk.\1.attn_\2.\3",
    r"model.layers.(\d+).self_attn.o_proj.(weight|bias)": r"blk.\1.attn_output.\2",
    r"model.layers.(\d+).self_attn.([qk])_norm.weight": r"blk.\1.attn_\2_norm.weight",
    r"model.layers.(\d+).mlp.(gate|up|down)_proj.(weight|bias)": r"blk.\1.ffn_\2.\3",
    r"model.layers.(\d+).block_sparse_moe.gate.weight": r"blk.\1.ffn_gate_inp.weight",
    r"model.layers.(\d+).block_sparse_moe.experts.w1.weight": r"blk.\1.ffn_gate_exps.weight",
    r"model.layers.(\d+).block_sparse_moe.experts.w2.weight": r"blk.\1.ffn_down_exps.weight",
    r"model.layers.(\d+).block_sparse_moe.experts.w3.weight": r"blk.\1.ffn_up_exps.weight",
}
ARCHITECTURES = {"llama": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""general.architecture by model_type."""
F32 = gguf.GGMLQuantizationType.F32


def write_gguf(
    path: Path,
    directory: Path,
    matrices: gguf.GGMLQuantizationType = F32,
    *,
    metadata: dict[str, Any] | None = None,
    more: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Write a checkpoint directory with a float32 model.safetensors as a GGUF file.

    matrices: the format of what has two axes or more and rows of whole blocks. metadata: keys to
    add or, with None, to leave out. more: tensors to add.

    Returns the values that the file holds, under the directory's names.
    """
    config = json.loads((directory / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {**_metadata(config, architecture), **(metadata or {})}.items():
        _add(writer, key, value)
    held = {}
    block_values, _ = gguf.GGML_QUANT_SIZES[matrices]
    tensors = _stacked(load_file(directory / "model.safetensors"))
    for name, values in tensors.items():
        kind = matrices if values.ndim > 1 and values.shape[-1] % block_values == 0 else F32
        theirs = _gguf_name(name)
        permuted = _permuted(theirs, values, config) if architecture == "llama" else values
        blocks = gguf.quants.quantize(permuted, kind)
        writer.add_tensor(theirs, blocks, raw_dtype=kind)
        held[name] = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
    for name, values in (more or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def _metadata(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    rope = config.get("rope_parameters") or {}
    values = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config.get("num_key_value_heads"),
        "attention.key_length": config.get("head_dim"),
        "attention.value_length": config.get("head_dim"),
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "rope.freq_base": float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))),
        "expert_count": config.get("num_local_experts"),
        "expert_used_count": config.get("num_experts_per_tok"),
    }
    tokens = {
        f"tokenizer.ggml.{name}_token_id": config.get(f"{name}_token_id") for name in ("bos", "eos")
    }
    return {f"{architecture}.{key}": value for key, value in values.items()} | tokens


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case None:
            pass
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def _gguf_name(name: str) -> str:
    for spelling, theirs in NAMES.items():
        if re.fullmatch(spelling, name):
            return re.sub(spelling, theirs, name)
    raise KeyError(name)


def _permuted(name: str, values: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    n_heads = config["num_attention_heads"]
    found = re.search(r"attn_([qk])\.", name)
    if not found:
        return values
    n = n_heads if found[1] == "q" else config.get("num_key_value_heads", n_heads)
    split = values.reshape(n, 2, values.shape[0] // n // 2, *values.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(values.shape))


def _stacked(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Experts of a layer as one tensor [experts, out, in]."""
    found: dict[str, np.ndarray] = {}
    experts: dict[str, list[np.ndarray]] = {}
    order = sorted(tensors, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    for name in order:
        stacked = re.sub(r"experts\.\d+\.", "experts.", name)
        if stacked == name:
            found[name] = tensors[name]
        else:
            experts.setdefault(stacked, []).append(tensors[name])
    return found | {name: np.stack(parts) for name, parts in experts.items()}
