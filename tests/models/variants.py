"""The tiny checkpoints that tests compare with transformers, as settings of its config classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

COMMON = {
    "vocab_size": 96,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
ROTARY = {**COMMON, "intermediate_size": 64, "num_key_value_heads": 2}
LLAMA = {**ROTARY, "tie_word_embeddings": False}
OPT = {**COMMON, "ffn_dim": 64}
THETA = {"rope_type": "default", "rope_theta": 10000.0}


@dataclasses.dataclass(frozen=True)
class Variant:
    """config: the name of a transformers config class, made with `settings`.

    dtype: of the saved weights. spelling: of config.json, "new" or "old" (before transformers 5).
    max_shard_size: as save_pretrained takes it. fused_experts: save names as they are in memory.
    """

    config: str
    settings: Mapping[str, Any]
    dtype: str = "bfloat16"
    spelling: str = "new"
    max_shard_size: str = "1GB"
    fused_experts: bool = False


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # so short that within a test's prompt all three ranges of wavelengths occur
    "original_max_position_embeddings": 24,
}
VARIANTS: dict[str, Variant] = {
    "llama": Variant("LlamaConfig", LLAMA),
    "llama_bias": Variant("LlamaConfig", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama_llama3_rope": Variant("LlamaConfig", {**LLAMA, "rope_parameters": LLAMA3_ROPE}),
    "llama_old_spelling": Variant(
        "LlamaConfig",
        {**LLAMA, "rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}},
        dtype="float16",
        spelling="old",
    ),
    "llama_mqa": Variant("LlamaConfig", {**LLAMA, "num_key_value_heads": 1}),
    "llama_tied": Variant("LlamaConfig", {**LLAMA, "tie_word_embeddings": True}, dtype="float32"),
    "llama_sharded": Variant("LlamaConfig", LLAMA, max_shard_size="30KB"),
    "llama_head_24": Variant("LlamaConfig", {**LLAMA, "num_attention_heads": 2, "head_dim": 24}),
    "llama_head_48": Variant("LlamaConfig", {**LLAMA, "num_attention_heads": 2, "head_dim": 48}),
    "llama_head_80": Variant("LlamaConfig", {**LLAMA, "num_attention_heads": 2, "head_dim": 80}),
    "mistral_window": Variant("MistralConfig", {**ROTARY, "sliding_window": 6}),
    "qwen2": Variant("Qwen2Config", ROTARY),
    "qwen2_window_layers": Variant(
        "Qwen2Config",
        {**ROTARY, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": Variant("Qwen3Config", {**ROTARY, "head_dim": 16, "tie_word_embeddings": True}),
    "opt": Variant("OPTConfig", OPT),
    "opt_350m": Variant(
        "OPTConfig", {**OPT, "word_embed_proj_dim": 32, "do_layer_norm_before": False}
    ),
    "opt_galactica": Variant(
        "OPTConfig",
        {
            **OPT,
            "enable_bias": False,
            "layer_norm_elementwise_affine": False,
            "activation_function": "gelu",
        },
    ),
    "mixtral": Variant(
        "MixtralConfig", {**ROTARY, "intermediate_size": 32, "num_local_experts": 4}
    ),
    "mixtral_fused": Variant(
        "MixtralConfig",
        {**ROTARY, "intermediate_size": 32, "num_local_experts": 4, "sliding_window": 7},
        fused_experts=True,
    ),
}
