"""Rotary position embedding (arXiv 2104.09864), in float32, halves rotated as in transformers."""

from __future__ import annotations

import numpy as np
from jax import Array
from jax import numpy as jnp

from nspjax.models.config import LinearRopeScaling, Llama3RopeScaling, ModelConfig, RopeFactors


def inverse_frequencies(config: ModelConfig) -> np.ndarray:
    """Radians a token, float32 [D / 2].

    Computed in float32 step by step as transformers does: a difference in the last bit here is
    multiplied by the position.
    """
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = np.float32(1) / np.float32(config.rope_theta) ** exponent
    match config.rope_scaling:
        case None:
            return frequencies
        case LinearRopeScaling(factor):
            return frequencies / np.float32(factor)
        case RopeFactors(factors):
            return frequencies / np.array(factors, np.float32)
        case Llama3RopeScaling() as scaling:
            return _llama3(frequencies, scaling)


def _llama3(frequencies: np.ndarray, scaling: Llama3RopeScaling) -> np.ndarray:
    original = scaling.original_max_position_tokens
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    wavelength = np.float32(2 * np.pi) / frequencies  # tokens
    slow = frequencies / np.float32(scaling.factor)
    # how far between the longest (0) and the shortest (1) wavelength of the ramp
    kept = (np.float32(original) / wavelength - np.float32(low)) / np.float32(high - low)
    ramp = (1 - kept) * slow + kept * frequencies
    scaled = np.where(wavelength > original / low, slow, ramp)
    return np.where(wavelength < original / high, frequencies, scaled).astype(np.float32)


def rotation(positions: Array, config: ModelConfig) -> tuple[Array, Array]:
    """cos and sin of each token's angles: float32 [B, T, D / 2]. positions: int32 [B, T]."""
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(config)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotate the pairs (x[i], x[i + D / 2]) in float32. x: [B, T, H, D], as is the result."""
    cos, sin = cos[:, :, None], sin[:, :, None]  # [B, T, 1, D / 2]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
