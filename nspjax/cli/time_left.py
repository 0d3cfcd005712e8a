"""How long a job will still take. Pure: no clock, no engine."""

from __future__ import annotations

import collections
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from nspjax.cli.answer_lengths import AnswerLengths

if TYPE_CHECKING:
    from nspjax.generate import GenerationStats
    from nspjax.generate.batch.work import Work

_FIXED = 0.5
"""Of a decode step's time, what does not depend on how many rows run: weights against caches. It
may be anything; when few rows are left, the latest steps tell."""
_MOST_OVERHEAD = 3.0
_MOST_TOKENS = 1 << 20


class _Answer(NamedTuple):
    so_far: int
    most: int | None
    limit_class: int


def seconds_left(
    before: GenerationStats, now: GenerationStats, work: Work, elapsed_seconds: float
) -> float | None:
    """The time that the rest of the work takes, if its like takes what it took.

    before: some time ago, since when a decode step takes what it takes; now: all counts of the job,
    which has run for elapsed_seconds. None: that is not to be told yet.
    """
    if not now.decode_steps or not now.prompt_tokens:
        return None
    recent = _Steps(before, now) if now.decode_steps > before.decode_steps else _Steps(None, now)
    left = _answers_left(now.running, work, round(recent.rows))
    if left is None:
        return None
    steps, tokens = left
    decode = recent.seconds * (_FIXED * steps + (1 - _FIXED) * tokens / recent.rows)
    prefill = _prompt_tokens_left(now, work) * now.prefill_seconds / now.prompt_tokens
    working = now.prefill_seconds + now.decode_seconds
    overhead = (elapsed_seconds - now.compile_seconds) / max(working, 1e-9)
    return (decode + prefill) * min(max(overhead, 1.0), _MOST_OVERHEAD)


class _Steps:
    """A decode step between two moments: its time, and how many rows got a token in it."""

    def __init__(self, before: GenerationStats | None, now: GenerationStats) -> None:
        steps = now.decode_steps - (before.decode_steps if before else 0)
        seconds = now.decode_seconds - (before.decode_seconds if before else 0.0)
        tokens = now.generated_tokens - (before.generated_tokens if before else 0)
        self.seconds = seconds / steps
        self.rows = max(tokens / steps, 1.0)


def _answers_left(
    running: Sequence[tuple[int, int]], work: Work, recent_rows: int
) -> tuple[float, float] | None:
    """(decode steps, tokens) that are left."""
    lengths = _lengths_by_class(running, work)
    counts = Counter(
        _Answer(so_far, most, work.limit_class(asked))
        for (so_far, most), asked in zip(running, work.in_flight, strict=False)
    )
    counts.update(
        _Answer(0, most, work.limit_class(most)) for most in work.in_flight[len(running) :]
    )
    for most, count in work.unread.items():
        counts[_Answer(0, most, work.limit_class(most))] += count
    counts = +counts  # those of which there are none left out
    left: dict[_Answer, float] = {}
    for answer in counts:
        expected = lengths[answer.limit_class].expected_left(answer.so_far, answer.most)
        if expected is None:
            return None
        left[answer] = expected
    if not left:
        return 0.0, 0.0
    tokens = sum(left[answer] * count for answer, count in counts.items())
    n_rows = min(max(len(running), recent_rows), counts.total())
    longest = max(*left.values(), _longest_of(n_rows, counts, lengths))
    # between those of rows that end together, and those after which the longest begins last
    together = tokens / n_rows
    last = together + longest - tokens / counts.total()
    return max(statistics.mean((together, last)), longest), tokens


def _lengths_by_class(
    running: Sequence[tuple[int, int]], work: Work
) -> Mapping[int, AnswerLengths]:
    """What is known of the lengths of answers, by the class of their limits."""
    seen: dict[int, Counter[tuple[int, bool]]] = collections.defaultdict(Counter)
    for (limits, n_tokens, by_itself), count in work.finished.items():
        seen[limits][n_tokens, by_itself] += count
    for (so_far, _), asked in zip(running, work.in_flight, strict=False):
        seen[work.limit_class(asked)][so_far, False] += 1
    known = {limits: AnswerLengths(lengths) for limits, lengths in seen.items()}
    return collections.defaultdict(lambda: AnswerLengths({}), known)


def _longest_of(
    n_rows: int, counts: Counter[_Answer], lengths: Mapping[int, AnswerLengths]
) -> float:
    """The tokens that the longest of n_rows such answers still gets, or more, every other time."""
    scale = n_rows / counts.total()
    least, most = 0.0, float(_MOST_TOKENS)
    while most - least > 1:
        middle = (least + most) / 2
        n_longer = scale * sum(
            lengths[each.limit_class].share_left(each.so_far, each.most, middle) * count
            for each, count in counts.items()
        )
        least, most = (middle, most) if n_longer > math.log(2) else (least, middle)
    return least


def _prompt_tokens_left(now: GenerationStats, work: Work) -> float:
    """Of prompts that are still to be computed; others take them from rows that have them."""
    per_byte = work.prompt_tokens / max(work.read_bytes, 1)
    done = now.prompt_tokens + now.shared_prompt_tokens
    left = max(work.prompt_tokens + work.unread_bytes * per_byte - done, 0.0)
    return left * now.prompt_tokens / max(done, 1)
