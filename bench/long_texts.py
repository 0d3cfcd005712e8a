"""Texts of an exact number of tokens: code, prose, and code in which something must be found."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from library import read_library

KEYS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron")
HOPS = 2
PLACES = (0.1, 0.85)
"""Where in the text statements may stand, as parts of its length."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """head: the tokens that every text begins with, such as BOS. tokens: of a piece of text."""

    head: Sequence[int]
    tokens: Callable[[str], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Texts:
    """tokens: int32 [B, S]. counts: bool [B, n], which of the last n tokens are scored."""

    tokens: np.ndarray
    counts: np.ndarray

    @property
    def n_scored(self) -> int:
        return self.counts.shape[1]


def code(encoding: Encoding, n_rows: int, n_tokens: int, n_scored: int) -> Texts:
    """Pieces of those files of Python's library that the tiny model was not trained on."""
    return _pieces(encoding, _held_out(), n_rows, n_tokens, n_scored)


def prose(encoding: Encoding, n_rows: int, n_tokens: int, n_scored: int) -> Texts:
    """Pieces of Python's own pages on the language."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    return _pieces(encoding, text, n_rows, n_tokens, n_scored)


def needle(encoding: Encoding, n_rows: int, n_tokens: int) -> Texts:
    """One assignment of a number in code, and its name again at the end."""
    return _retrieval(encoding, n_rows, n_tokens, lambda rng: _named(rng, 1))


def several_keys(encoding: Encoding, n_rows: int, n_tokens: int) -> Texts:
    """Eight assignments, of which one is asked for."""
    return _retrieval(encoding, n_rows, n_tokens, lambda rng: _named(rng, len(KEYS)))


def variable_tracking(encoding: Encoding, n_rows: int, n_tokens: int) -> Texts:
    """A number is assigned to a name, that name to another, and so on; the last is asked for."""
    return _retrieval(encoding, n_rows, n_tokens, _chain)


RETRIEVAL = {
    "one needle": needle,
    "8 keys": several_keys,
    f"variable, {HOPS} hops": variable_tracking,
}


def _named(rng: np.random.Generator, n: int) -> tuple[list[str], str, str]:
    """Statements in their order, the question, and the answer."""
    names = rng.permutation(KEYS)[:n]
    numbers = _numbers(rng, n)
    asked = rng.integers(n)
    lines = [f"magic_{name} = {number}" for name, number in zip(names, numbers, strict=True)]
    return lines, f"assert magic_{names[asked]} ==", f" {numbers[asked]}"


def _chain(rng: np.random.Generator) -> tuple[list[str], str, str]:
    names = rng.permutation(KEYS)[: HOPS + 1]
    (number,) = _numbers(rng, 1)
    lines = [f"magic_{names[0]} = {number}"]
    lines += [f"magic_{new} = magic_{old}" for old, new in itertools.pairwise(names)]
    return lines, f"assert magic_{names[-1]} ==", f" {number}"


def _numbers(rng: np.random.Generator, n: int) -> list[int]:
    return rng.choice(np.arange(10_000, 100_000), n, replace=False).tolist()


def _retrieval(
    encoding: Encoding,
    n_rows: int,
    n_tokens: int,
    draw: Callable[[np.random.Generator], tuple[list[str], str, str]],
) -> Texts:
    """Row i is drawn with seed i. The answer is scored, token by token."""
    rows, answers = [], []
    lines = _held_out().splitlines(keepends=True)
    for seed in range(n_rows):
        rng = np.random.default_rng(seed)
        statements, question, answer = draw(rng)
        answer_tokens = encoding.tokens(answer)
        end = [*encoding.tokens(f"\n{question}"), *answer_tokens]
        inserted = [list(encoding.tokens(f"\n{statement}\n")) for statement in statements]
        room = n_tokens - len(encoding.head) - len(end) - sum(map(len, inserted))
        start = int(rng.integers(len(lines) // 2))
        filler = list(encoding.tokens("".join(lines[start : start + n_tokens])))[:room]
        low, high = (int(place * room) for place in PLACES)
        places = np.sort(rng.choice(np.arange(low, high), len(statements), replace=False))
        for place, tokens in reversed(list(zip(places, inserted, strict=True))):
            filler[place:place] = tokens
        rows.append([*encoding.head, *filler, *end])
        answers.append(len(answer_tokens))
    longest = max(answers)
    counts = np.array([[i >= longest - n for i in range(longest)] for n in answers])
    return Texts(np.array(rows, np.int32), counts)


def _pieces(encoding: Encoding, text: str, n_rows: int, n_tokens: int, n_scored: int) -> Texts:
    """Pieces that begin at even distances, at the start of a line."""
    lines = text.splitlines(keepends=True)
    starts = [len(lines) * i // (n_rows + 1) for i in range(n_rows)]
    pieces = [encoding.tokens("".join(lines[s : s + n_tokens])) for s in starts]
    rows = [[*encoding.head, *piece][:n_tokens] for piece in pieces]
    return Texts(np.array(rows, np.int32), np.ones((n_rows, n_scored), bool))


def _held_out() -> str:
    _, files = read_library()
    return "".join(file.decode("utf-8", "replace") for file in files)
