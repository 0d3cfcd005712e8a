"""What a failure of the store costs: which answers fail, which start over. Pure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping

from nspjax.errors import StorageIOError, StoreDamagedError, StoreError, StoreFullError

ISOLATED = (StorageIOError, StoreDamagedError, StoreFullError)
"""Errors that need not end the run."""

MOST_FAILURES = 8
"""The run ends after more failures than this with no answer finished in between."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Rows that fail and why, and rows that start over."""

    failed: Mapping[int, StoreError]
    restarted: tuple[int, ...]


def judge(
    unreadable: Mapping[int, StoreError], n_rows: int, borrowers: Collection[int]
) -> Verdict | None:
    """What becomes of the `unreadable` ones among the n_rows rows of a call that failed.

    A row fails if its own tokens cannot be read. Where several rows miss the same place, it lies in
    tiles that they share: they start over, as do `borrowers`, rows in prefill that began with
    another's tokens. None: of several rows none can be read, each for a reason of its own: the
    device has failed.
    """
    count = Counter(str(error) for error in unreadable.values())
    failed, restarted = {}, []
    for row, error in unreadable.items():
        if count[str(error)] > 1 or row in borrowers:
            restarted.append(row)
        else:
            failed[row] = error
    if len(failed) == n_rows > 1:
        return None
    return Verdict(failed, tuple(restarted))
