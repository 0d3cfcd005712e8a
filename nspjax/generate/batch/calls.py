"""Tool calls of a job: what makes an answer one, and OpenAI's shape of those in answers."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from nspjax.errors import RequestError
from nspjax.generate.batch.field_error import FieldError
from nspjax.generate.batch.fields import BatchRequest
from nspjax.generate.outputs import RequestOutput
from nspjax.generate.tools import ReadAnswer, Tools
from nspjax.generate.tools.model_tools import ModelTools

Calls = dict[int, ReadAnswer]
"""Those of a request's only prompt, by the index of the answer."""


def with_required_call(asked: BatchRequest, tools: ModelTools | None) -> BatchRequest:
    """The request with what makes its answer a call, if it must be one.

    Raises:
      FieldError: the model has no tokenizer, or its format of calls is not known.
    """
    if asked.tools is None or not asked.tools.required:
        return asked
    if tools is None:
        raise FieldError("a call can be required of a model with a tokenizer", param="tool_choice")
    try:
        form = tools.form(asked.tools)
    except RequestError as error:
        raise FieldError(str(error), param="tool_choice") from error
    params = dataclasses.replace(asked.params, structured_outputs=form)
    return dataclasses.replace(asked, params=params)


def read_calls(
    asked: Tools | None, tools: ModelTools | None, outputs: Sequence[RequestOutput]
) -> Calls:
    """The calls in the answers.

    Raises:
      RequestError: the tokenizer fails at the tokens of one.
    """
    if asked is None or tools is None:
        return {}
    read = {
        answer.index: tools.read(answer, several=asked.several)
        for output in outputs
        for answer in output.outputs
    }
    return {index: calls for index, calls in read.items() if calls is not None}


def message_with_calls(read: ReadAnswer, digest: str, index: int) -> dict[str, Any]:
    """OpenAI's message. digest: of the request; index: of the answer; both make the calls' ids."""
    calls = [
        {
            "id": _call_id(f"{digest} {index} {number}"),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for number, call in enumerate(read.calls)
    ]
    return {"role": "assistant", "content": read.content, "tool_calls": calls}


def _call_id(text: str) -> str:
    """The same in every run. 9 letters or digits: Mistral's templates take no others."""
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()[:9]
