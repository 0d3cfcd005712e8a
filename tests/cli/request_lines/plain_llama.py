"""The tiny Llama in NumPy and float64, all places at once: the logits that results are held to."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tiny_llama import HEADS, KV_HEADS, LAYERS, WIDTH

_SIZE = WIDTH // HEADS
_EPSILON, _THETA = 1e-5, 10000.0


class PlainLlama:
    """Of a folder by `write_tiny_llama`."""

    def __init__(self, folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        self._weights = {name: each.astype(np.float64) for name, each in weights.items()}
        self.logits = functools.cache(self._logits)

    def _logits(self, tokens: tuple[int, ...]) -> np.ndarray:
        """After each of the tokens, [T, V]."""
        x = self._weights["model.embed_tokens.weight"][list(tokens)]
        for i in range(LAYERS):
            layer = f"model.layers.{i}."
            x = x + self._attention(layer + "self_attn.", self._norm(layer + "input_layernorm", x))
            x = x + self._mlp(layer + "mlp.", self._norm(layer + "post_attention_layernorm", x))
        return self._times("lm_head", self._norm("model.norm", x))

    def _times(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self._weights[f"{name}.weight"].T

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        scale = (x**2).mean(-1, keepdims=True) + _EPSILON
        return x / np.sqrt(scale) * self._weights[f"{name}.weight"]

    def _attention(self, name: str, x: np.ndarray) -> np.ndarray:
        q, k, v = (self._heads(name + each, x) for each in ("q_proj", "k_proj", "v_proj"))
        q, k = _rotated(q), _rotated(k)
        k, v = (np.repeat(each, HEADS // KV_HEADS, axis=0) for each in (k, v))
        scores = q @ k.swapaxes(1, 2) / np.sqrt(_SIZE)  # [H, T, T]
        scores += np.where(np.tri(len(x)) > 0, 0, -np.inf)
        mixed = np.exp(log_softmax(scores)) @ v
        return self._times(name + "o_proj", mixed.swapaxes(0, 1).reshape(len(x), WIDTH))

    def _heads(self, name: str, x: np.ndarray) -> np.ndarray:
        """[H, T, D]"""
        return self._times(name, x).reshape(len(x), -1, _SIZE).swapaxes(0, 1)

    def _mlp(self, name: str, x: np.ndarray) -> np.ndarray:
        gate = self._times(name + "gate_proj", x)
        return self._times(
            name + "down_proj", gate / (1 + np.exp(-gate)) * self._times(name + "up_proj", x)
        )


def _rotated(x: np.ndarray) -> np.ndarray:
    """Of [H, T, D], the two halves of D as Llama pairs them."""
    angles = np.outer(np.arange(x.shape[1]), _THETA ** -(np.arange(0, _SIZE, 2) / _SIZE))
    one, other = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([one * cos - other * sin, other * cos + one * sin], axis=-1)


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
