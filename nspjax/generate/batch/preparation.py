"""From a line to what the engine runs.

A line is prepared once, shortly before a row is free for it: however long the input is, only the
prompts of the next batch are in memory as tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from nspjax.generate.batch.calls import with_required_call
from nspjax.generate.batch.field_error import FieldError
from nspjax.generate.batch.fields import BatchRequest, parse_request
from nspjax.generate.batch.lines import BatchLine
from nspjax.generate.outputs import Prompt, Request, RequestOutput
from nspjax.generate.structured.library import GrammarError
from nspjax.generate.tools.model_tools import ModelTools

if TYPE_CHECKING:
    from nspjax.generate.prepared_request import PreparedRequest


class Engine(Protocol):
    """What a job needs of an `LLM`."""

    tools: ModelTools | None

    def prepare(self, request: Request) -> PreparedRequest: ...
    def stream(self, requests: Iterable[PreparedRequest]) -> Iterator[RequestOutput]: ...
    def chat_prompt(self, messages: list[dict[str, Any]]) -> Prompt: ...


def prepared_line(
    line: BatchLine, engine: Engine, job_seed: int
) -> tuple[BatchRequest, list[PreparedRequest]]:
    """What a line asks for, and a request for each of its prompts, with the id `custom_id/i`.

    Raises:
      RequestError: it cannot be served; `FieldError` where a field of it is the reason.
    """
    asked = parse_request(line, engine.chat_prompt, job_seed)
    asked = with_required_call(asked, engine.tools)
    try:
        return asked, [
            engine.prepare(
                Request(
                    f"{line.custom_id}/{i}",
                    prompt,
                    asked.params,
                    clip_max_tokens=asked.clip_max_tokens,
                    with_text=asked.echo,
                )
            )
            for i, prompt in enumerate(asked.prompts)
        ]
    except GrammarError as error:
        field = "tools" if asked.form is None else asked.form.field
        raise FieldError(f"{field}: {error}", param=field) from error
