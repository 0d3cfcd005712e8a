"""A tiny Llama checkpoint, written with NumPy, that a test can damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
}
E, F, V, KV = 16, 24, 20, 8
LAYER = {
    "input_layernorm.weight": (E,),
    "self_attn.q_proj.weight": (E, E),
    "self_attn.k_proj.weight": (KV, E),
    "self_attn.v_proj.weight": (KV, E),
    "self_attn.o_proj.weight": (E, E),
    "post_attention_layernorm.weight": (E,),
    "mlp.gate_proj.weight": (F, E),
    "mlp.up_proj.weight": (F, E),
    "mlp.down_proj.weight": (E, F),
}


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Its tensors, float32."""
    shapes = {
        "model.embed_tokens.weight": (V, E),
        **{f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in LAYER.items()},
        "model.norm.weight": (E,),
        "lm_head.weight": (V, E),
    }
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(shape, dtype=np.float32) for n, shape in shapes.items()}


def write(directory: Path, weights: dict[str, np.ndarray] | None = None, **settings: Any) -> Path:
    """Write the checkpoint with some settings changed."""
    write_config(directory, **settings)
    save_file(tensors() if weights is None else weights, directory / "model.safetensors")
    return directory


def write_config(directory: Path, **settings: Any) -> Path:
    """Write its config.json with some settings changed; the value ... removes one."""
    values = {key: value for key, value in {**CONFIG, **settings}.items() if value is not ...}
    (directory / "config.json").write_text(json.dumps(values))
    return directory


def write_sharded(directory: Path) -> Path:
    """Write the checkpoint in two shards with an index."""
    write_config(directory)
    weights = tensors()
    weight_map = {name: f"model-{1 + ('layers.1' in name)}-of-2.safetensors" for name in weights}
    for shard in set(weight_map.values()):
        save_file({n: w for n, w in weights.items() if weight_map[n] == shard}, directory / shard)
    write_index(directory, weight_map)
    return directory


def write_index(directory: Path, weight_map: object) -> None:
    """Write the index of the shards."""
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
