"""Conversations as prompts, in the chat template that comes with a tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nspjax.errors import RequestError
from nspjax.generate.text.chat_messages import checked_messages, checked_objects
from nspjax.generate.text.chat_process import ChatProcess
from nspjax.generate.text.library_errors import failures_are_the_requests
from nspjax.generate.text.tokenization import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatTemplate:
    """The chat template of a tokenizer. It runs in a process of its own, until `close`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._process = ChatProcess()

    def prompt(
        self, messages: Sequence[Mapping[str, Any]], *, add_special_tokens: bool, **asked: Any
    ) -> dict[str, Any]:
        """The prompt text under "prompt", and its tokens under "prompt_token_ids". asked: what
        `render` takes.

        Raises:
          RequestError: as `render`, or the tokenizer fails at the text.
        """
        text = self.render(messages, **asked)
        token_ids = encode(self._tokenizer, text, special_tokens=add_special_tokens)
        return {"prompt": text, "prompt_token_ids": token_ids}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
    ) -> str:
        """The prompt text; arguments as those of `LLM.chat_prompt`. The template sees what
        transformers' `apply_chat_template` would show it.

        Raises:
          RequestError: there is no template, it refuses or fails, or an argument is of a wrong
            form.
        """
        if add_generation_prompt is None:
            add_generation_prompt = not continue_final_message
        if add_generation_prompt and continue_final_message:
            raise RequestError(
                "add_generation_prompt begins a new message and continue_final_message goes on "
                "with the last: ask for one of them",
                param="add_generation_prompt",
            )
        if not self._tokenizer.chat_template:
            raise RequestError(
                "the model has no chat template: give it a prompt, not messages", param="messages"
            )
        conversation = checked_messages(messages)
        schemas = checked_objects("tools", _schemas(tools))
        variables = {
            **self._tokenizer.special_tokens_map,
            **self._checked_kwargs(chat_template_kwargs),
            "tools": schemas,
            "documents": checked_objects("documents", documents),
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
        }
        with failures_are_the_requests("the model has no chat template for this"):
            source = self._tokenizer.get_chat_template(tools=schemas)
        return self._process.render(source, conversation, variables)

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _checked_kwargs(self, kwargs: Mapping[str, Any] | None) -> Mapping[str, Any]:
        kwargs = kwargs or {}
        if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
            raise RequestError(
                "chat_template_kwargs must be an object", param="chat_template_kwargs"
            )
        ours = inspect.signature(self._tokenizer.apply_chat_template).parameters.keys()
        for name in kwargs:
            if name in ours - {"kwargs"} or name in ("messages", "conversations"):
                raise RequestError(
                    f"chat_template_kwargs holds {name[:60]!r}, which is not a variable of the "
                    "template's own",
                    param="chat_template_kwargs",
                )
        return kwargs


def _schemas(tools: Any) -> Any:
    """The tools with Python functions described as transformers does it."""
    if not isinstance(tools, list | tuple) or not any(map(callable, tools)):
        return tools
    from transformers.utils.chat_template_utils import get_json_schema

    with failures_are_the_requests("a tool cannot be described"):
        return [get_json_schema(tool) if callable(tool) else tool for tool in tools]
