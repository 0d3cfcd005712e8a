"""Qwen3: Llama with a norm over each head of q and k, and heads of a size of their own."""

from nspjax.models.config import ModelConfig
from nspjax.models.families import llama
from nspjax.models.families.family import Family, rotary_settings, window_by_layer
from nspjax.models.settings import Settings
from nspjax.models.weight_table import Table, Target

TABLE: Table = {
    **llama.TABLE,
    "model.layers.{layer}.self_attn.q_norm.weight": Target("layers.{layer}.attention.q_norm.scale"),
    "model.layers.{layer}.self_attn.k_norm.weight": Target("layers.{layer}.attention.k_norm.scale"),
}


def read(settings: Settings) -> ModelConfig:
    bias = settings.flag("attention_bias", False)
    return ModelConfig(
        **rotary_settings(settings, n_kv_heads=32, max_position_tokens=32768, head_dim=128),
        **window_by_layer(settings, max_window_layers=28),
        qkv_bias=bias,
        attention_out_bias=bias,
        qk_norm=True,
        family="qwen3",
    )


FAMILY = Family("Qwen3ForCausalLM", "qwen3", read, TABLE)
