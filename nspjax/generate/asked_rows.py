"""What the answers of a compiled call ask for, as arrays: the operand `Asked`."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from nspjax.generate.answer import Answer
from nspjax.generate.sampling.choice import Asked, More
from nspjax.generate.sampling.logit_terms import Bias, LogitTerms, Penalties
from nspjax.generate.sampling.request_terms import BiasTerm
from nspjax.generate.sampling.sampler import Sampling
from nspjax.generate.sampling.token_mask import n_words, packed_all

_FEWEST_BIASES = 16
"""Room for single tokens' terms in a program. It grows by fours: a program is compiled for each."""
_MOST_FLOAT32 = float(np.finfo(np.float32).max)


def asked_rows(answers: Mapping[int, Answer], n_rows: int, vocab_size: int) -> Asked:
    """What n_rows rows ask for; those that are not in `answers` ask for nothing."""
    more = None
    if any(answer.asks_more for answer in answers.values()):
        wanted = np.zeros(n_rows, np.bool_)
        for row, answer in answers.items():
            wanted[row] = answer.params.logprobs is not None
        more = More(_terms(answers, n_rows, vocab_size), jnp.asarray(wanted))
    return Asked(_sampling(answers, n_rows), more)


def _sampling(answers: Mapping[int, Answer], n_rows: int) -> Sampling:
    """The settings of n_rows rows; those not named are greedy."""
    temperature, top_p, min_p = (np.zeros(n_rows, np.float32) for _ in range(3))
    top_p[:] = 1.0
    top_k = np.zeros(n_rows, np.int32)
    key = np.zeros((n_rows, 2), np.uint32)
    for row, answer in answers.items():
        params = answer.params
        if params.greedy:
            continue
        temperature[row] = min(params.temperature, _MOST_FLOAT32)
        top_p[row], min_p[row] = params.top_p, params.min_p
        top_k[row] = min(max(params.top_k, 0), 2**31 - 1)
        key[row] = answer.key_words
    return Sampling(
        temperature=jnp.asarray(temperature),
        top_k=jnp.asarray(top_k),
        top_p=jnp.asarray(top_p),
        min_p=jnp.asarray(min_p),
        key=jnp.asarray(key),
    )


def _terms(answers: Mapping[int, Answer], n_rows: int, vocab_size: int) -> LogitTerms:
    allowed = np.tile(packed_all(vocab_size), (n_rows, 1))
    for row, answer in answers.items():
        mask = answer.allowed()
        if mask is not None:
            allowed[row] = mask
    penalized = any(answer.params.penalizes for answer in answers.values())
    return LogitTerms(
        allowed=jnp.asarray(allowed),
        bias=_bias({row: answer.terms.bias for row, answer in answers.items()}, n_rows, vocab_size),
        penalties=_penalties(answers, n_rows, vocab_size) if penalized else None,
    )


def _bias(terms: Mapping[int, tuple[BiasTerm, ...]], n_rows: int, vocab_size: int) -> Bias:
    room = _FEWEST_BIASES
    while room < max(map(len, terms.values())):
        room *= 4
    tokens = np.full((n_rows, room), vocab_size, np.int32)
    values, before = np.zeros((n_rows, room), np.float32), np.zeros((n_rows, room), np.int32)
    for row, of_row in terms.items():
        for i, term in enumerate(of_row):
            tokens[row, i], values[row, i], before[row, i] = term.token, term.value, term.before
    return Bias(jnp.asarray(tokens), jnp.asarray(values), jnp.asarray(before))


def _penalties(answers: Mapping[int, Answer], n_rows: int, vocab_size: int) -> Penalties:
    presence, frequency = np.zeros(n_rows, np.float32), np.zeros(n_rows, np.float32)
    repetition = np.ones(n_rows, np.float32)
    prompt = np.zeros((n_rows, n_words(vocab_size)), np.uint32)
    counts = np.zeros((n_rows, vocab_size), np.int32)
    for row, answer in answers.items():
        if answer.terms.prompt is None:
            continue
        params = answer.params
        presence[row], frequency[row] = params.presence_penalty, params.frequency_penalty
        repetition[row] = min(params.repetition_penalty, _MOST_FLOAT32)
        prompt[row] = answer.terms.prompt
        said = np.asarray(answer.token_ids, np.int64)
        counts[row] = np.bincount(said, minlength=vocab_size)
    return Penalties(*map(jnp.asarray, (presence, frequency, repetition, prompt, counts)))
