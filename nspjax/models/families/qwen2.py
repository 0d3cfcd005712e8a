"""Qwen2 and Qwen2.5: Llama with biases on q, k, v, and a window in some layers if asked for."""

from nspjax.models.config import ModelConfig
from nspjax.models.families import llama
from nspjax.models.families.family import Family, rotary_settings, window_by_layer
from nspjax.models.settings import Settings


def read(settings: Settings) -> ModelConfig:
    return ModelConfig(
        **rotary_settings(settings, n_kv_heads=32, max_position_tokens=32768),
        **window_by_layer(settings, max_window_layers=28),
        qkv_bias=True,
        family="qwen2",
    )


FAMILY = Family("Qwen2ForCausalLM", "qwen2", read, llama.TABLE)
