"""Attention that reads a part of V, by its formulas in float64: csrc/device/sparse_attention.h."""

from __future__ import annotations

import dataclasses

import numpy as np

FIRST_TOKENS, NEWEST_TOKENS = 4, 64


@dataclasses.dataclass(frozen=True)
class SparseAnswer:
    out: np.ndarray
    """[G, D]"""
    lse: np.ndarray
    """[G]"""
    n_read: int
    """tokens whose V is read, those of the tail too"""
    left_out: float
    margin: float
    """how far the nearest other choice is: of the softmax"""


def attend_sparsely(q, keys, v, n_stored, *, scale, mass, budget, block, tile) -> SparseAnswer:
    """q [G, D]; keys [S, D], the first n_stored as the sketch has them; v [S, D]."""
    q, keys, v = (np.asarray(x, np.float64) for x in (q, keys, v))
    n_tokens = len(keys)
    scores = scale * q @ keys.T
    weights = np.exp(scores - scores.max(1, keepdims=True))
    shares = (weights / weights.sum(1, keepdims=True)).mean(0)
    blocks = [(b, min(b + block, n_tokens)) for b in range(0, n_stored, block)]
    share = np.array([shares[begin:end].sum() for begin, end in blocks])
    steady = [
        i for i, (begin, end) in enumerate(blocks)
        if begin < FIRST_TOKENS or end > n_tokens - NEWEST_TOKENS
    ]  # fmt: skip
    others = [i for i in range(len(blocks)) if i not in steady]
    others.sort(key=lambda i: -share[i])
    most = int(np.ceil(budget * len(blocks) - 1e-3))
    taken = shares[n_stored:].sum() + share[steady].sum()
    n, margin = 0, abs(taken - mass)
    while n < min(len(others), max(0, most - len(steady))) and taken < mass:
        taken += share[others[n]]
        margin = min(margin, abs(taken - mass))
        n += 1
    if 0 < n < len(others):
        margin = min(margin, share[others[n - 1]] - share[others[n]])
    read = np.zeros(n_tokens, bool)
    read[n_stored:] = True
    for i in [*steady, *others[:n]]:
        read[slice(*blocks[i])] = True

    acc = weights[:, read] @ v[read]
    for begin in range(0, n_stored, tile):
        unread = np.arange(begin, min(begin + tile, n_stored))
        unread = unread[~read[unread]]
        if len(unread):
            acc += weights[:, unread].sum(1)[:, None] * v[unread].mean(0)
    total = weights.sum(1)
    return SparseAnswer(
        acc / total[:, None],
        scores.max(1) + np.log(total),
        int(read.sum()),
        float(share[others[n:]].sum()),
        margin,
    )
