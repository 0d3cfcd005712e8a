"""A Llama of random weights that loads and compiles in seconds. It has no tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

VOCAB, CONTEXT = 64, 256
WIDTH, HEADS, KV_HEADS, LAYERS, MIDDLE = 32, 4, 2, 2, 64


def write_tiny_llama(folder: Path, **settings: object) -> Path:
    """config.json, with `settings` too, and model.safetensors in `folder`, always the same."""
    from safetensors.numpy import save_file

    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": MIDDLE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        **settings,
    }
    (folder / "config.json").write_text(json.dumps(config))
    draw = np.random.default_rng(0)
    weights = {
        name: draw.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)
        for name, shape in _shapes(config["vocab_size"]).items()
    }
    weights |= {name: np.ones(WIDTH, np.float32) for name in _norms()}
    save_file(weights, folder / "model.safetensors")
    return folder


def _shapes(vocab: int) -> dict[str, tuple[int, int]]:
    shapes = {"model.embed_tokens.weight": (vocab, WIDTH), "lm_head.weight": (vocab, WIDTH)}
    kv = WIDTH // HEADS * KV_HEADS
    for i in range(LAYERS):
        for name, shape in (
            ("self_attn.q_proj", (WIDTH, WIDTH)),
            ("self_attn.k_proj", (kv, WIDTH)),
            ("self_attn.v_proj", (kv, WIDTH)),
            ("self_attn.o_proj", (WIDTH, WIDTH)),
            ("mlp.gate_proj", (MIDDLE, WIDTH)),
            ("mlp.up_proj", (MIDDLE, WIDTH)),
            ("mlp.down_proj", (WIDTH, MIDDLE)),
        ):
            shapes[f"model.layers.{i}.{name}.weight"] = shape
    return shapes


def _norms() -> list[str]:
    layers = [f"model.layers.{i}." for i in range(LAYERS)]
    return ["model.norm.weight"] + [
        f"{layer}{name}.weight"
        for layer in layers
        for name in ("input_layernorm", "post_attention_layernorm")
    ]
