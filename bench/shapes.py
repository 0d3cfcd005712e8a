"""The model shapes of the benches. Weights are random, the vocabulary is small: neither changes
what attention moves."""

from __future__ import annotations

import dataclasses

from nspjax.models import ModelConfig

VOCAB_SIZE = 4096


def llama_1b(context_tokens: int) -> ModelConfig:
    """Llama 3.2 1B: 16 layers, hidden 2048, 32 query and 8 KV heads of 64."""
    return ModelConfig.llama(
        vocab_size=VOCAB_SIZE,
        hidden_size=2048,
        intermediate_size=8192,
        n_layers=16,
        n_heads=32,
        n_kv_heads=8,
        max_position_tokens=context_tokens,
    )


def opt_1_3b(context_tokens: int) -> ModelConfig:
    """OPT 1.3B: 24 layers, hidden 2048, 32 heads of 64. Its 2048 positions become as many as asked
    for."""
    return ModelConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=2048,
        intermediate_size=8192,
        n_layers=24,
        n_heads=32,
        n_kv_heads=32,
        head_dim=64,
        max_position_tokens=context_tokens,
        positions="learned",
        position_offset=2,
        norm="layer",
        norm_eps=1e-5,
        activation="relu",
        gated_mlp=False,
        qkv_bias=True,
        attention_out_bias=True,
        mlp_bias=True,
        tied_embeddings=True,
        family="opt",
    )


SHAPES = {"llama-1b": llama_1b, "opt-1.3b": opt_1_3b}


def shape_named(name: str, context_tokens: int, n_layers: int | None = None) -> ModelConfig:
    """One of SHAPES, with fewer layers where asked for."""
    config = SHAPES[name](context_tokens)
    return config if n_layers is None else dataclasses.replace(config, n_layers=n_layers)


def kv_token_bytes(config: ModelConfig, element_bytes: int = 2) -> int:
    """K and V of one token in all layers."""
    return config.n_layers * config.n_kv_heads * config.head_dim * 2 * element_bytes
