"""Result lines: OpenAI's `{id, custom_id, response: {status_code, request_id, body}, error}`.

Ids are made from the request's content: the same request gets the same ids in every run, and a
resumed job can tell that a request has changed since it was answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from nspjax.errors import NotFiniteError, NspjaxError, RequestError
from nspjax.generate.batch.calls import Calls, message_with_calls
from nspjax.generate.batch.field_error import FieldError
from nspjax.generate.batch.fields import BatchRequest
from nspjax.generate.batch.lines import BatchLine
from nspjax.generate.batch.logprob_shapes import (
    chat_logprobs,
    completion_logprobs,
    prompt_logprobs,
)
from nspjax.generate.outputs import CompletionOutput, RequestOutput
from nspjax.message_text import shortened

ID_PREFIX = "batch_req_"
LINE_BEGIN = b'{"id":"batch_req_'
"""The first bytes of every result line: how a torn one is recognised."""
MOST_MESSAGE = 1000
"""Characters of an error's message that a result line has, about."""


def result_id(digest: str) -> str:
    """The `id` of the result line of the request with this digest."""
    return ID_PREFIX + digest


def answer_line(
    line: BatchLine,
    request: BatchRequest,
    outputs: Sequence[RequestOutput],
    calls: Calls,
    *,
    model: str,
    created: int,
    fingerprint: str,
) -> bytes:
    """The result line of a finished request. outputs: one for each of its prompts, in order;
    calls: those that the answers to its only prompt hold."""
    choices = [
        _choice(prompt_index * request.params.n + answer.index, answer, output, request)
        for prompt_index, output in enumerate(outputs)
        for answer in output.outputs
    ]
    for index, read in calls.items():
        choices[index]["message"] = message_with_calls(read, line.digest, index)
        if choices[index]["finish_reason"] == "stop":  # an answer that was cut may lack a call
            choices[index]["finish_reason"] = "tool_calls"
    prompt_tokens = sum(len(output.prompt_token_ids) for output in outputs)
    completion_tokens = sum(len(a.token_ids) for output in outputs for a in output.outputs)
    if request.only_echo:
        completion_tokens = 0
    body = {
        "id": ("chatcmpl-" if request.chat else "cmpl-") + line.digest,
        "object": "chat.completion" if request.chat else "text_completion",
        "created": created,
        "model": model,
        "system_fingerprint": fingerprint,
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }
    if request.chat:
        body |= _of_prompt(outputs[0], request)
    return _result_line(line, 200, body, None)


def error_line(line: BatchLine, error: NspjaxError) -> bytes:
    """The result line of a request that cannot be served (400), or whose answer was lost (500).

    OpenAI's clients read `response`, vLLM's read `error`: both say it.
    """
    asked_wrong = isinstance(error, RequestError)
    param = getattr(error, "param", None)
    code = error.code if isinstance(error, FieldError) else _code(error)
    message = shortened(str(error), MOST_MESSAGE)
    body = {
        "error": {
            "message": message,
            "type": "invalid_request_error" if asked_wrong else "server_error",
            "param": None if param is None else shortened(param, MOST_MESSAGE),
            "code": code,
        }
    }
    return _result_line(line, 400 if asked_wrong else 500, body, {"code": code, "message": message})


def _code(error: NspjaxError) -> str:
    if isinstance(error, RequestError):
        return "invalid_request" if error.param is None else "invalid_value"
    return "not_finite" if isinstance(error, NotFiniteError) else "storage_error"


def _choice(
    index: int, answer: CompletionOutput, output: RequestOutput, request: BatchRequest
) -> dict[str, Any]:
    tokens = () if request.only_echo else answer.token_ids
    if request.chat:
        choice = _chat_choice(answer, request)
    else:
        choice = _completion_choice(answer, output, request)
    choice = {
        "index": index,
        **choice,
        "finish_reason": "length" if request.only_echo else answer.finish_reason,
        "stop_reason": None if request.only_echo else answer.stop_reason,
    }
    if request.return_token_ids:
        choice["token_ids"] = tokens
    if not request.chat:
        choice |= _of_prompt(output, request)
    return choice


def _of_prompt(output: RequestOutput, request: BatchRequest) -> dict[str, Any]:
    """What is said of a prompt, if it is asked for: as in vLLM's answers, in each choice of a
    completion, and beside the choices of a chat."""
    said: dict[str, Any] = {}
    if request.prompt_logprobs:
        said["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs or ())
    if request.return_token_ids:
        said["prompt_token_ids"] = output.prompt_token_ids
    return said


def _chat_choice(answer: CompletionOutput, request: BatchRequest) -> dict[str, Any]:
    n_top, records = request.params.logprobs, answer.logprobs
    return {
        "message": {"role": "assistant", "content": answer.text},
        "logprobs": None if n_top is None or records is None else chat_logprobs(records, n_top),
    }


def _completion_choice(
    answer: CompletionOutput, output: RequestOutput, request: BatchRequest
) -> dict[str, Any]:
    text, records, first = answer.text, answer.logprobs, None
    if request.only_echo:
        text, records = "", records and ()
    if request.echo:
        text = (output.prompt or "") + text
        if records is not None:
            first = output.first_token
            records = (*filter(None, output.prompt_logprobs or ()), *records)
    return {
        "text": text,
        "logprobs": None if records is None else completion_logprobs(records, text, first),
    }


def _result_line(
    line: BatchLine, status: int, body: dict[str, Any], error: dict[str, Any] | None
) -> bytes:
    result = {
        "id": result_id(line.digest),
        "custom_id": line.custom_id,
        "response": {"status_code": status, "request_id": f"req_{line.digest}", "body": body},
        "error": error,
    }
    return orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE)
