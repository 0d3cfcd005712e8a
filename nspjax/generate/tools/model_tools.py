"""The calls of one model: its format, what makes it write one, and what it wrote."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from nspjax.errors import RequestError
from nspjax.generate.outputs import CompletionOutput
from nspjax.generate.structured import StructuredOutputsParams
from nspjax.generate.structured.token_grammars import TokenGrammars
from nspjax.generate.text.library_errors import failures_are_the_requests
from nspjax.generate.text.tokenization import special_token_ids
from nspjax.generate.tools.calls import ReadAnswer
from nspjax.generate.tools.choice import Tools
from nspjax.generate.tools.formats import ToolFormat, format_in, format_named

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ModelTools:
    """Calls in the format of a model's chat template, or in one that is named.

    format_name: one of `formats.FORMATS`, or "auto".

    Raises:
      InvalidArgumentError: there is no such format.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, grammars: TokenGrammars, format_name: str
    ) -> None:
        self._tokenizer = tokenizer
        self._grammars = grammars
        self._named = None if format_name == "auto" else format_named(format_name)

    @functools.cached_property
    def format(self) -> ToolFormat | None:
        """The format; None: it is not known, and calls stay text."""
        return self._named or format_in(self._template())

    def form(self, tools: Tools) -> StructuredOutputsParams:
        """What makes an answer one or more calls.

        Raises:
          RequestError: the format is not known.
        """
        if self.format is None:
            raise RequestError(
                "the chat template does not tell how the model writes calls, so none can be "
                "required: name the format with --tool-call-parser (LLM's tool_call_parser)"
            )
        rules = self.format.rules(
            tools.functions, several=tools.several, literal=self._grammars.literal
        )
        return StructuredOutputsParams(grammar=rules)

    def read(self, output: CompletionOutput, *, several: bool = True) -> ReadAnswer | None:
        """The calls in an answer, or the first one; None: there are none.

        Raises:
          RequestError: the tokenizer fails at its tokens.
        """
        if self.format is None:
            return None
        read = self.format.read(self._text(output))
        if read is None or several:
            return read
        return ReadAnswer(read.content, read.calls[:1])

    def _text(self, output: CompletionOutput) -> str:
        """With special tokens, which many formats use, but for the one that ended the answer."""
        if isinstance(output.stop_reason, str):
            return output.text
        tokens = list(output.token_ids)
        if output.finish_reason == "stop" and tokens[-1] in self._special_ids:
            tokens.pop()
        with failures_are_the_requests("the tokenizer cannot decode the tokens"):
            return self._tokenizer.decode(
                tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )  # pyright: ignore

    @functools.cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(special_token_ids(self._tokenizer).values())

    def _template(self) -> str:
        templates = self._tokenizer.chat_template or ""
        if isinstance(templates, str):
            return templates
        return templates.get("tool_use") or templates.get("default") or ""
