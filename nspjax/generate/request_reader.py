"""From a request to the answers that are run for it: tokens, checks, limits, seeds."""

from __future__ import annotations

import dataclasses
import functools
import reprlib
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from nspjax.errors import RequestError
from nspjax.generate.answer import Answer, draw_seed
from nspjax.generate.outputs import Request
from nspjax.generate.prepared_request import PreparedRequest
from nspjax.generate.sampling.bad_words import BadWords, bad_word_tokens
from nspjax.generate.sampling.request_terms import RequestTerms
from nspjax.generate.sampling.token_mask import NewMask, all_of
from nspjax.generate.sampling_params import SamplingParams
from nspjax.generate.structured.token_grammars import TokenGrammars
from nspjax.generate.text import tokenization
from nspjax.generate.text.stop_texts import StopTexts
from nspjax.generate.text.token_texts import TokenTexts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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

    @functools.cached_property
    def token_texts(self) -> TokenTexts:
        """The texts of single tokens."""
        return TokenTexts(self.tokenizer)

    def prepare(self, request: Request) -> PreparedRequest:
        """Tokenize and check a request.

        Raises:
          RequestError: it cannot be served; names the value and what is allowed.
        """
        params = request.params
        if not isinstance(params, SamplingParams):
            raise RequestError(f"params must be SamplingParams, got {reprlib.repr(params)}")
        text, token_ids = self._tokens(request.prompt)
        if not token_ids:
            raise RequestError("the prompt is empty: give at least one token", param="prompt")
        if params.truncate_prompt_tokens is not None:
            token_ids = token_ids[-self._kept_tokens(params) :]
        room = self._room(len(token_ids))
        self._check_tokens("prompt_token_ids", token_ids, "prompt")
        for name in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
            self._check_tokens(name, getattr(params, name) or (), name)
        max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
        if not request.clip_max_tokens and max_tokens < (params.max_tokens or 0):
            raise RequestError(
                f"max_tokens is {params.max_tokens}, and after a prompt of {len(token_ids)} tokens "
                f"the context of {self.max_model_len} (max_model_len) has room for {room}: ask for "
                "no more, or leave it out",
                param="max_tokens",
            )
        cut = params.truncate_prompt_tokens is not None
        if request.with_text and self.tokenizer is not None and (text is None or cut):
            text = tokenization.decode(self.tokenizer, token_ids)
        stops = self._stops(params.stop_texts)
        terms = self._terms(params, token_ids, stops)
        return PreparedRequest(request, text, token_ids, max_tokens, stops, terms)

    def prepare_all(self, requests: Sequence[Request]) -> list[PreparedRequest]:
        """All of several requests.

        Raises:
          RequestError: one of them cannot be served; says which.
        """
        prepared = []
        for i, request in enumerate(requests):
            try:
                prepared.append(self.prepare(request))
            except RequestError as error:
                raise RequestError(f"prompt {i}: {error}") from error
        return prepared

    def answers(self, prepared: PreparedRequest) -> list[Answer]:
        """The answers to run: `params.n_runs` of them."""
        params = prepared.request.params
        seed = draw_seed() if params.seed is None else params.seed
        return [
            Answer(
                prepared.token_ids,
                params,
                index=index,
                seed=seed,
                max_tokens=prepared.max_tokens,
                end_tokens=self.end_tokens,
                tokenizer=self.tokenizer,
                stops=prepared.stops,
                terms=prepared.terms,
                request_id=prepared.request.request_id,
            )
            for index in range(params.n_runs)
        ]

    def _room(self, n_tokens: int) -> int:
        """How many tokens may follow a prompt of so many."""
        if n_tokens >= self.max_model_len:
            raise RequestError(
                f"the prompt has {n_tokens} tokens, and the context of {self.max_model_len} "
                f"(max_model_len) leaves room for at most {self.max_model_len - 1}, as one is to "
                "be generated",
                param="prompt",
            )
        return self.max_model_len - n_tokens

    def _kept_tokens(self, params: SamplingParams) -> int:
        asked = params.truncate_prompt_tokens
        if asked is not None and asked > 0:
            return asked
        room = self.max_model_len - (params.max_tokens or 1)
        if room < 1:
            raise RequestError(
                f"max_tokens is {params.max_tokens}, which leaves no room for a prompt in the "
                f"context of {self.max_model_len} tokens (max_model_len)",
                param="max_tokens",
            )
        return room

    def _check_tokens(self, name: str, ids: Iterable[int], param: str) -> None:
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise RequestError(
                    f"{name} holds {token}: the model's tokens are 0 to {self.vocab_size - 1}",
                    param=param,
                )

    def _terms(
        self, params: SamplingParams, prompt: Sequence[int], stops: StopTexts | None
    ) -> RequestTerms:
        """What the request asks of the logits."""
        end_tokens = () if params.ignore_eos else self.end_tokens
        ends = {*end_tokens, *params.stop_token_ids, *(stops.tokens if stops else ())}
        makers = self._mask_makers(params, ends)
        bad_words = self._bad_words(params.bad_words)
        longer = [word for word in bad_words if len(word) > 1]
        if longer:
            makers.append(lambda: BadWords(longer, self.vocab_size))
        return RequestTerms.of(
            params,
            prompt,
            self.vocab_size,
            ends=ends,
            barred=[word[0] for word in bad_words if len(word) == 1],
            new_mask=all_of(makers),
        )

    def _mask_makers(self, params: SamplingParams, ends: Set[int]) -> list[NewMask]:
        """What says, token by token, which may come next. ends: tokens that may end an answer."""
        form, grammars = params.structured_outputs, self.grammars
        if form is None:
            return []
        if grammars is None:
            raise RequestError(
                f"structured output needs a tokenizer ({self.no_tokenizer})",
                param="structured_outputs",
            )
        grammars.check(form)
        return [lambda: grammars.mask(form, ends)]

    def _bad_words(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        if not words:
            return []
        if self.tokenizer is None:
            raise RequestError(
                f"bad_words={reprlib.repr(words)} needs a tokenizer ({self.no_tokenizer}): use "
                "logit_bias",
                param="bad_words",
            )
        return bad_word_tokens(self.tokenizer, words)

    def _tokens(self, prompt: Any) -> tuple[str | None, tuple[int, ...]]:
        text, special_tokens = None, True
        if isinstance(prompt, Mapping):
            text = prompt.get("prompt")
            if text is not None and not isinstance(text, str):
                raise RequestError(
                    f'"prompt" must be text, got {reprlib.repr(text)}', param="prompt"
                )
            special_tokens = bool(prompt.get("add_special_tokens", True))
            prompt = prompt.get("prompt_token_ids", text)
        if isinstance(prompt, str):
            return prompt, self._encode(prompt, special_tokens)
        if not isinstance(prompt, Sequence) or not all(
            isinstance(token, int) and not isinstance(token, bool) for token in prompt
        ):
            raise RequestError(
                'a prompt must be a text, a list of token ids, {"prompt": text} or '
                f'{{"prompt_token_ids": ids}}, got {reprlib.repr(prompt)}',
                param="prompt",
            )
        return text, tuple(prompt)

    def _encode(self, text: str, special_tokens: bool) -> tuple[int, ...]:
        if self.tokenizer is None:
            raise RequestError(
                f'{self.no_tokenizer}, {{"prompt_token_ids": [...]}}', param="prompt"
            )
        return tokenization.encode(self.tokenizer, text, special_tokens=special_tokens)

    def _stops(self, texts: Sequence[str]) -> StopTexts | None:
        if not texts:
            return None
        if self.tokenizer is None:
            raise RequestError(
                f"stop={reprlib.repr(texts)} needs a tokenizer ({self.no_tokenizer}): use "
                "stop_token_ids",
                param="stop",
            )
        return StopTexts.of(self.tokenizer, texts)
