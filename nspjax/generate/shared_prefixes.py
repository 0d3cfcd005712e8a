"""Which prompts take the beginning of another row's prompt instead of computing it. Pure.

A prompt that begins like one whose row is still there starts after what both have. Of prompts that
come together, the first to have a beginning computes it and the others follow one round later.
Prompts are compared with each other, block by block: rows are few, so that takes no index.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

GRAIN_TOKENS = 64
"""A beginning is shared in multiples of this: less is not worth a round of its own."""

MayShare = Callable[[int, int], bool]
"""(from row, to row) -> whether the second may begin with tokens of the first, or of its own."""


@dataclasses.dataclass(frozen=True)
class Loan:
    """`rows` get the first `n_tokens` of `from_row`."""

    from_row: int
    rows: tuple[int, ...]
    n_tokens: int


@dataclasses.dataclass(frozen=True)
class Round:
    """Rows that are prefilled together, once the loans are made. starts: row -> first position."""

    loans: tuple[Loan, ...]
    starts: dict[int, int]


def shared_tokens(prompt: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens `prompt` can take from `other`; one is left, as its logits are needed."""
    most = min(len(prompt) - 1, len(other)) // GRAIN_TOKENS * GRAIN_TOKENS
    for begin in range(0, most, GRAIN_TOKENS):
        if prompt[begin : begin + GRAIN_TOKENS] != other[begin : begin + GRAIN_TOKENS]:
            return begin
    return most


def plan_rounds(
    prompts: Mapping[int, Sequence[int]],
    resident: Mapping[int, Sequence[int]],
    may_share: MayShare,
) -> list[Round]:
    """The order in which `prompts`, by row, are prefilled, and what each row begins with.

    resident: what rows have, by row; those of `prompts` are about to lose it, but for what their
    own prompt begins with.
    """
    lenders = {row: (0, tokens) for row, tokens in resident.items() if row not in prompts}
    rounds: list[dict[int, tuple[int, int]]] = []  # [round] row -> (from row, tokens)
    for row, prompt in prompts.items():
        own = resident.get(row, ()) if may_share(row, row) else ()
        number, taken = 0, (row, shared_tokens(prompt, own))
        for lender, (ready, tokens) in lenders.items():
            if not may_share(lender, row):
                continue
            n_tokens = shared_tokens(prompt, tokens)
            if (n_tokens, -ready) > (taken[1], -number):
                number, taken = ready, (lender, n_tokens)
        rounds += [{}] * (number + 1 - len(rounds))
        rounds[number] = {**rounds[number], row: taken}
        lenders[row] = (number + 1, prompt)
    return [_round(taken) for taken in rounds]


def _round(taken: Mapping[int, tuple[int, int]]) -> Round:
    borrowers: dict[tuple[int, int], list[int]] = {}
    for row, (lender, n_tokens) in taken.items():
        if lender != row:
            borrowers.setdefault((lender, n_tokens), []).append(row)
    loans = [Loan(lender, tuple(rows), n) for (lender, n), rows in borrowers.items()]
    return Round(tuple(loans), {row: n_tokens for row, (_, n_tokens) in taken.items()})
