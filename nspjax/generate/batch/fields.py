"""The body of a batch request: OpenAI's fields -> prompts and `SamplingParams`.

A field that would change the answer and that nspjax does not have is refused, and so is a field
that nobody knows (a misspelt "temperature" must not pass in silence). `null` is the default.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from nspjax.errors import RequestError
from nspjax.generate.batch.field_error import FieldError
from nspjax.generate.batch.field_table import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    IGNORED,
    UNSUPPORTED,
    served,
)
from nspjax.generate.batch.form_fields import AskedForm, asked_form
from nspjax.generate.batch.lines import BatchLine, shown
from nspjax.generate.outputs import Prompt
from nspjax.generate.sampling_params import MAX_LOGPROBS, SamplingParams
from nspjax.generate.tools.choice import Tools, tools_of

ChatPrompt = Callable[..., Prompt]
"""`LLM.chat_prompt`: what a conversation becomes under the checkpoint's chat template."""

_SAMPLING = {f.name for f in dataclasses.fields(SamplingParams)} - {"structured_outputs"}
_TEMPLATE: dict[str, tuple[type, str]] = {
    "tools": (list, "a list of objects"),
    "documents": (list, "a list of objects"),
    "chat_template_kwargs": (dict, "an object"),
    "add_generation_prompt": (bool, "true or false"),
    "continue_final_message": (bool, "true or false"),
    "add_special_tokens": (bool, "true or false"),
}
"""Fields that `ChatPrompt` takes by name; the last five are vLLM's."""
_OF_LENGTH = {"max_tokens": "max_completion_tokens", "min_tokens": "min_tokens"}
"""Settings whose errors speak of `max_tokens`, by the newer name of it."""


@dataclasses.dataclass(frozen=True)
class BatchRequest:
    """What one line asks for: one prompt or several, all with the same settings.

    return_token_ids: vLLM's field; where it is left out, a prompt of token ids is answered with
      token ids, as the checkpoint may well have no tokenizer.
    echo: the text begins with the prompt's. only_echo: and ends there. prompt_logprobs: they are
      shown by themselves, not only with the echo. clip_max_tokens: as in `Request`.
    form: the form of the answers, which `params` has too. tools: what they may or must call; None:
      they are text.
    """

    prompts: tuple[Prompt, ...]
    params: SamplingParams
    chat: bool
    model: str | None
    return_token_ids: bool
    echo: bool = False
    only_echo: bool = False
    prompt_logprobs: bool = False
    clip_max_tokens: bool = True
    form: AskedForm | None = None
    tools: Tools | None = None


def parse_request(line: BatchLine, chat_prompt: ChatPrompt, job_seed: int) -> BatchRequest:
    """The prompts and settings that `line` asks for.

    Raises:
      RequestError: an unknown endpoint, a field of a wrong type or value, or one that nspjax
        does not have; `FieldError` where the field is known.
    """
    if line.problem is not None:
        raise FieldError(line.problem, code="invalid_json")
    if line.url not in (COMPLETIONS, CHAT_COMPLETIONS):
        raise FieldError(
            f"no endpoint {shown(line.url)}: nspjax has {COMPLETIONS} and {CHAT_COMPLETIONS}",
            code="unknown_endpoint",
            param="url",
        )
    body = {name: value for name, value in line.body.items() if value is not None}
    _refuse_unsupported(body, line.url)
    chat = line.url == CHAT_COMPLETIONS
    # before the template: it may fail at fields that are not right
    form, tools = _form_and_tools(body, chat)
    params = _sampling_params(body, chat, _request_seed(job_seed, line.custom_id))
    prompts = (chat_prompt(_messages(body), **_template(body)),) if chat else _prompts(body)
    ids_asked = not chat and any(not isinstance(prompt, str) for prompt in _as_asked(body))
    echo = not chat and _typed(body, "echo", bool, "true or false", False)
    return BatchRequest(
        prompts,
        params if form is None else dataclasses.replace(params, structured_outputs=form.params),
        chat,
        _typed(body, "model", str, "a string", None),
        _typed(body, "return_token_ids", bool, "true or false", ids_asked),
        echo=echo,
        only_echo=echo and body.get("max_tokens") == 0,
        prompt_logprobs="prompt_logprobs" in body,
        clip_max_tokens=not {"max_tokens", "max_completion_tokens"} & body.keys(),
        form=form,
        tools=tools,
    )


def as_asked(error: RequestError, line: BatchLine) -> RequestError:
    """The error with the name that the request has for `max_tokens`."""
    if line.body.get("max_completion_tokens") is None or error.param not in _OF_LENGTH:
        return error
    return FieldError(
        str(error).replace("max_tokens", "max_completion_tokens"), param=_OF_LENGTH[error.param]
    )


def _refuse_unsupported(body: Mapping[str, Any], url: str) -> None:
    for name, value in body.items():
        if name in IGNORED or name in served(url):
            continue
        if name not in UNSUPPORTED:
            raise FieldError(f"{url} has no field {shown(name)}", code="unknown_field", param=name)
        if not any(type(value) is type(ok) and value == ok for ok in UNSUPPORTED[name]):
            raise FieldError(
                f'"{name}": {shown(value)} is not supported: leave the field out',
                code="unsupported_field",
                param=name,
            )


