"""Tiny random checkpoints, and what transformers computes from them. Needs torch, transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from variants import Variant

PROMPT_TOKENS = (5, 13, 22)
DECODE_STEPS = 16


def save_checkpoint(directory: Path, variant: Variant, seed: int) -> None:
    """Write a checkpoint of the variant with random weights in Hugging Face's format."""
    config = getattr(transformers, variant.config)(**variant.settings)
    model = transformers.AutoModelForCausalLM.from_config(config)
    randomize(model, seed)
    model = model.to(getattr(torch, variant.dtype))
    model.save_pretrained(directory, max_shard_size=variant.max_shard_size)
    if variant.fused_experts:
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        for path in directory.glob("model*"):
            path.unlink()
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    if variant.spelling == "old":
        _spell_as_before(directory / "config.json")


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Weights under which every part matters and the greedy token is no foregone conclusion."""
    generator = torch.Generator().manual_seed(seed)
    # a large embedding that is also the head would make every model repeat its last token
    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                weight.copy_(1 + 0.3 * noise)
            elif weight.ndim == 1:
                weight.copy_(0.2 * noise)
            elif "embed_tokens" in name and tied:
                weight.copy_(0.3 * noise)
            elif "embed" in name:
                weight.copy_(noise)
            else:
                weight.copy_(1.5 * noise * weight.shape[-1] ** -0.5)


def _spell_as_before(path: Path) -> None:
    """config.json as transformers 4 wrote it."""
    values = json.loads(path.read_text())
    rope = values.pop("rope_parameters")
    values["rope_theta"] = rope.pop("rope_theta")
    values["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    values["torch_dtype"] = values.pop("dtype")
    path.write_text(json.dumps(values, indent=2) + "\n")


def answers(
    directory: Path,
    seed: int,
    dtype: torch.dtype = torch.float32,
    forced: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """What transformers says to three prompts with a checkpoint; see `answers_of`."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager"
    ).eval()
    return answers_of(model, seed, forced)


def answers_of(
    model: torch.nn.Module, seed: int, forced: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """What a model says to three prompts, each run alone and without padding.

    prompt: int32 [3, T], padded with 0; n_tokens: int32 [3]; prefill_logits: float32 [3, T, V],
    0 in the padding; greedy: int32 [3, 16]; decode_logits: float32 [3, 16, V], after each of them.
    forced: int32 [3, 16], tokens to go on with instead of the greedy ones.
    """
    vocab_size = model.config.vocab_size
    rng = np.random.default_rng(seed)
    n, longest = len(PROMPT_TOKENS), max(PROMPT_TOKENS)
    prompt = np.zeros((n, longest), np.int32)
    prefill_logits = np.zeros((n, longest, vocab_size), np.float32)
    greedy = np.zeros((n, DECODE_STEPS), np.int32)
    decode_logits = np.zeros((n, DECODE_STEPS, vocab_size), np.float32)
    for i, n_tokens in enumerate(PROMPT_TOKENS):
        prompt[i, :n_tokens] = rng.integers(3, vocab_size, n_tokens)
        tokens = torch.tensor(prompt[i : i + 1, :n_tokens], dtype=torch.long)
        with torch.no_grad():
            out = model(tokens, use_cache=True)
            prefill_logits[i, :n_tokens] = out.logits[0].float().numpy()
            for step in range(DECODE_STEPS):
                token = out.logits[0, -1].argmax()
                if forced is not None:
                    token = torch.tensor(int(forced[i, step]))
                greedy[i, step] = token
                out = model(token[None, None], past_key_values=out.past_key_values, use_cache=True)
                decode_logits[i, step] = out.logits[0, -1].float().numpy()
    return {
        "prompt": prompt,
        "n_tokens": np.array(PROMPT_TOKENS, np.int32),
        "prefill_logits": prefill_logits,
        "greedy": greedy,
        "decode_logits": decode_logits,
    }


def smallest_margin(golden: dict[str, np.ndarray]) -> float:
    """How far the best token is from the second, at its closest, over all greedy choices."""
    last = golden["prefill_logits"][np.arange(len(PROMPT_TOKENS)), golden["n_tokens"] - 1]
    logits = np.concatenate([last[:, None], golden["decode_logits"][:, :-1]], axis=1)
    top = np.sort(logits, axis=-1)
    return float((top[..., -1] - top[..., -2]).min())
