"""The operands of the compiled functions: what runs in which row, as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import numpy as np

from nspjax.generate.answer import Answer
from nspjax.generate.model_steps import DecodeRows, PrefillRows
from nspjax.generate.prefill_plan import Group
from nspjax.generate.sampling.choice import Asked
from nspjax.generate.sampling.logit_terms import LogitTerms
from nspjax.generate.sampling.sampler import Sampling
from nspjax.generate.sampling.token_mask import packed_all

STOP_TABLE_TOKENS = 8
"""Stop tokens of a row that the compiled loop knows. A row with more may run on until the call
returns, when `Answer.accept` sees the others and drops what came after."""

_MOST_FLOAT32 = float(np.finfo(np.float32).max)


def prefill_rows(group: Group, answers: Mapping[int, Answer]) -> PrefillRows:
    """The group's operands; idle rows stand last."""
    rows = [piece.row for piece in group.pieces] + list(group.idle_rows)
    tokens = np.zeros((len(rows), group.bucket_tokens), np.int32)
    start = np.zeros(len(rows), np.int32)
    n_new = np.zeros(len(rows), np.int32)
    for i, piece in enumerate(group.pieces):
        prompt = answers[piece.row].prompt
        tokens[i, : piece.n_tokens] = prompt[piece.start : piece.start + piece.n_tokens]
        start[i], n_new[i] = piece.start, piece.n_tokens
    return PrefillRows(
        tokens=jnp.asarray(tokens),
        rows=jnp.asarray(rows, jnp.int32),
        start=jnp.asarray(start),
        n_new=jnp.asarray(n_new),
    )


def first_asked(group: Group, answers: Mapping[int, Answer], vocab_size: int) -> Asked:
    """What the rows of a prefill call ask of their first tokens."""
    asking = {i: answers[piece.row] for i, piece in enumerate(group.pieces) if piece.last}
    return _asked(asking, len(group.pieces) + len(group.idle_rows), vocab_size)


def decode_rows(
    running: Mapping[int, Answer], n_rows: int, leave_at: int, n_steps: int, vocab_size: int
) -> DecodeRows:
    """The operands of a decode call; rows that are not `running` are idle. It has one step while a
    row's mask may change with its token."""
    if any(answer.mask_changes for answer in running.values()):
        n_steps = 1
    last, generated, limit = (np.zeros(n_rows, np.int32) for _ in range(3))
    active = np.zeros(n_rows, np.bool_)
    stop_tokens = np.full((n_rows, STOP_TABLE_TOKENS), -1, np.int32)
    for row, answer in running.items():
        last[row], generated[row] = answer.token_ids[-1], len(answer.token_ids)
        limit[row], active[row] = answer.max_tokens, True
        stops = answer.stop_tokens[:STOP_TABLE_TOKENS]
        stop_tokens[row, : len(stops)] = stops
    return DecodeRows(
        last_token=jnp.asarray(last),
        n_generated=jnp.asarray(generated),
        max_tokens=jnp.asarray(limit),
        active=jnp.asarray(active),
        stop_tokens=jnp.asarray(stop_tokens),
        leave_at=jnp.int32(leave_at),
        n_steps=jnp.int32(n_steps),
        asked=_asked(running, n_rows, vocab_size),
    )


def _asked(answers: Mapping[int, Answer], n_rows: int, vocab_size: int) -> Asked:
    """What n_rows rows ask for; those not named ask for nothing."""
    return Asked(_sampling(answers.items(), n_rows), _terms(answers, n_rows, vocab_size))


def _terms(answers: Mapping[int, Answer], n_rows: int, vocab_size: int) -> LogitTerms | None:
    masks = {row: answer.allowed() for row, answer in answers.items()}
    if all(mask is None for mask in masks.values()):
        return None
    allowed = np.tile(packed_all(vocab_size), (n_rows, 1))
    for row, mask in masks.items():
        if mask is not None:
            allowed[row] = mask
    return LogitTerms(allowed=jnp.asarray(allowed))


def _sampling(answers: Iterable[tuple[int, Answer]], n_rows: int) -> Sampling:
    """The settings of n_rows rows; those not named are greedy."""
    temperature, top_p, min_p = (np.zeros(n_rows, np.float32) for _ in range(3))
    top_p[:] = 1.0
    top_k = np.zeros(n_rows, np.int32)
    key = np.zeros((n_rows, 2), np.uint32)
    for row, answer in answers:
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
