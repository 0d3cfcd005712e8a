"""What a family of models is: how to read its config.json, and where its tensors go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from nspjax.models.config import ModelConfig
from nspjax.models.settings import Settings
from nspjax.models.weight_table import Table


@dataclasses.dataclass(frozen=True)
class Family:
    """architecture, model_type: its names in config.json. read: config.json -> ModelConfig."""

    architecture: str
    model_type: str
    read: Callable[[Settings], ModelConfig]
    table: Table


def rotary_settings(
    settings: Settings,
    *,
    n_kv_heads: int | None,
    max_position_tokens: int,
    norm_eps: float = 1e-6,
    rope_theta: float = 10_000.0,
    head_dim: int | None = None,
) -> dict[str, Any]:
    """The fields of ModelConfig that Llama and its kin spell alike.

    The arguments are what an absent key means, as in the family's transformers class; n_kv_heads:
    None for the number of heads; head_dim: None for hidden_size / n_heads. That is what null means
    in every family.
    """
    hidden_size, n_heads = settings.integer("hidden_size"), settings.integer("num_attention_heads")
    max_position_tokens = settings.integer("max_position_embeddings", max_position_tokens)
    theta, scaling = settings.rope(max_position_tokens, rope_theta)
    return {
        "vocab_size": settings.integer("vocab_size"),
        "hidden_size": hidden_size,
        "intermediate_size": settings.integer("intermediate_size"),
        "n_layers": settings.layers(),
        "n_heads": n_heads,
        "n_kv_heads": settings.integer_or_null("num_key_value_heads", n_kv_heads, n_heads),
        "head_dim": settings.integer_or_null("head_dim", head_dim, hidden_size // n_heads),
        "max_position_tokens": max_position_tokens,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "norm_eps": settings.number("rms_norm_eps", norm_eps),
        "activation": settings.activation("hidden_act", "silu"),
        "tied_embeddings": settings.flag("tie_word_embeddings", False),
    }


def window_by_layer(settings: Settings, *, max_window_layers: int) -> dict[str, Any]:
    """The window fields of Qwen2 and Qwen3: some layers see a window, the others everything.

    `layer_types` says which; without it, the layers from max_window_layers on.
    """
    n_layers = settings.layers()
    window = settings.window_tokens("sliding_window", 4096)
    if not settings.flag("use_sliding_window", False):
        window = None
    types = settings.values.get("layer_types")
    if types is None:
        first = settings.integer("max_window_layers", max_window_layers, minimum=0)
        windowed = range(first, n_layers)
    else:
        known = ("full_attention", "sliding_attention")
        if (
            not isinstance(types, list)
            or len(types) != n_layers
            or any(t not in known for t in types)
        ):
            raise settings.unsupported(
                "layer_types", f"for each of {n_layers} layers one of {known}"
            )
        windowed = [i for i, kind in enumerate(types) if kind == "sliding_attention"]
        if windowed and window is None:
            raise settings.unsupported(
                "layer_types", "sliding_attention only with use_sliding_window and sliding_window"
            )
    if window is None or not windowed:
        return {}
    return {"window_tokens": window, "windowed_layers": tuple(windowed)}


def refuse_layer_types(settings: Settings, window_tokens: int | None) -> None:
    """For a family whose layers are all alike: `layer_types` may say only what they are.

    Raises:
      UnsupportedModelError: it says something else.
    """
    kind = "full_attention" if window_tokens is None else "sliding_attention"
    types = settings.values.get("layer_types")
    if types is not None and types != [kind] * settings.layers():
        raise settings.unsupported("layer_types", f"{kind} in every layer")