# ---- prompts ------------------------------------------------------------------------------------


def _prompts(body: Mapping[str, Any]) -> tuple[Prompt, ...]:
    special_tokens = _typed(body, "add_special_tokens", bool, "true or false", True)
    return tuple(
        {"prompt_token_ids": asked}
        if isinstance(asked, list)
        else asked
        if special_tokens
        else {"prompt": asked, "add_special_tokens": False}
        for asked in _as_asked(body)
    )


def _as_asked(body: Mapping[str, Any]) -> list[str | list[int]]:
    """OpenAI's four forms: a text, several texts, token ids, several lists of token ids."""
    prompt: Any = body.get("prompt")
    prompts = [prompt] if _is_single(prompt) else prompt
    if isinstance(prompts, list) and prompts and all(map(_is_single, prompts)):
        return prompts
    raise FieldError(
        '"prompt" must be a text, a list of token ids, or a list of such; '
        + ("it is missing" if "prompt" not in body else f"got {shown(prompt)}"),
        param="prompt",
    )


def _is_single(prompt: Any) -> bool:
    if isinstance(prompt, str):
        return True
    return isinstance(prompt, list) and bool(prompt) and all(type(t) is int for t in prompt)


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conversation. The engine checks the content of the messages."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise FieldError(
            '"messages" must be a list of {"role": ..., "content": ...}; '
            + ("it is missing" if "messages" not in body else f"got {shown(messages)}"),
            param="messages",
        )
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise FieldError(f"{where} must be an object, got {shown(message)}", param=where)
    if not isinstance(message.get("role"), str):
        raise FieldError(f'{where} needs a "role", a string such as "user"', param=where)
    return message


def _template(body: Mapping[str, Any]) -> dict[str, Any]:
    """What the chat template gets besides the messages. It sees no tools under `tool_choice`
    "none": only then can the model be relied on to call none."""
    asked = {
        name: _typed(body, name, kind, wanted, None)
        for name, (kind, wanted) in _TEMPLATE.items()
        if name in body
    }
    if body.get("tool_choice") == "none" or not asked.get("tools"):
        asked.pop("tools", None)
    effort = _typed(body, "reasoning_effort", str, 'a string such as "low"', None)
    if effort is not None:  # as vLLM hands it on; what the request says of the template goes first
        kwargs = asked.get("chat_template_kwargs", {})
        asked["chat_template_kwargs"] = {"reasoning_effort": effort} | kwargs
    return asked


def _form_and_tools(body: Mapping[str, Any], chat: bool) -> tuple[AskedForm | None, Tools | None]:
    form = asked_form(body)
    if not chat:
        return form, None
    parallel = body.get("parallel_tool_calls", True)
    tools = tools_of(body.get("tools"), body.get("tool_choice"), parallel)
    if form is None or tools is None:
        return form, tools
    if tools.required:
        raise FieldError(
            f'"{form.field}" gives the answer a form and "tool_choice" another: ask for one',
            param="tool_choice",
        )
    return form, None  # an answer of that form is no call


# ---- settings -----------------------------------------------------------------------------------


def _sampling_params(body: Mapping[str, Any], chat: bool, seed: int) -> SamplingParams:
    """Defaults are OpenAI's: temperature 1, 16 tokens, for chat as many as the context has."""
    asked = {name: body[name] for name in _SAMPLING & body.keys()}
    if chat:
        asked.setdefault("max_tokens", None)
        if "max_completion_tokens" in body:
            asked["max_tokens"] = body["max_completion_tokens"]
        asked["logprobs"] = _chat_logprobs(body)
    elif asked.get("logprobs") is False:
        asked["logprobs"] = None
    if body.get("echo") is True and not chat:
        if asked.get("max_tokens") == 0:
            asked["max_tokens"] = 1  # to run at all; it is not shown
        asked.setdefault("prompt_logprobs", asked.get("logprobs"))
    asked.setdefault("seed", seed)
    return SamplingParams(**asked)


def _chat_logprobs(body: Mapping[str, Any]) -> int | None:
    """How many of the likeliest tokens are asked for; None: not even the token's own logprob."""
    wanted = _typed(body, "logprobs", bool, "true or false", False)
    n_top = _typed(body, "top_logprobs", int, f"an integer in [0, {MAX_LOGPROBS}]", 0)
    if n_top is True or not 0 <= n_top <= MAX_LOGPROBS:
        raise FieldError(
            f'"top_logprobs" must be an integer in [0, {MAX_LOGPROBS}], got {shown(n_top)}',
            param="top_logprobs",
        )
    if n_top and not wanted:
        raise FieldError('"top_logprobs" needs "logprobs": true', param="top_logprobs")
    return n_top if wanted else None


def _request_seed(job_seed: int, custom_id: str) -> int:
    """A seed of the request's own, so that its answer survives a resume and another order."""
    text = json.dumps([job_seed, custom_id]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little") >> 1


def _typed(body: Mapping[str, Any], name: str, kind: type, wanted: str, default: Any) -> Any:
    value = body.get(name, default)
    if value is not default and not isinstance(value, kind):
        raise FieldError(f'"{name}" must be {wanted}, got {shown(value)}', param=name)
    return value
