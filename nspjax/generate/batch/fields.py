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

from nspjax.generate.batch.field_error import FieldError as FieldError
from nspjax.generate.batch.form_fields import FORM_FIELDS, AskedForm, asked_form
from nspjax.generate.batch.lines import BatchLine, shown
from nspjax.generate.outputs import Prompt
from nspjax.generate.sampling_params import SamplingParams
from nspjax.generate.tools.choice import Tools, tools_of

COMPLETIONS = "/v1/completions"
CHAT_COMPLETIONS = "/v1/chat/completions"

ChatPrompt = Callable[..., Prompt]
"""`LLM.chat_prompt`: what a conversation becomes under the checkpoint's chat template."""

_SAMPLING = {f.name for f in dataclasses.fields(SamplingParams)} - FORM_FIELDS
_COMMON = {"model", "max_tokens", "return_token_ids"} | _SAMPLING | FORM_FIELDS
_CALLS = {"tool_choice", "parallel_tool_calls"}
_TEMPLATE: dict[str, tuple[type, str]] = {
    "tools": (list, "a list of objects"),
    "documents": (list, "a list of objects"),
    "chat_template_kwargs": (dict, "an object"),
    "add_generation_prompt": (bool, "true or false"),
    "continue_final_message": (bool, "true or false"),
}
"""Fields that are handed to the chat template; the last four are vLLM's."""
_FIELDS = {
    COMPLETIONS: _COMMON | {"prompt"},
    CHAT_COMPLETIONS: _COMMON | {"messages", "max_completion_tokens"} | _TEMPLATE.keys() | _CALLS,
}

_WITHOUT_EFFECT = {
    "metadata",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "store",
    "stream_options",
    "user",
}
"""Fields of OpenAI's that do not change the answer of an offline job: ignored."""

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "presence_penalty": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "skip_special_tokens": (True,),
    "stream": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "tools": ([],),
    "top_logprobs": (0,),
    "use_beam_search": (False,),
}
"""Known fields that are not supported, with the values under which they ask for nothing."""


@dataclasses.dataclass(frozen=True)
class BatchRequest:
    """What one line asks for: one prompt or several, all with the same settings.

    return_token_ids: vLLM's field; where it is left out, a prompt of token ids is answered with
      token ids, as the checkpoint may well have no tokenizer.
    form: the form of the answers, which `params` has too. tools: what they may or must call; None:
      they are text.
    """

    prompts: tuple[Prompt, ...]
    params: SamplingParams
    chat: bool
    model: str | None
    return_token_ids: bool
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
    if line.url not in _FIELDS:
        raise FieldError(
            f"no endpoint {shown(line.url)}: nspjax has {COMPLETIONS} and {CHAT_COMPLETIONS}",
            code="unknown_endpoint",
            param="url",
        )
    body = {name: value for name, value in line.body.items() if value is not None}
    _refuse_unsupported(body, _FIELDS[line.url], line.url)
    chat = line.url == CHAT_COMPLETIONS
    prompts = (chat_prompt(_messages(body), **_template(body)),) if chat else _prompts(body)
    ids_asked = not chat and not all(isinstance(prompt, str) for prompt in prompts)
    form, tools = asked_form(body), _tools(body) if chat else None
    if form is not None and tools is not None:
        if tools.required:
            raise FieldError(
                f'"{form.field}" gives the answer a form and "tool_choice" another: ask for one',
                param="tool_choice",
            )
        tools = None  # an answer of that form is no call
    params = _sampling_params(body, chat, _request_seed(job_seed, line.custom_id))
    return BatchRequest(
        prompts,
        params if form is None else dataclasses.replace(params, structured_outputs=form.params),
        chat,
        _typed(body, "model", str, "a string", None),
        _typed(body, "return_token_ids", bool, "true or false", ids_asked),
        form,
        tools,
    )


def _refuse_unsupported(body: Mapping[str, Any], supported: set[str], url: str) -> None:
    for name, value in body.items():
        if name in supported or name in _WITHOUT_EFFECT:
            continue
        if name not in _NEUTRAL:
            raise FieldError(f"{url} has no field {shown(name)}", code="unknown_field", param=name)
        if not any(type(value) is type(ok) and value == ok for ok in _NEUTRAL[name]):
            raise FieldError(
                f'"{name}": {shown(value)} is not supported: leave the field out',
                code="unsupported_field",
                param=name,
            )


# ---- prompts ------------------------------------------------------------------------------------


def _prompts(body: Mapping[str, Any]) -> tuple[Prompt, ...]:
    """OpenAI's four forms: a text, several texts, token ids, several lists of token ids."""
    prompt = body.get("prompt")
    prompts = [prompt] if _is_single(prompt) else prompt
    if isinstance(prompts, list) and prompts and all(map(_is_single, prompts)):
        return tuple(p if isinstance(p, str) else {"prompt_token_ids": p} for p in prompts)
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
    return asked


def _tools(body: Mapping[str, Any]) -> Tools | None:
    return tools_of(
        body.get("tools"), body.get("tool_choice"), body.get("parallel_tool_calls", True)
    )


# ---- settings -----------------------------------------------------------------------------------


def _sampling_params(body: Mapping[str, Any], chat: bool, seed: int) -> SamplingParams:
    """Defaults are OpenAI's: temperature 1, 16 tokens, for chat as many as the context has."""
    asked = {name: body[name] for name in _SAMPLING & body.keys()}
    if chat:
        asked.setdefault("max_tokens", None)
        if "max_completion_tokens" in body:
            asked["max_tokens"] = body["max_completion_tokens"]
    asked.setdefault("seed", seed)
    return SamplingParams(**asked)


def _request_seed(job_seed: int, custom_id: str) -> int:
    """A seed of the request's own, so that its answer survives a resume and another order."""
    text = json.dumps([job_seed, custom_id]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little") >> 1


def _typed(body: Mapping[str, Any], name: str, kind: type, wanted: str, default: Any) -> Any:
    value = body.get(name, default)
    if value is not default and not isinstance(value, kind):
        raise FieldError(f'"{name}" must be {wanted}, got {shown(value)}', param=name)
    return value
