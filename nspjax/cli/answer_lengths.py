"""How many tokens answers have, learnt from those that have finished and those that run."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Mapping

_NONE = 1e-9
"""A share of answers: none was that long."""


class AnswerLengths:
    """Kaplan and Meier's estimate of the share of answers that are longer than so many tokens.

    An answer that still runs, or that its limit ended, says only that it would be longer: left out,
    the short ones, which finish first, would pass for all. Beyond the longest answer seen, answers
    end at the rate of all of them, or at a lower one, if some ran on for long without an end.

    seen: (tokens, whether the answer ended by itself) -> number of answers.
    """

    def __init__(self, seen: Mapping[tuple[int, bool], int]) -> None:
        ended, all_of = Counter[int](), Counter[int]()
        for (n_tokens, by_itself), count in seen.items():
            all_of[n_tokens] += count
            ended[n_tokens] += count if by_itself else 0
        self._longest = max(all_of, default=0)
        n_tokens = sum(length * count for length, count in all_of.items())
        last = max((length for length, count in ended.items() if count), default=0)
        beyond = sum((length - last) * count for length, count in all_of.items() if length > last)
        rate = ended.total() / max(n_tokens, 1)
        # as if, besides those that ran on without an end, a few had ended at that rate
        few = 2 + math.sqrt(ended.total())
        self._rate = rate * few / (few + rate * beyond)
        # from _from[i] tokens on, _share[i] of the answers are longer; those before have an
        # expected _before[i] tokens
        self._from, self._share, self._before = [0], [1.0], [0.0]
        at_risk = all_of.total()
        for length in sorted(all_of):
            if ended[length]:
                self._before.append(self._tokens_until(length))
                self._share.append(self._share[-1] * (1 - ended[length] / at_risk))
                self._from.append(length)
            at_risk -= all_of[length]

    def expected_left(self, so_far: int, most: int | None) -> float | None:
        """The tokens that an answer of `so_far` may yet be expected to get, of `most` in all.

        None: that is not to be told, as no answer has ended by itself, and this one has no limit.
        """
        if most is None and not self._rate:
            return None
        end = math.inf if most is None else max(most, so_far)
        longer = self._longer(so_far)
        if longer < _NONE:
            return self._beyond(end - so_far)
        return (self._tokens_until(end) - self._tokens_until(so_far)) / longer

    def share_left(self, so_far: int, most: int | None, n_tokens: float) -> float:
        """The probability that an answer gets more than n_tokens beyond its `so_far`."""
        if most is not None and so_far + n_tokens >= most:
            return 0.0
        longer = self._longer(so_far)
        if longer < _NONE:
            return math.exp(-self._rate * n_tokens)
        return self._longer(so_far + n_tokens) / longer

    def _longer(self, n_tokens: float) -> float:
        share = self._share[bisect.bisect_right(self._from, n_tokens) - 1]
        return share * math.exp(-self._rate * max(0, n_tokens - self._longest))

    def _tokens_until(self, n_tokens: float) -> float:
        """The expected length of an answer that is cut at so many tokens."""
        i = bisect.bisect_right(self._from, n_tokens) - 1
        seen = max(min(n_tokens, self._longest) - self._from[i], 0)
        unseen = self._beyond(max(0, n_tokens - self._longest))
        return self._before[i] + self._share[i] * (seen + unseen)

    def _beyond(self, n_tokens: float) -> float:
        """The expected length, cut at so many tokens, of what ends at the same rate always."""
        if not self._rate:
            return n_tokens
        return -math.expm1(-self._rate * n_tokens) / self._rate
