"""What goes into `LLM` and what comes out: plain frozen records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from nspjax.errors import NspjaxError, RequestError
from nspjax.generate.sampling_params import SamplingParams

Prompt = str | Sequence[int] | Mapping[str, Any]
"""A text, a list of token ids, {"prompt": text}, or {"prompt_token_ids": ids} and, optionally,
the "prompt" text that the ids came from. Beside a "prompt" alone, "add_special_tokens": False
encodes it without BOS and what else the tokenizer adds."""


@dataclasses.dataclass(frozen=True)
class Request:
    """One prompt with its settings. The id is the caller's and comes back with the output.

    clip_max_tokens: where the context ends before max_tokens, so does the answer; False: such a
      request is refused. with_text: the output has the prompt's text even where its tokens were
      given or cut, if there is a tokenizer.
    """

    request_id: str
    prompt: Prompt
    params: SamplingParams = dataclasses.field(default_factory=SamplingParams)
    clip_max_tokens: bool = True
    with_text: bool = False


def requests_of(
    prompts: Prompt | Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
) -> list[Request]:
    """One request a prompt, numbered from "0".

    params: for all prompts, or one a prompt; None: `SamplingParams()`.

    Raises:
      RequestError: another number of params than of prompts.
    """
    if isinstance(prompts, str | Mapping) or (prompts and isinstance(prompts[0], int)):
        prompts = [prompts]  # pyright: ignore
    if params is None or isinstance(params, SamplingParams):
        params = [params or SamplingParams()] * len(prompts)
    if len(params) != len(prompts):
        raise RequestError(
            f"{len(prompts)} prompts and {len(params)} SamplingParams: give one a prompt"
        )
    return [
        Request(str(i), prompt, setting)  # pyright: ignore
        for i, (prompt, setting) in enumerate(zip(prompts, params, strict=True))
    ]


@dataclasses.dataclass(frozen=True)
class Logprob:
    """A token's logprob at one place. rank: 1 for the likeliest. decoded_token: its text, see
    `TokenTexts`; decoded_bytes: that in UTF-8, or the bytes of a part of a character."""

    logprob: float
    rank: int
    decoded_token: str
    decoded_bytes: bytes


@dataclasses.dataclass(frozen=True)
class CompletionOutput:
    """One answer.

    text: without the stop text or stop token, unless they were asked for; "" where the model has
      no tokenizer.
    token_ids: all generated tokens, the one that ended the answer included.
    finish_reason: "stop" (an end token, a stop token, a stop text) or "length" (max_tokens, or
      the end of the context).
    stop_reason: the stop text or stop token id; None for the model's own end token, or "length".
    logprobs: for each of token_ids its own and those of the most likely ones, by token id, and
      cumulative_logprob: their sum; None where they were not asked for.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    stop_reason: int | str | None
    cumulative_logprob: float | None = None
    logprobs: tuple[dict[int, Logprob], ...] | None = None


@dataclasses.dataclass(frozen=True)
class RequestOutput:
    """A request's answers, `params.n` of them. prompt: its text, None for a token-id prompt.

    error: why there are none: the store lost what the request needed, or the model's numbers became
      NaN or infinite. Other requests are not affected.
    prompt_logprobs: as `CompletionOutput.logprobs`, for each token of the prompt; None for the
      first one, before which there is nothing. first_token: the text of that one and its bytes,
      beside prompt_logprobs.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: tuple[CompletionOutput, ...]
    error: NspjaxError | None = None
    prompt_logprobs: tuple[dict[int, Logprob] | None, ...] | None = None
    first_token: tuple[str, bytes] | None = None


@dataclasses.dataclass(frozen=True)
class ServedRow:
    """When a row had an answer to a request. The times are CLOCK_MONOTONIC's."""

    request_id: str
    row: int
    begin_ns: int
    end_ns: int


@dataclasses.dataclass(frozen=True)
class GenerationStats:
    """Counts since the LLM was made; `*_running` and `*_waiting` are as of now.

    A prompt counts once for each of its `n` answers, and once in all if they are greedy. Tokens
    that it took from another row count as `shared_prompt_tokens` only. Draft tokens are those that
    speculation proposed.
    Seconds are wall time of the compiled calls, and of the compilation of new shapes apart.
    running: of each running answer, its tokens so far and the most it may have.
    """

    prompt_tokens: int = 0
    shared_prompt_tokens: int = 0
    generated_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    compile_seconds: float = 0.0
    prefill_calls: int = 0
    decode_calls: int = 0
    decode_steps: int = 0
    programs_compiled: int = 0
    compiling: bool = False
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0
    requests_finished: int = 0
    rows_running: int = 0
    rows_waiting: int = 0
    running: tuple[tuple[int, int], ...] = ()
