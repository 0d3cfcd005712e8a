"""The process that holds answers to grammars.

A schema or a grammar is a stranger's program, too. llguidance limits its own work, but some
grammars overflow its stack or take minutes to be refused, so it runs where it can be ended.
`token_grammars` is the other end. A message is JSON:

    {"tokenizer": text of tokenizer.json, "special_tokens": {…}}    comes first
    {"check": form}                                                 is there an answer of this form?
    {"open": id, "form": form, "tokens": […], "drop": [ids]}        begins or goes on with an answer
    {"step": id, "token": token}                                    an answer goes on

The last two are answered with a byte of flags and, as bits, the tokens that may come next.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

from nspjax.generate.limited_process.child import memory_left_bytes, run
from nspjax.generate.structured.grammar_text import grammar_text
from nspjax.generate.structured.library import GrammarError, llguidance, refused
from nspjax.generate.structured.params import StructuredOutputsParams
from nspjax.generate.text.library_errors import is_failure, told

MEMORY_BYTES = 2 << 30
"""What all grammars and answers in work may use."""
DONE, NEW, UNKNOWN, FAILED = b"D", b"N", b"U", b"F"
"""First byte of what is answered: what was asked for; there is no tokenizer yet; no answer of this
id; an error."""
ACCEPTING, STOPPED = 1, 2
"""Flags of a state: the answer may end; nothing may follow."""

_MOST_KEPT = 1024
"""Compiled grammars that are kept, for requests that were checked and wait, and for others that ask
for the same. One of an ordinary schema takes 70 KB."""
_MOST_KEPT_IF_SHORT = 32
"""The same, where half of the memory is used."""
_MOST_LEXER_STATES = 50_000
"""Of a grammar, 1 to 2 KB each; llguidance's own limit is five times that."""


class Matchers:
    """Answers in work, by their ids."""

    def __init__(self) -> None:
        self._tokenizer: Any = None
        self._special: frozenset[str] = frozenset()
        self._grammars: OrderedDict[str, Any] = OrderedDict()
        self._matchers: dict[int, Any] = {}

    def answer(self, asked: bytes) -> bytes:
        """One message's answer."""
        try:
            return self._answer(json.loads(asked))
        except GrammarError as error:
            return FAILED + str(error).encode(errors="replace")
        except BaseException as error:
            if not is_failure(error):
                raise
            return FAILED + told(error).encode(errors="replace")

    def _answer(self, message: dict[str, Any]) -> bytes:
        if "tokenizer" in message:
            return DONE + json.dumps(self._set_tokenizer(**message)).encode()
        if self._tokenizer is None:
            return NEW
        if "step" in message:
            matcher = self._matchers.get(message["step"])
            if matcher is None:
                return UNKNOWN
            matcher.consume_token(message["token"])
            return self._state(matcher)
        if "open" in message:
            for each in message["drop"]:
                self._matchers.pop(each, None)
            matcher = self._grammar(message["form"]).deep_copy()
            matcher.consume_tokens(message["tokens"])
            self._matchers[message["open"]] = matcher
            return self._state(matcher)
        self._grammar(message["check"])
        return DONE

    def _set_tokenizer(self, tokenizer: str, special_tokens: dict[str, int]) -> dict[str, int]:
        """Those of `special_tokens` that stand for no text: a grammar has them by their ids."""
        self._tokenizer = llguidance().LLTokenizer(tokenizer)
        size = self._tokenizer.vocab_size
        special = {
            text: token
            for text, token in special_tokens.items()
            if token < size and self._tokenizer.is_special_token(token)
        }
        self._special = frozenset(special)
        return special

    def _grammar(self, form: dict[str, Any]) -> Any:
        """A matcher at the beginning of a grammar, to be copied.

        Copies share what their lexer finds out, which saves time and counts against its limit.
        """
        key = json.dumps(form)
        if key not in self._grammars:
            self._grammars[key] = self._compiled(form)
            is_short = memory_left_bytes() < MEMORY_BYTES / 2
            while len(self._grammars) > (_MOST_KEPT_IF_SHORT if is_short else _MOST_KEPT):
                self._grammars.popitem(last=False)
        self._grammars.move_to_end(key)
        return self._grammars[key]

    def _compiled(self, form: dict[str, Any]) -> Any:
        library = llguidance()
        limits = library.LLParserLimits(max_lexer_states=_MOST_LEXER_STATES, verbose_errors=False)
        text = grammar_text(StructuredOutputsParams(**form), self._special)
        matcher = library.LLMatcher(self._tokenizer, text, log_level=0, limits=limits)
        if matcher.is_error():
            raise refused("the form that is asked for cannot be used", matcher.get_error())
        matcher.compute_bitmask()
        if matcher.is_error():
            raise refused("no answer can be of this form", matcher.get_error())
        return matcher

    def _state(self, matcher: Any) -> bytes:
        if matcher.is_error():
            raise refused("the answer cannot be kept in its form", matcher.get_error())
        if matcher.is_stopped():
            return DONE + bytes([ACCEPTING | STOPPED])
        allowed = bytearray(matcher.compute_bitmask())
        if matcher.is_error():
            raise refused("the answer cannot be kept in its form", matcher.get_error())
        end = self._tokenizer.eos_token  # stands for any end: the flag says it
        allowed[end // 8] &= ~(1 << end % 8)
        return DONE + bytes([ACCEPTING if matcher.is_accepting() else 0]) + allowed


if __name__ == "__main__":
    llguidance()
    run(Matchers().answer, memory_bytes=MEMORY_BYTES)
