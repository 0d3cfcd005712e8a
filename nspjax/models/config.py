"""`ModelConfig`: everything that tells one decoder from another, in family-neutral words."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from nspjax.errors import InvalidArgumentError

Activation = Literal["silu", "relu", "gelu", "gelu_tanh"]


@dataclasses.dataclass(frozen=True)
class LinearRopeScaling:
    """Rotary frequencies divided by `factor` (position interpolation, arXiv 2306.15595)."""

    factor: float


@dataclasses.dataclass(frozen=True)
class Llama3RopeScaling:
    """Llama 3.1's scaling: long wavelengths divided by `factor`, short ones kept, a ramp between.

    A wavelength is short below original_max_position_tokens / high_freq_factor, and long above
    original_max_position_tokens / low_freq_factor.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_tokens: int


@dataclasses.dataclass(frozen=True)
class RopeFactors:
    """Each rotary frequency divided by a factor of its own, head_dim / 2 of them: what GGUF files
    hold in place of Llama 3.1's settings."""

    factors: tuple[float, ...]


RopeScaling = LinearRopeScaling | Llama3RopeScaling | RopeFactors


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The settings of `Decoder`. What has a default is as in Llama.

    `ModelConfig.llama` also derives the head sizes; `load_config` reads a checkpoint's.

    Raises:
      InvalidArgumentError: sizes that do not fit together.
    """

    # ---- sizes
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    max_position_tokens: int
    embedding_size: int | None = None
    """The width of the token embedding where it is projected to hidden_size (OPT-350M)."""

    # ---- positions and what a token may see
    positions: Literal["rotary", "learned"] = "rotary"
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    position_offset: int = 0
    """Learned positions: the embedding row of position 0 (2 in OPT)."""
    window_tokens: int | None = None
    """A query sees at most this many tokens, itself included. None: all before it."""
    windowed_layers: tuple[int, ...] | None = None
    """The layers that window_tokens holds for. None: all."""

    # ---- the layer
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    norm_weights: bool = True
    norm_after: bool = False
    """Normalise what a block adds up to rather than what it reads; there is no final norm then."""
    qk_norm: bool = False
    """RMSNorm over each head of q and k, before the rotation (Qwen3)."""
    activation: Activation = "silu"
    gated_mlp: bool = True
    qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    n_experts: int = 0
    """0: one dense MLP a layer. Else a router sends each token to n_experts_per_token of them."""
    n_experts_per_token: int = 2

    # ---- the ends
    tied_embeddings: bool = False
    """The logits are products with the token embedding."""
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    # ---- where it comes from
    family: str = "llama"
    """The `model_type` of config.json."""
    checkpoint_dtype: str | None = None
    """The dtype that the checkpoint names, e.g. "bfloat16"."""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "n_layers",
            "n_heads",
            "n_kv_heads",
            "head_dim",
            "max_position_tokens",
            "n_experts_per_token",
        ):
            if getattr(self, name) < 1:
                raise InvalidArgumentError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("rope_theta", "norm_eps"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise InvalidArgumentError(f"{name} must be finite and above 0, got {value}")
        if self.n_heads % self.n_kv_heads:
            raise InvalidArgumentError(
                f"n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.n_kv_heads})"
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise InvalidArgumentError(
                f"rotary positions need an even head_dim, got {self.head_dim}"
            )
        if self.window_tokens is not None and self.window_tokens < 1:
            raise InvalidArgumentError(
                f"window_tokens must be at least 1 or None, got {self.window_tokens}"
            )
        if self.n_experts and self.n_experts_per_token > self.n_experts:
            raise InvalidArgumentError(
                f"n_experts_per_token ({self.n_experts_per_token}) is more than n_experts "
                f"({self.n_experts})"
            )

    @classmethod
    def llama(
        cls,
        *,
        vocab_size: int,
        hidden_size: int,
        intermediate_size: int,
        n_layers: int,
        n_heads: int,
        max_position_tokens: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        **settings: Any,
    ) -> ModelConfig:
        """A Llama: n_kv_heads defaults to n_heads, head_dim to hidden_size / n_heads.

        settings: any other field.
        """
        return cls(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=n_heads if n_kv_heads is None else n_kv_heads,
            head_dim=hidden_size // n_heads if head_dim is None else head_dim,
            max_position_tokens=max_position_tokens,
            **settings,
        )

    def layer_window_tokens(self, layer: int) -> int | None:
        """How many tokens a query of this layer sees, None for all."""
        if self.windowed_layers is not None and layer not in self.windowed_layers:
            return None
        return self.window_tokens
