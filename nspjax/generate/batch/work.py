"""What a job has to do and what it has done, as far as lines and answers tell."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping, Sequence

from nspjax.generate.batch.lines import BatchLine

_COMPLETION_TOKENS = 16
"""OpenAI's default for completions; a chat may have as many as fit."""


@dataclasses.dataclass(frozen=True, slots=True)
class AskedAnswers:
    """How many answers a request asks for, and the most tokens that each may have: as many as fit
    in the context, where that is None."""

    n_answers: int
    most_tokens: int | None


_once = functools.lru_cache(AskedAnswers)  # a file has many requests, and few kinds of them


def asked_answers(line: BatchLine) -> AskedAnswers:
    """What a line seems to ask for; it may yet be refused."""
    body = line.body
    n, prompt = body.get("n"), body.get("prompt")
    n_prompts = 1
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        n_prompts = len(prompt)
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    if type(most) is not int or most < 1:
        most = None if "messages" in body else _COMPLETION_TOKENS
    n_answers = n if type(n) is int and n > 0 else 1
    return _once(n_answers * n_prompts, most)


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of one run of a job. Numbers of answers are by the most tokens they may have.

    unread, unread_bytes: requests that nobody has looked at since the input was checked.
    read_bytes, prompt_tokens: of requests that were read; a prompt counts for each of its answers.
    in_flight: the most tokens of the answers that were begun or wait, in their order.
    finished: (limit_class, its tokens, whether it ended by itself) -> number of answers.
    """

    unread: Mapping[int | None, int]
    unread_bytes: int
    read_bytes: int
    prompt_tokens: int
    in_flight: Sequence[int | None]
    finished: Mapping[tuple[int, int, bool], int]

    @staticmethod
    def limit_class(most_tokens: int | None) -> int:
        """Limits of one magnitude: who asks for more tokens gets longer answers."""
        return 0 if most_tokens is None else most_tokens.bit_length()


class WorkCounter:
    """Counts the work of a job while it runs. One thread counts, any may look."""

    def __init__(self) -> None:
        self._unread: Counter[int | None] = Counter()
        self._unread_bytes = self._read_bytes = self._prompt_tokens = 0
        self._finished: Counter[tuple[int, int, bool]] = Counter()

    def expect(self, asked: AskedAnswers, n_bytes: int) -> None:
        """A request is to be answered."""
        self._unread[asked.most_tokens] += asked.n_answers
        self._unread_bytes += n_bytes

    def read(self, asked: AskedAnswers, n_bytes: int, prompt_tokens: int) -> None:
        """It has been read, and its prompts have so many tokens: none if it is refused."""
        self._unread[asked.most_tokens] -= asked.n_answers
        self._unread_bytes -= n_bytes
        self._read_bytes += n_bytes
        self._prompt_tokens += prompt_tokens

    def finish(self, asked: AskedAnswers, n_tokens: int, *, by_itself: bool) -> None:
        """An answer has finished."""
        self._finished[Work.limit_class(asked.most_tokens), n_tokens, by_itself] += 1

    def seen(self, in_flight: Sequence[int | None]) -> Work:
        """What has been counted until now."""
        return Work(
            dict(self._unread),
            self._unread_bytes,
            self._read_bytes,
            self._prompt_tokens,
            in_flight,
            dict(self._finished),
        )
