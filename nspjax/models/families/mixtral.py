"""Mixtral: Mistral with a mixture of experts in place of the MLP."""

from nspjax.models.config import ModelConfig
from nspjax.models.families import llama
from nspjax.models.families.family import Family, refuse_layer_types, rotary_settings
from nspjax.models.settings import MOST_EXPERTS, Settings
from nspjax.models.weight_table import Table, Target

_GATE_UP = "layers.{layer}.mlp.gate_up"
_DOWN = "layers.{layer}.mlp.down"
_EXPERT = "model.layers.{layer}.block_sparse_moe.experts.{expert}."
TABLE: Table = {
    **llama.ATTENTION_TABLE,
    # as published: a tensor for each expert
    "model.layers.{layer}.block_sparse_moe.gate.weight": Target("layers.{layer}.mlp.router", True),
    f"{_EXPERT}w1.weight": Target(_GATE_UP, True, part=(0, 2)),
    f"{_EXPERT}w3.weight": Target(_GATE_UP, True, part=(1, 2)),
    f"{_EXPERT}w2.weight": Target(_DOWN, True),
    # as transformers 5 names them in memory: all experts in one tensor
    "model.layers.{layer}.mlp.gate.weight": Target("layers.{layer}.mlp.router", True),
    "model.layers.{layer}.mlp.experts.gate_up_proj": Target(_GATE_UP, True),
    "model.layers.{layer}.mlp.experts.down_proj": Target(_DOWN, True),
}


def read(settings: Settings) -> ModelConfig:
    window = settings.window_tokens("sliding_window", None)
    refuse_layer_types(settings, window)
    return ModelConfig(
        **rotary_settings(
            settings,
            n_kv_heads=8,
            max_position_tokens=4096 * 32,
            norm_eps=1e-5,
            rope_theta=1e6,
        ),
        window_tokens=window,
        n_experts=settings.integer("num_local_experts", 8, maximum=MOST_EXPERTS),
        n_experts_per_token=settings.integer("num_experts_per_tok", 2),
        bos_token_id=1,
        eos_token_ids=(2,),
        family="mixtral",
    )


FAMILY = Family("MixtralForCausalLM", "mixtral", read, TABLE)
