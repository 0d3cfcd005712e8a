"""Which tokens a request may get, by the logits of `PlainLlama` and vLLM's formulas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from request_lines.model import EOS, IM_END
from request_lines.plain_llama import log_softmax

_CLOSE = 1e-4
"""Two logits that may change places in float32."""


def check_sampled(
    asked: Mapping[str, Any], prompt: Sequence[int], tokens: Sequence[int], logits: np.ndarray
) -> None:
    """Each token is one of those that the settings leave. logits: before each token, [T, V]."""
    temperature = asked.get("temperature", 1)
    for i, token in enumerate(tokens):
        terms = _with_terms(asked, prompt, tokens[:i], logits[i])
        if temperature < 1e-5:
            assert terms[token] >= terms.max() - _CLOSE
            continue
        logprobs = log_softmax(terms / temperature)
        assert logprobs[token] >= logprobs.max() + np.log(asked.get("min_p") or 1e-30) - _CLOSE
        likelier = np.sort(logprobs[logprobs > logprobs[token] + _CLOSE])[::-1]
        if asked.get("top_k", 0) > 0:
            assert len(likelier) < asked["top_k"]
        if asked.get("top_p", 1) < 1:
            assert np.exp(likelier).sum() < asked["top_p"] + _CLOSE


def _with_terms(
    asked: Mapping[str, Any], prompt: Sequence[int], said: Sequence[int], logits: np.ndarray
) -> np.ndarray:
    terms = logits.copy()
    for token, bias in asked.get("logit_bias", {}).items():
        terms[int(token)] += bias
    if "allowed_token_ids" in asked:
        terms[np.setdiff1d(np.arange(len(terms)), asked["allowed_token_ids"])] = -np.inf
    if len(said) < asked.get("min_tokens", 0):
        ends = [] if asked.get("ignore_eos") else [EOS, IM_END]
        terms[[*ends, *asked.get("stop_token_ids", ())]] = -np.inf
    repeated, repetition = [*{*prompt, *said}], asked.get("repetition_penalty", 1)
    terms[repeated] *= np.where(terms[repeated] > 0, 1 / repetition, repetition)
    for token, count in Counter(said).items():
        terms[token] -= asked.get("presence_penalty", 0)
        terms[token] -= asked.get("frequency_penalty", 0) * count
    return terms
