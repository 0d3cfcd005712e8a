"""The tokens of a tokenizer as llguidance has them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from nspjax.errors import RequestError
from nspjax.generate.structured.grammar_text import quoted
from nspjax.generate.structured.library import llguidance
from nspjax.generate.text.library_errors import told
from nspjax.generate.text.tokenization import special_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Vocabulary:
    """The bytes of each token, and how text is cut into tokens.

    Making one takes a second or two for 50,000 tokens. A special token stands for no text: a
    grammar has it by its id only (`special_ids`, by content).

    Raises:
      RequestError: llguidance is not installed, or cannot use the tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        library = llguidance()
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise RequestError(
                f"structured output needs a tokenizer of the package tokenizers, got "
                f"{type(tokenizer).__name__}: add a tokenizer.json to the model"
            )
        try:
            # the first knows what bytes a token stands for, whatever kind of tokenizer it is
            bytes_of = library.LLTokenizer(_without_cuts(backend).to_str())
            self.tokenizer = library.LLTokenizer(_Plain(bytes_of, backend))
        except (ValueError, RuntimeError) as error:
            raise RequestError(
                f"the tokenizer cannot be used for structured output: {told(error)}"
            ) from error
        self.size = self.tokenizer.vocab_size
        self.special_ids = {
            text: token
            for text, token in {
                **tokenizer.get_added_vocab(),
                **special_token_ids(tokenizer),
            }.items()
            if token < self.size and bytes_of.is_special_token(token)
        }

    def literal(self, text: str) -> str:
        """What stands for `text` in Lark rules: a special token's id, or the text quoted."""
        token = self.special_ids.get(text)
        return quoted(text) if token is None else f"<[{token}]>"


class _Plain:
    """A tokenizer in llguidance's protocol that cuts text into tokens that stand for text.

    llguidance asks for the tokens of text that a grammar leaves no choice about. A tokenizer makes
    the special token of the text "<|im_end|>", which the grammar then refuses or, worse, takes for
    its end. So such text is cut by the longest match, which knows no special tokens.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, bytes_of: Any, backend: Any) -> None:
        self._backend = backend
        self._longest_match = bytes_of.greedy_tokenize
        ids = range(bytes_of.vocab_size)
        self.tokens = [bytes_of.decode_bytes([token]) for token in ids]
        self.special_token_ids = [token for token in ids if bytes_of.is_special_token(token)]
        self.eos_token_id = bytes_of.eos_token
        self._special = frozenset(self.special_token_ids)

    def __call__(self, text: str) -> list[int]:
        ids = self._backend.encode(text, add_special_tokens=False).ids
        same = b"".join(self.tokens[token] for token in ids) == text.encode()
        return ids if same and self._special.isdisjoint(ids) else self._longest_match(text)


def _without_cuts(backend: Any) -> Any:
    """The tokenizer without padding and truncation."""
    plain = copy.copy(backend)
    plain.no_padding()
    plain.no_truncation()
    return plain
