"""Running a decoder over the prompts of a golden, and comparing its logits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp

from nspjax.models import Decoder

GOLDENS = Path(__file__).parent / "goldens"


def read_golden(name: str) -> dict[str, np.ndarray]:
    """What `oracle.answers` returned when the golden was made."""
    with np.load(GOLDENS / name / "golden.npz") as arrays:
        return dict(arrays)


def run_greedy(
    decoder: Decoder, golden: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prefill logits [B, T, V], our own greedy tokens [B, N], logits after each [B, N, V]."""
    return _run(decoder, golden, forced=False)


def run_forced(decoder: Decoder, golden: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Prefill logits [B, T, V], and those after each of the golden's tokens [B, N, V]."""
    prefill_logits, _, decode_logits = _run(decoder, golden, forced=True)
    return prefill_logits, decode_logits


def _run(
    decoder: Decoder, golden: dict[str, np.ndarray], *, forced: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    graph, weights = nnx.split(decoder)

    @jax.jit
    def step(weights, tokens, caches, n_new):
        decoder = nnx.merge(graph, weights)
        hidden, caches = decoder(tokens, caches, n_new=n_new)
        return decoder.logits(hidden), caches

    prompt, n_tokens = golden["prompt"], golden["n_tokens"]
    n_rows, longest = prompt.shape
    n_steps = golden["greedy"].shape[1]
    caches = decoder.init_caches(n_rows, longest + n_steps)
    prefill_logits, caches = step(weights, prompt, caches, n_tokens)
    prefill_logits = np.asarray(prefill_logits)
    logits = prefill_logits[np.arange(n_rows), n_tokens - 1]
    tokens, decode_logits = [], []
    for i in range(n_steps):
        tokens.append(golden["greedy"][:, i] if forced else logits.argmax(-1).astype(np.int32))
        out, caches = step(weights, tokens[-1][:, None], caches, jnp.ones(n_rows, jnp.int32))
        logits = np.asarray(out[:, 0])
        decode_logits.append(logits)
    return prefill_logits, np.stack(tokens, 1), np.stack(decode_logits, 1)


@dataclasses.dataclass(frozen=True)
class LogitsError:
    """Distance of logits from the right ones, in their standard deviations.

    worst: of the worst logit; mean: root mean square over all.
    """

    worst: float
    mean: float


def logits_error(
    ours: np.ndarray, theirs: np.ndarray, n_tokens: np.ndarray | None = None
) -> LogitsError:
    """ours, theirs: [B, T, V]; n_tokens: [B], how many of the T count (default all)."""
    n_tokens = np.full(len(ours), ours.shape[1]) if n_tokens is None else n_tokens
    counts = np.arange(ours.shape[1]) < n_tokens[:, None]  # [B, T]
    std = theirs[counts].std()
    assert std > 0.1, "logits this flat show nothing"
    error = np.abs(ours[counts] - theirs[counts]) / std
    return LogitsError(float(error.max()), float(np.sqrt((error**2).mean())))
