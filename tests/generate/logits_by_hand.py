"""A model's logits, computed at once for all positions, and vLLM's terms on them in float64."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tiny_decoder import TinyConfig, TinyDecoder

from nspjax import LLM, SamplingParams, Store

END = ord("\n")
OPTIONS = {"max_num_seqs": 3, "steps_per_call": 8, "prefill_budget_tokens": 16}
"""Of an LLM of `bytes_decoder`: the same for several files, whose programs are then compiled once,
if every request has a penalty, as ALIKE is."""
ALIKE = {"frequency_penalty": 1e-30}
"""It changes no number."""


def bytes_decoder() -> TinyDecoder:
    """A random model over the tokens of `byte_tokenizer`."""
    return TinyDecoder(TinyConfig(vocab_size=258, eos_token_ids=(END,)))


@contextlib.contextmanager
def llm_in(where: str, model: TinyDecoder, **options: Any) -> Iterator[LLM]:
    """An LLM with OPTIONS and these. where: "in memory", or a store's device."""
    with contextlib.ExitStack() as entered:
        if where != "in memory":
            store = Store(where, host_memory="64MiB")
            options["store"] = entered.enter_context(store)
        yield entered.enter_context(LLM(model, **OPTIONS, **options))


class PlainModel:
    """A model without a batch, a loop or a store: what is right."""

    def __init__(self, model, n_tokens: int = 128):
        self._n_tokens = n_tokens
        graph, self._weights = nnx.split(model)

        @jax.jit
        def run(weights, tokens):
            decoder = nnx.merge(graph, weights)
            hidden, _ = decoder(tokens, decoder.init_caches(1, n_tokens))
            return decoder.logits(hidden[0])

        self._run = run

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """After each of the tokens, float64 [T, V]."""
        padded = (
            jnp.zeros((1, self._n_tokens), jnp.int32).at[0, : len(tokens)].set(jnp.array(tokens))
        )
        return np.asarray(self._run(self._weights, padded), np.float64)[: len(tokens)]

    def greedy(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        ends: Sequence[int] = (),
        bad_words: Sequence[Sequence[int]] = (),
    ) -> list[int]:
        """The answer: the largest logit each time, after vLLM's terms, up to one of `ends`."""
        answer: list[int] = []
        while len(answer) < params.max_tokens and not (answer and answer[-1] in ends):
            logits = self.logits([*prompt, *answer])[-1]
            answer.append(int(with_terms(logits, prompt, answer, params, ends, bad_words).argmax()))
        return answer


def with_terms(logits, prompt, answer, params, ends=(), bad_words=()) -> np.ndarray:
    """By the formulas of vLLM's documentation and of OpenAI's on penalties."""
    logits = logits.copy()
    if params.allowed_token_ids is not None:
        logits[np.setdiff1d(np.arange(logits.size), params.allowed_token_ids)] = -np.inf
    for *before, last in bad_words:
        if answer[len(answer) - len(before) :] == before:
            logits[last] = -np.inf
    if len(answer) < params.min_tokens:
        logits[list(ends)] = -np.inf
    for token, bias in (params.logit_bias or {}).items():
        logits[token] += bias
    for token in {*prompt, *answer}:
        factor = params.repetition_penalty
        logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
    for token, count in Counter(answer).items():
        logits[token] -= count * params.frequency_penalty + params.presence_penalty
    return logits


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
