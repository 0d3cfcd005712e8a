"""Which prompt tokens run together in one prefill call. Pure: numbers in, numbers out.

XLA's matrix products give a row the same bits whatever its neighbours hold, but not whatever the
shape is. So that an answer does not depend on what runs beside it, the shapes that a prompt meets
follow from its own length and the configuration only: it is cut into pieces, each piece is padded
to a bucket, and a bucket always runs with the same number of rows, filled up with idle ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from nspjax.errors import InvalidArgumentError

SMALLEST_BUCKET_TOKENS = 16


@dataclasses.dataclass(frozen=True)
class Piece:
    """Tokens start .. start + n_tokens of the prompt in `row`; `last`: the prompt ends here."""

    row: int
    start: int
    n_tokens: int
    last: bool


@dataclasses.dataclass(frozen=True)
class Group:
    """One prefill call: pieces of one bucket, and idle rows (other, distinct ones) to fill up."""

    bucket_tokens: int
    pieces: tuple[Piece, ...]
    idle_rows: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class PrefillPlan:
    """The shapes of prefill for `n_rows` cache rows of `capacity_tokens`.

    budget_tokens: the most tokens (rows x bucket) of one call, which bounds its memory.
    """

    n_rows: int
    capacity_tokens: int
    budget_tokens: int

    def __post_init__(self) -> None:
        if self.budget_tokens < SMALLEST_BUCKET_TOKENS:
            raise InvalidArgumentError(
                f"prefill_budget_tokens must be at least {SMALLEST_BUCKET_TOKENS}, "
                f"got {self.budget_tokens}"
            )

    @property
    def buckets(self) -> tuple[int, ...]:
        """The padded lengths, ascending: 16, 32, ... 256, then also half way between powers."""
        largest = min(self.budget_tokens, self.capacity_tokens)
        sizes, power = [], SMALLEST_BUCKET_TOKENS
        while power < largest:
            sizes.append(power)
            if power >= 512 and power + power // 2 < largest:
                sizes.append(power + power // 2)
            power *= 2
        return (*sizes, largest)

    def bucket_tokens(self, n_tokens: int) -> int:
        """The padded length of a piece of n_tokens."""
        return next(size for size in self.buckets if size >= n_tokens)

    def rows_per_call(self, bucket_tokens: int) -> int:
        """How many rows a call of this bucket has, idle ones included."""
        return max(1, min(self.budget_tokens // bucket_tokens, self.n_rows))

    def pieces(self, row: int, n_tokens: int, begin: int = 0) -> tuple[Piece, ...]:
        """A prompt of n_tokens, from `begin` on: pieces of the largest bucket and a rest."""
        largest = self.buckets[-1]
        starts = range(begin, n_tokens, largest)
        return tuple(
            Piece(row, start, min(largest, n_tokens - start), start + largest >= n_tokens)
            for start in starts
        )

    def groups(
        self, prompts: Sequence[tuple[int, int]], begins: Mapping[int, int] | None = None
    ) -> list[Group]:
        """The calls that prefill the (row, n_tokens) given, a prompt's pieces in their order.

        begins: row -> how many tokens it has already.
        """
        begins = begins or {}
        cut = [self.pieces(row, n_tokens, begins.get(row, 0)) for row, n_tokens in prompts]
        groups = []
        for i in range(max(map(len, cut), default=0)):
            by_bucket: dict[int, list[Piece]] = {}
            for pieces in cut:
                if i < len(pieces):
                    size = self.bucket_tokens(pieces[i].n_tokens)
                    by_bucket.setdefault(size, []).append(pieces[i])
            for size, members in sorted(by_bucket.items()):
                width = self.rows_per_call(size)
                for first in range(0, len(members), width):
                    groups.append(self._group(size, members[first : first + width], width))
        return groups

    def _group(self, bucket_tokens: int, pieces: list[Piece], width: int) -> Group:
        used = {piece.row for piece in pieces}
        others = (row for row in range(self.n_rows) if row not in used)
        idle = tuple(row for row, _ in zip(others, range(width - len(pieces)), strict=False))
        return Group(bucket_tokens, tuple(pieces), idle)
