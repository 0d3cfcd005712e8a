"""From a request to the answers that are run for it: tokens, checks, limits, seeds."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from nspjax.errors import RequestError
from nspjax.generate.answer import Answer, draw_seed
from nspjax.generate.outputs import CompletionOutput, Request, RequestOutput
from nspjax.generate.sampling.token_mask import AllOf, NewMask
from nspjax.generate.sampling_params import SamplingParams
from nspjax.generate.structured.token_grammars import TokenGrammars
from nspjax.generate.text import tokenization
from nspjax.generate.text.stop_texts import StopTexts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class PreparedRequest:
    """A request that can be served: its tokens are there and fit."""

    request: Request
    text: str | None
    token_ids: tuple[int, ...]
    stops: StopTexts | None
    new_mask: NewMask | None = None

    def output(self, answers: Sequence[Answer]) -> RequestOutput:
        """What its finished answers make."""
        error = next((answer.error for answer in answers if answer.error), None)
        outputs: tuple[CompletionOutput, ...] = ()
        if error is None:
            try:
                outputs = tuple(answer.output() for answer in answers)
            except RequestError as failure:  # the tokenizer's, at what was generated
                error = failure
        return RequestOutput(self.request.request_id, self.text, self.token_ids, outputs, error)


@dataclasses.dataclass(frozen=True)
class RequestReader:
    """What a request is checked against. no_tokenizer: why there is none, and what to do then.
    grammars: None without a tokenizer."""

    tokenizer: PreTrainedTokenizerBase | None
    no_tokenizer: str
    vocab_size: int
    max_model_len: int
    end_tokens: tuple[int, ...]
    grammars: TokenGrammars | None = None

    def prepare(self, request: Request) -> PreparedRequest:
        """Tokenize and check a request.

        Raises:
          RequestError: it cannot be served; names the value and what is allowed.
        """
        if not isinstance(request.params, SamplingParams):
            raise RequestError(f"params must be SamplingParams, got {reprlib.repr(request.params)}")
        text, token_ids = self._tokens(request.prompt)
        if not token_ids:
            raise RequestError("the prompt is empty: give at least one token")
        if len(token_ids) >= self.max_model_len:
            raise RequestError(
                f"the prompt has {len(token_ids)} tokens, and the context of {self.max_model_len} "
                f"(max_model_len) leaves room for at most {self.max_model_len - 1}, as one is to "
                "be generated"
            )
        for name, ids in (
            ("prompt_token_ids", token_ids),
            ("stop_token_ids", request.params.stop_token_ids),
        ):
            for token in ids:
                if not 0 <= token < self.vocab_size:
                    raise RequestError(
                        f"{name} holds {token}: the model's tokens are 0 to {self.vocab_size - 1}"
                    )
        stops = self._stops(request.params.stop_texts)
        new_mask = self._new_mask(request.params, stops)
        return PreparedRequest(request, text, token_ids, stops, new_mask)

    def answers(self, prepared: PreparedRequest) -> list[Answer]:
        """The answers to run, `params.n` of them."""
        params = prepared.request.params
        room = self.max_model_len - len(prepared.token_ids)
        seed = draw_seed() if params.seed is None else params.seed
        return [
            Answer(
                prepared.token_ids,
                params,
                index=index,
                seed=seed,
                max_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
                end_tokens=self.end_tokens,
                tokenizer=self.tokenizer,
                stops=prepared.stops,
                new_mask=prepared.new_mask,
            )
            for index in range(params.n)
        ]

    def _tokens(self, prompt: Any) -> tuple[str | None, tuple[int, ...]]:
        text = None
        if isinstance(prompt, Mapping):
            text = prompt.get("prompt")
            if text is not None and not isinstance(text, str):
                raise RequestError(f'"prompt" must be text, got {reprlib.repr(text)}')
            prompt = prompt.get("prompt_token_ids", text)
        if isinstance(prompt, str):
            return prompt, self._encode(prompt)
        if not isinstance(prompt, Sequence) or not all(
            isinstance(token, int) and not isinstance(token, bool) for token in prompt
        ):
            raise RequestError(
                'a prompt must be a text, a list of token ids, {"prompt": text} or '
                f'{{"prompt_token_ids": ids}}, got {reprlib.repr(prompt)}'
            )
        return text, tuple(prompt)

    def _encode(self, text: str) -> tuple[int, ...]:
        if self.tokenizer is None:
            raise RequestError(f'{self.no_tokenizer}, {{"prompt_token_ids": [...]}}')
        return tokenization.encode(self.tokenizer, text, special_tokens=True)

    def _new_mask(self, params: SamplingParams, stops: StopTexts | None) -> NewMask | None:
        """Makes what bars tokens one by one, in each answer; None: nothing does."""
        end_tokens = () if params.ignore_eos else self.end_tokens
        ends = {*end_tokens, *params.stop_token_ids, *(stops.tokens if stops else ())}
        makers = self._mask_makers(params, ends)
        if len(makers) < 2:
            return makers[0] if makers else None
        return lambda: AllOf([make() for make in makers])

    def _mask_makers(self, params: SamplingParams, ends: Set[int]) -> list[NewMask]:
        """ends: the tokens that may end an answer."""
        form, grammars = params.structured_outputs, self.grammars
        if form is None:
            return []
        if grammars is None:
            raise RequestError(f"structured output needs a tokenizer: {self.no_tokenizer}")
        grammars.check(form)
        return [lambda: grammars.mask(form, ends)]

    def _stops(self, texts: Sequence[str]) -> StopTexts | None:
        if not texts:
            return None
        if self.tokenizer is None:
            raise RequestError(
                f"stop={reprlib.repr(texts)} needs a tokenizer ({self.no_tokenizer}): use "
                "stop_token_ids"
            )
        return StopTexts.of(self.tokenizer, texts)
