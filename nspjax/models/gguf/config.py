"""A GGUF file's metadata as a `ModelConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nspjax.errors import CheckpointError, InvalidArgumentError, UnsupportedModelError
from nspjax.models.config import LinearRopeScaling, ModelConfig, RopeFactors
from nspjax.models.gguf.header import GgufHeader
from nspjax.models.gguf.table import EMBEDDING, HEAD, ROPE_FACTORS
from nspjax.models.settings import MOST_EXPERTS, MOST_LAYERS, MOST_SIZE, Settings

ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
}
"""The values of general.architecture that are read, and what they imply. Mistral and Mixtral are
"llama", Mixtral with experts."""

MOST_FACTORS = 1 << 16
_ENDS = ("eos", "eot", "eom")
"""Tokens that end an answer: of the text, of a turn, of a message."""
_WITHOUT_EFFECT = ("tensor_data_layout", "expert_feed_forward_length")


def read_config(header: GgufHeader) -> ModelConfig:
    """The configuration of the model in a file.

    Raises:
      CheckpointError: a key is missing or malformed.
      UnsupportedModelError: an architecture or a setting that nspjax does not have.
    """
    settings = Settings(header.metadata, str(header.path))
    architecture = settings.text("general.architecture")
    if architecture not in ARCHITECTURES:
        raise settings.unsupported("general.architecture", ", ".join(ARCHITECTURES))
    keys = _Keys(settings, architecture)
    try:
        config = _config(keys, header)
    except InvalidArgumentError as error:
        raise CheckpointError(f"{header.path}: {error}") from error
    keys.refuse_others()
    return config


class _Keys:
    """The architecture's keys, which remembers those that were asked for."""

    def __init__(self, settings: Settings, architecture: str):
        self.settings = settings
        self.architecture = architecture
        self._known = {self.key(name) for name in _WITHOUT_EFFECT}

    def key(self, name: str) -> str:
        return f"{self.architecture}.{name}"

    def integer(self, name: str, *default: Any, maximum: int = MOST_SIZE, minimum: int = 1) -> int:
        return self.settings.integer(self._asked(name), *default, maximum=maximum, minimum=minimum)

    def number(self, name: str, *default: Any) -> float:
        return self.settings.number(self._asked(name), *default)

    def text(self, name: str, *default: Any) -> str:
        return self.settings.text(self._asked(name), *default)

    def only(self, name: str, supported: Any) -> None:
        self.settings.only(self._asked(name), supported)

    def unsupported(self, name: str, supported: str) -> UnsupportedModelError:
        return self.settings.unsupported(self.key(name), supported)

    def refuse_others(self) -> None:
        """A key of the architecture's that nobody asked for changes what is computed."""
        for key in self.settings.values:
            if key.startswith(f"{self.architecture}.") and key not in self._known:
                raise self.settings.unsupported(key, "no such setting")

    def _asked(self, name: str) -> str:
        self._known.add(self.key(name))
        return self.key(name)


def _config(keys: _Keys, header: GgufHeader) -> ModelConfig:
    tensors = header.tensors
    hidden_size, n_heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    head_dim = keys.integer("attention.key_length", hidden_size // n_heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        keys.only(name, head_dim)
    keys.only("attention.causal", True)
    max_position_tokens = keys.integer("context_length")
    _refuse_window(keys, max_position_tokens)
    n_experts = keys.integer("expert_count", 0, minimum=0, maximum=MOST_EXPERTS)
    has = {name.removeprefix("blk.0.") for name in tensors}
    implied = ARCHITECTURES[keys.architecture]
    return ModelConfig(
        vocab_size=_vocab_size(keys, header),
        hidden_size=hidden_size,
        intermediate_size=keys.integer("feed_forward_length"),
        n_layers=keys.integer("block_count", maximum=MOST_LAYERS),
        n_heads=n_heads,
        n_kv_heads=keys.integer("attention.head_count_kv", n_heads),
        head_dim=head_dim,
        max_position_tokens=max_position_tokens,
        rope_theta=keys.number("rope.freq_base", 10_000.0),
        rope_scaling=_rope_scaling(keys, header, head_dim),
        norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
        qk_norm=implied.get("qk_norm", False),
        qkv_bias=implied.get("qkv_bias", "attn_q.bias" in has),
        attention_out_bias="attn_output.bias" in has,
        mlp_bias="ffn_up.bias" in has,
        n_experts=n_experts,
        n_experts_per_token=keys.integer("expert_used_count", 2, minimum=min(1, n_experts)) or 2,
        tied_embeddings=HEAD not in tensors,
        bos_token_id=next(iter(_token_ids(keys.settings, "bos")), None),
        eos_token_ids=_token_ids(keys.settings, *_ENDS),
        family="mixtral" if n_experts else keys.architecture,
        checkpoint_dtype=_dtype(header),
    )


def _vocab_size(keys: _Keys, header: GgufHeader) -> int:
    embedding = header.tensors.get(EMBEDDING)
    if embedding is None:
        raise CheckpointError(f"{header.path} has no tensor {EMBEDDING}")
    return keys.integer("vocab_size", embedding.shape[0] if embedding.shape else 0)


def _refuse_window(keys: _Keys, max_position_tokens: int) -> None:
    window = keys.integer("attention.sliding_window", 0, minimum=0)
    if 0 < window < max_position_tokens:
        raise keys.unsupported("attention.sliding_window", "no window in GGUF files")


def _rope_scaling(
    keys: _Keys, header: GgufHeader, head_dim: int
) -> LinearRopeScaling | RopeFactors | None:
    kind = keys.text("rope.scaling.type", "none")
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
    keys.integer("rope.scaling.original_context_length", 0, minimum=0)  # yarn's, or told for all
    factors = header.tensors.get(ROPE_FACTORS)
    if kind not in ("none", "linear"):
        raise keys.unsupported("rope.scaling.type", f"none, linear, a tensor {ROPE_FACTORS}")
    linear = LinearRopeScaling(factor) if kind == "linear" and factor != 1 else None
    if factors is None:
        return linear
    if linear is not None:
        raise keys.unsupported("rope.scaling.type", f"linear without a tensor {ROPE_FACTORS}")
    if factors.shape != (head_dim // 2,) or head_dim > MOST_FACTORS:
        raise CheckpointError(
            f"{ROPE_FACTORS} in {header.path} has shape {list(factors.shape)}, but its metadata "
            f"makes it {[head_dim // 2]}"
        )
    values = factors.read()
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise CheckpointError(f"{ROPE_FACTORS} in {header.path} has values that are no divisors")
    return RopeFactors(tuple(values.tolist()))


def _token_ids(settings: Settings, *names: str) -> tuple[int, ...]:
    keys = [f"tokenizer.ggml.{name}_token_id" for name in names]
    found = (settings.integer(key, minimum=0) for key in keys if key in settings.values)
    return tuple(dict.fromkeys(found))


def _dtype(header: GgufHeader) -> str:
    """What the matrices are stored in; bfloat16 where that is in blocks, whose values have few
    bits."""
    kinds = [tensor.dtype for tensor in header.tensors.values() if len(tensor.shape) > 1]
    most = max(sorted(set(kinds)), key=kinds.count, default="F32")
    return {"F32": "float32", "F16": "float16"}.get(most, "bfloat16")
