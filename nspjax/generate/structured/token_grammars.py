"""Grammars over tokens: which may come next, and where an answer may end."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import itertools
import json
import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nspjax.errors import RequestError
from nspjax.generate.limited_process.parent import LimitedProcess, ProcessDiedError
from nspjax.generate.sampling.token_mask import packed
from nspjax.generate.structured.grammar_text import quoted
from nspjax.generate.structured.grammar_worker import (
    ACCEPTING,
    FAILED,
    MEMORY_BYTES,
    NEW,
    STOPPED,
    UNKNOWN,
)
from nspjax.generate.structured.library import MISSING, GrammarError
from nspjax.generate.structured.params import StructuredOutputsParams
from nspjax.generate.text.tokenization import special_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GRAMMAR_SECONDS = 10.0
"""The longest that a grammar may take to be compiled, or for one token; ordinary ones take
milliseconds, and microseconds."""
_TOKENIZER_SECONDS = 120.0
_MOST_ANSWER_BYTES = 16 << 20
_TRIES = 3
"""The process may not run yet, and may have died before it was asked; then it is the request."""


class TokenGrammars:
    """What answers may be held to, in a model of `vocab_size` tokens with this tokenizer.

    The work is done in a process of its own, from the first request that needs it until `close`.
    It takes about a second to begin with a tokenizer of 50,000 tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._process = LimitedProcess(
            "nspjax.generate.structured.grammar_worker",
            task="the process that holds answers to grammars",
            most_answer_bytes=_MOST_ANSWER_BYTES,
        )
        self._special_tokens: Mapping[str, int] | None = None
        self._ids = itertools.count()
        self._dropped: list[int] = []

    def check(self, params: StructuredOutputsParams) -> None:
        """Make sure that there are answers of this form.

        Raises:
          GrammarError: there are none, the form has no meaning, or it exceeds a limit.
          RequestError: llguidance is missing, or cannot use the tokenizer.
        """
        if importlib.util.find_spec("llguidance") is None:
            raise RequestError(MISSING)
        self._ask({"check": _form(params)})

    def mask(self, params: StructuredOutputsParams, end_tokens: Iterable[int]) -> GrammarMask:
        """The mask of an answer that begins. end_tokens: those that may end it."""
        ends = packed({t for t in end_tokens if 0 <= t < self._vocab_size}, self._vocab_size)
        mask = GrammarMask(self, next(self._ids), _form(params), ends)
        weakref.finalize(mask, self._dropped.append, mask.id)
        return mask

    def literal(self, text: str) -> str:
        """What stands for `text` in Lark rules: a special token's id, or the text quoted.

        Raises:
          RequestError: as `check`, of the tokenizer.
        """
        if self._special_tokens is None:
            if importlib.util.find_spec("llguidance") is None:
                raise RequestError(MISSING)
            self._send_tokenizer()
        token = (self._special_tokens or {}).get(text)
        return quoted(text) if token is None else f"<[{token}]>"

    def close(self) -> None:
        """End the process. The next request would start another."""
        self._process.close()

    def state(self, mask: GrammarMask, token: int | None) -> bytes:
        """What the process says of an answer: at its beginning (None), or after its next token."""
        if token is not None:
            answer = self._ask({"step": mask.id, "token": token})
            if answer != UNKNOWN:
                return answer[1:]
        dropped = list(self._dropped)
        opened = {"open": mask.id, "form": mask.form, "tokens": mask.tokens, "drop": dropped}
        answer = self._ask(opened)
        del self._dropped[: len(dropped)]
        return answer[1:] if token is None else self.state(mask, token)

    def _ask(self, message: Mapping[str, Any]) -> bytes:
        for _ in range(_TRIES):
            answer = self._sent(message, GRAMMAR_SECONDS)
            if answer != NEW:
                return answer
            self._send_tokenizer()
        raise _died()

    def _send_tokenizer(self) -> None:
        tokenizer: Any = self._tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise RequestError(
                "structured output needs a tokenizer of the package tokenizers, got "
                f"{type(tokenizer).__name__}: add a tokenizer.json to the model"
            )
        plain = copy.copy(backend)
        plain.no_padding()
        plain.no_truncation()
        added = tokenizer.get_added_vocab() | special_token_ids(tokenizer)
        message = {"tokenizer": plain.to_str(), "special_tokens": added}
        try:
            answer = self._sent(message, _TOKENIZER_SECONDS)
        except GrammarError as error:
            raise RequestError(
                f"the tokenizer cannot be used for structured output: {error}"
            ) from error
        self._special_tokens = json.loads(answer[1:])

    def _sent(self, message: Mapping[str, Any], seconds: float) -> bytes:
        try:
            answer = self._process.ask(_as_json(message), seconds=seconds)
        except TimeoutError:
            raise GrammarError(
                f"the form that is asked for is too complex: it took more than {seconds:g} s"
            ) from None
        except ProcessDiedError:
            raise _died() from None
        if answer[:1] == FAILED:
            raise GrammarError(answer[1:].decode())
        return answer


class GrammarMask:
    """A `TokenMask`: follows one answer through a grammar. id: in the process; tokens: so far."""

    def __init__(
        self, grammars: TokenGrammars, id: int, form: Mapping[str, Any], end_words: np.ndarray
    ) -> None:
        self.id = id
        self.form = form
        self.tokens: list[int] = []
        self._grammars = grammars
        self._ends = end_words
        self._state: bytes | None = None

    def allowed(self) -> np.ndarray:
        """See `TokenMask`. Raises GrammarError where a limit is exceeded."""
        if self._state is None:
            self._state = self._grammars.state(self, None)
        allowed = np.zeros_like(self._ends)
        words = np.frombuffer(self._state, np.uint32, offset=1)[: len(allowed)]
        allowed[: len(words)] = words  # a model may have more or fewer tokens than its tokenizer
        return allowed | self._ends if self._state[0] & ACCEPTING else allowed

    def accept(self, token: int) -> None:
        """See `TokenMask`."""
        self._state = self._grammars.state(self, token)
        self.tokens.append(token)

    @property
    def finished(self) -> bool:
        """See `TokenMask`."""
        return self._state is not None and bool(self._state[0] & STOPPED)


def _form(params: StructuredOutputsParams) -> dict[str, Any]:
    fields = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
    return {name: value for name, value in fields.items() if value is not None}


def _as_json(message: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(message).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise GrammarError(f"a form must be of JSON values: {error}") from error


def _died() -> GrammarError:
    return GrammarError(
        "the form that is asked for is too complex: its library failed at it, or used more than "
        f"{MEMORY_BYTES >> 20} MiB"
    )
