"""An `LLM` that needs no model: its answers follow from prompt, settings and seed alone."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

from nspjax.errors import RequestError
from nspjax.generate.outputs import CompletionOutput, GenerationStats, Request, RequestOutput
from nspjax.generate.prepared_request import PreparedRequest
from nspjax.generate.sampling.request_terms import RequestTerms

CONTEXT = 200
"""A token is a character here."""


class StubEngine:
    """Answers four requests at a time, the one with the shortest prompt first.

    seconds: how long one answer takes. fail_after: answers before `failure` is raised.
    """

    tools = None

    def __init__(
        self,
        *,
        seconds: float = 0.0,
        fail_after: int | None = None,
        failure: Exception | None = None,
    ):
        self._seconds, self._fail_after, self._failure = seconds, fail_after, failure
        self._stats = GenerationStats()
        self.served: list[str] = []

    def prepare(self, request: Request) -> PreparedRequest:
        tokens = _tokens(request)
        if len(tokens) >= CONTEXT:
            raise RequestError(f"the prompt is too long for the context of {CONTEXT} tokens")
        text = request.prompt if isinstance(request.prompt, str) else None
        most = min(request.params.max_tokens or 40, 40)
        return PreparedRequest(request, text, tokens, most, None, RequestTerms())

    def chat_prompt(self, messages: list[dict[str, Any]]) -> str:
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"

    def stream(self, requests: Iterable[PreparedRequest]) -> Iterator[RequestOutput]:
        window: list[PreparedRequest] = []
        source = iter(requests)
        while True:
            while len(window) < 4 and (prepared := next(source, None)) is not None:
                window.append(prepared)
            if not window:
                return
            if self._failure is not None and len(self.served) == self._fail_after:
                raise self._failure
            window.sort(key=lambda prepared: len(prepared.token_ids))
            time.sleep(self._seconds)
            prepared = window.pop(0)
            self.served.append(prepared.request.request_id)
            output = _answer(prepared)
            self._count(output)
            yield output

    def stats(self) -> GenerationStats:
        return self._stats

    def _count(self, output: RequestOutput) -> None:
        generated = sum(len(answer.token_ids) for answer in output.outputs)
        self._stats = GenerationStats(
            prompt_tokens=self._stats.prompt_tokens + len(output.prompt_token_ids),
            generated_tokens=self._stats.generated_tokens + generated,
            prefill_seconds=1.0,
            decode_seconds=2.0,
        )


@contextlib.contextmanager
def loaded(engine: StubEngine, _options: object = None) -> Iterator[tuple[StubEngine, None]]:
    """In the place of `nspjax.cli.run_batch.load_engine`."""
    yield engine, None


def _tokens(request: Request) -> tuple[int, ...]:
    if isinstance(request.prompt, str):
        return tuple(map(ord, request.prompt))
    return tuple(request.prompt["prompt_token_ids"])  # pyright: ignore


def _answer(prepared: PreparedRequest) -> RequestOutput:
    prompt, params = prepared.token_ids, prepared.request.params
    seed = 0 if params.greedy else params.seed
    answers = []
    for index in range(params.n):
        text = hashlib.sha256(repr((prompt, seed, index)).encode()).hexdigest()
        text = text[: prepared.max_tokens]
        answers.append(CompletionOutput(index, text, tuple(map(ord, text)), "length", None))
    return RequestOutput(prepared.request.request_id, prepared.text, prompt, tuple(answers))
