"""The operands of the compiled functions: what runs in which row, as arrays."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from nspjax.generate.answer import Answer
from nspjax.generate.asked_rows import asked_rows
from nspjax.generate.model_steps import DecodeRows, PrefillRows
from nspjax.generate.prefill_plan import Group
from nspjax.generate.sampling.choice import Asked

STOP_TABLE_TOKENS = 8
"""Stop tokens of a row that the compiled loop knows. A row with more may run on until the call
returns, when `Answer.accept` sees the others and drops what came after."""


def prefill_rows(group: Group, answers: Mapping[int, Answer]) -> PrefillRows:
    """The group's operands; idle rows stand last."""
    rows = [piece.row for piece in group.pieces] + list(group.idle_rows)
    tokens, targets = (np.zeros((len(rows), group.bucket_tokens), np.int32) for _ in range(2))
    start = np.zeros(len(rows), np.int32)
    n_new = np.zeros(len(rows), np.int32)
    for i, piece in enumerate(group.pieces):
        prompt = answers[piece.row].prompt
        end = piece.start + piece.n_tokens
        tokens[i, : piece.n_tokens] = prompt[piece.start : end]
        following = prompt[piece.start + 1 : end + 1]
        targets[i, : len(following)] = following
        start[i], n_new[i] = piece.start, piece.n_tokens
    scored = any(answers[piece.row].scores_prompt for piece in group.pieces)
    return PrefillRows(
        tokens=jnp.asarray(tokens),
        rows=jnp.asarray(rows, jnp.int32),
        start=jnp.asarray(start),
        n_new=jnp.asarray(n_new),
        targets=jnp.asarray(targets) if scored else None,
    )


def first_asked(group: Group, answers: Mapping[int, Answer], vocab_size: int) -> Asked:
    """What the rows of a prefill call ask of their first tokens."""
    asking = {i: answers[piece.row] for i, piece in enumerate(group.pieces) if piece.last}
    return asked_rows(asking, len(group.pieces) + len(group.idle_rows), vocab_size)


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
        asked=asked_rows(running, n_rows, vocab_size),
    )
