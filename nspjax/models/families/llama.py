"""Llama 2 and 3, and the names that most later families took over."""

from nspjax.models.config import ModelConfig
from nspjax.models.families.family import Family, rotary_settings
from nspjax.models.settings import Settings
from nspjax.models.weight_table import Table, Target

ATTENTION_TABLE: Table = {
    "model.embed_tokens.weight": Target("embedding"),
    "model.norm.weight": Target("final_norm.scale"),
    "lm_head.weight": Target("head"),
    "model.layers.{layer}.input_layernorm.weight": Target("layers.{layer}.attention_norm.scale"),
    "model.layers.{layer}.post_attention_layernorm.weight": Target("layers.{layer}.mlp_norm.scale"),
    "model.layers.{layer}.self_attn.q_proj.weight": Target("layers.{layer}.attention.q.w", True),
    "model.layers.{layer}.self_attn.k_proj.weight": Target("layers.{layer}.attention.k.w", True),
    "model.layers.{layer}.self_attn.v_proj.weight": Target("layers.{layer}.attention.v.w", True),
    "model.layers.{layer}.self_attn.o_proj.weight": Target("layers.{layer}.attention.out.w", True),
    "model.layers.{layer}.self_attn.q_proj.bias": Target("layers.{layer}.attention.q.b"),
    "model.layers.{layer}.self_attn.k_proj.bias": Target("layers.{layer}.attention.k.b"),
    "model.layers.{layer}.self_attn.v_proj.bias": Target("layers.{layer}.attention.v.b"),
    "model.layers.{layer}.self_attn.o_proj.bias": Target("layers.{layer}.attention.out.b"),
}
TABLE: Table = {
    **ATTENTION_TABLE,
    "model.layers.{layer}.mlp.gate_proj.weight": Target("layers.{layer}.mlp.gate.w", True),
    "model.layers.{layer}.mlp.up_proj.weight": Target("layers.{layer}.mlp.up.w", True),
    "model.layers.{layer}.mlp.down_proj.weight": Target("layers.{layer}.mlp.down.w", True),
    "model.layers.{layer}.mlp.gate_proj.bias": Target("layers.{layer}.mlp.gate.b"),
    "model.layers.{layer}.mlp.up_proj.bias": Target("layers.{layer}.mlp.up.b"),
    "model.layers.{layer}.mlp.down_proj.bias": Target("layers.{layer}.mlp.down.b"),
}


def read(settings: Settings) -> ModelConfig:
    bias = settings.flag("attention_bias", False)
    return ModelConfig(
        **rotary_settings(settings, n_kv_heads=None, max_position_tokens=2048),
        qkv_bias=bias,
        attention_out_bias=bias,
        mlp_bias=settings.flag("mlp_bias", False),
        bos_token_id=1,
        eos_token_ids=(2,),
        family="llama",
    )


FAMILY = Family("LlamaForCausalLM", "llama", read, TABLE)
