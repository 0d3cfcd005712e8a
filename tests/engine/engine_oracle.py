"""What the engine must compute, in plain NumPy with float64, and stores to compare with it."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np

from nspjax import _engine

NUMPY_DTYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}
KERNELS = _engine.available_kernels()


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "f32") -> np.ndarray:
    return rng.standard_normal(shape, np.float32).astype(NUMPY_DTYPES[dtype])


def bits(array: np.ndarray) -> np.ndarray:
    """The elements as the engine takes them: 16-bit floats as uint16."""
    return array if array.dtype == np.float32 else array.view(np.uint16)


def attend(q, k, v, first, last, scale, softcap=0.0):
    """q [n, D], k, v [tokens, D], query i sees the tokens first[i] to last[i] -> out, lse.

    Softmax as it is written down, over what a query sees and nothing else: 0 and -inf for nothing.
    """
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out, lse = np.zeros_like(q), np.full(len(q), -np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        for i, (begin, end) in enumerate(zip(first, last, strict=True)):
            seen = slice(max(begin, 0), max(end, 0))
            if not len(k[seen]):
                continue
            scores = scale * _sums(k[seen], q[i][None])
            if softcap:
                scores = softcap * np.tanh(scores / softcap)
            weights = np.exp(scores - scores.max())
            weights[weights < 2.0**-126] = 0  # as in float32
            out[i] = _sums(weights[None], v[seen].T) / weights.sum()
            lse[i] = scores.max() + np.log(weights.sum())
    return out, lse


def _sums(a, b):
    """a [n, D] · b [1, D] -> [n], or the other way round. BLAS may leave out products with 0."""
    if np.isfinite(a).all() and np.isfinite(b).all():
        return (a @ b.T).reshape(-1)
    return (a * b).sum(1)


@dataclasses.dataclass
class PlainCache:
    """A cache as arrays: k, v [rows, capacity, H, D], lengths [rows]."""

    k: np.ndarray
    v: np.ndarray
    lengths: np.ndarray

    @staticmethod
    def empty(rows: int, capacity: int, heads: int, head_dim: int, dtype: str) -> PlainCache:
        k, v = (np.zeros((rows, capacity, heads, head_dim), NUMPY_DTYPES[dtype]) for _ in "kv")
        return PlainCache(k, v, np.zeros(rows, np.int64))

    def append(self, k, v, rows, start, n_new) -> None:
        for b, (row, begin, n) in enumerate(zip(rows, start, n_new, strict=True)):
            if n:
                self.k[row, begin : begin + n] = k[b, :n]
                self.v[row, begin : begin + n] = v[b, :n]
                self.lengths[row] = begin + n

    def take_rows(self, order, lengths) -> None:
        self.k, self.v = self.k[order], self.v[order]
        self.lengths = np.array(lengths)[order]

    def attend(self, q, rows, position, length, scale, window=0, softcap=0.0):
        _, n_tokens, heads, _ = q.shape
        out, lse = np.zeros(q.shape), np.full(q.shape[:3], -np.inf)
        group = heads // self.k.shape[2]
        for b, row in enumerate(rows):
            if not length[b]:
                continue
            at = position[b] + np.arange(n_tokens)
            first = np.maximum(at - window + 1, 0) if window else np.zeros(n_tokens, int)
            last = np.minimum(at + 1, length[b])
            for h in range(heads):
                k, v = (x[row, : length[b], h // group] for x in (self.k, self.v))
                out[b, :, h], lse[b, :, h] = attend(q[b, :, h], k, v, first, last, scale, softcap)
        return out, lse


def int32(values) -> np.ndarray:
    return np.asarray(values, np.int32)


def append(store, cache: int, version: int, k, v, rows, start, n_new) -> int:
    return store.append(cache, version, bits(k), bits(v), int32(rows), int32(start), int32(n_new))


def fill(store, cache: int, k: np.ndarray, v: np.ndarray, lengths) -> int:
    """All rows of a new cache, from k, v [rows, tokens, H, D]."""
    rows = np.arange(len(k))
    return append(store, cache, 0, k, v, rows, np.zeros(len(k)), lengths)
