"""Mistral: Llama with a sliding window in every layer."""

from nspjax.models.config import ModelConfig
from nspjax.models.families import llama
from nspjax.models.families.family import Family, refuse_layer_types, rotary_settings
from nspjax.models.settings import Settings


def read(settings: Settings) -> ModelConfig:
    window = settings.window_tokens("sliding_window", 4096)
    refuse_layer_types(settings, window)
    return ModelConfig(
        **rotary_settings(settings, n_kv_heads=8, max_position_tokens=4096 * 32),
        window_tokens=window,
        bos_token_id=1,
        eos_token_ids=(2,),
        family="mistral",
    )


FAMILY = Family("MistralForCausalLM", "mistral", read, llama.TABLE)
