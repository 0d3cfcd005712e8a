"""Text to tokens and back, with the checkpoint's tokenizer as transformers loads it.

transformers is imported when a tokenizer is loaded, not before: it costs start-up time, and token
ids can be served without it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nspjax.errors import CheckpointError, InvalidArgumentError
from nspjax.generate.text.gguf_tokenizer import (
    gguf_tokenizer,
    has_tokenizer,
    warn_of_unknown_split,
)
from nspjax.generate.text.library_errors import failures_are_the_requests, is_failure, told
from nspjax.models.gguf import GgufHeader, is_gguf, read_header
from nspjax.models.model_file import check_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "tekken.json", "*.tiktoken")
"""Files one of which a tokenizer is made of."""
_SETTINGS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "config.json",
)


def load_tokenizer(checkpoint: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a checkpoint, a directory or a GGUF file; None: it has none, or transformers
    is missing.

    Only files of the checkpoint are read: nothing is fetched, and no code of a checkpoint runs.

    Raises:
      CheckpointError: its files cannot be read as a tokenizer; names the one at fault.
    """
    if is_gguf(checkpoint):
        return _of_gguf(read_header(checkpoint))
    files = _tokenizer_files(checkpoint)
    check_texts(files)
    if not _has_vocabulary(checkpoint):
        return None

    def load() -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(
            checkpoint, trust_remote_code=False, local_files_only=True
        )

    return _loaded(load, lambda: _culprit(checkpoint, files))


def _of_gguf(header: GgufHeader) -> PreTrainedTokenizerBase | None:
    if not has_tokenizer(header):
        return None
    tokenizer = _loaded(lambda: gguf_tokenizer(header), lambda: str(header.path))
    if tokenizer is not None:
        warn_of_unknown_split(header)
    return tokenizer


def _loaded(
    load: Callable[[], PreTrainedTokenizerBase], culprit: Callable[[], str]
) -> PreTrainedTokenizerBase | None:
    """What `load` gives, once it was tried; None: transformers is missing.

    Raises:
      CheckpointError: it fails; names the `culprit`.
    """
    with _quiet():
        try:
            import transformers  # noqa: F401
        except ImportError:
            return None
        try:
            tokenizer = load()
            _check(tokenizer)
        except BaseException as error:
            if not is_failure(error):
                raise
            raise CheckpointError(
                f"{culprit()} cannot be read as a tokenizer by transformers: {told(error)}"
            ) from error
    return tokenizer


def why_missing(checkpoint: Path | None) -> str:
    """Why `load_tokenizer` gave None, and what to do about it."""
    if checkpoint is not None and is_gguf(checkpoint):
        there = has_tokenizer(read_header(checkpoint))
        missing = f"{checkpoint} holds no tokenizer: give token ids"
    else:
        there = checkpoint is not None and _has_vocabulary(checkpoint)
        missing = f"{checkpoint or 'the model'} has no tokenizer.json: give token ids"
    if there:
        return "text needs the package transformers: pip install 'nspjax[hf]', or give token ids"
    return missing


def chosen_tokenizer(
    asked: PreTrainedTokenizerBase | str | Path | None, checkpoint: Path | None
) -> tuple[PreTrainedTokenizerBase | None, str]:
    """The tokenizer that `LLM` was asked for, and what to say where one is needed but missing.

    Raises:
      CheckpointError: a directory without one, or as `load_tokenizer`, but for a checkpoint that
        has no tokenizer.json: it can serve token ids.
      InvalidArgumentError: something that is no tokenizer.
    """
    if asked is None:
        return None, "this LLM was made with tokenizer=None: give token ids"
    if asked == "auto":
        try:
            tokenizer = None if checkpoint is None else load_tokenizer(checkpoint)
        except CheckpointError as error:
            if checkpoint is None or (checkpoint / "tokenizer.json").exists():
                raise
            # other files often need packages that are not there, and token ids need none of them
            remedy = "Give" if is_gguf(checkpoint) else "Add a tokenizer.json, or give"
            return None, f"{error}. {remedy} token ids"
        return tokenizer, why_missing(checkpoint)
    if isinstance(asked, str | Path):
        tokenizer = load_tokenizer(Path(asked))
        if tokenizer is None:
            raise CheckpointError(f"tokenizer={str(asked)!r}: {why_missing(Path(asked))}")
        return tokenizer, ""
    if not hasattr(asked, "apply_chat_template"):
        raise InvalidArgumentError(
            "tokenizer must be a directory or a tokenizer of transformers, got "
            f"{type(asked).__name__}: wrap one of the package tokenizers in "
            "PreTrainedTokenizerFast(tokenizer_object=...)"
        )
    return asked, ""


def encode(
    tokenizer: PreTrainedTokenizerBase, text: str, *, special_tokens: bool
) -> tuple[int, ...]:
    """All tokens of a prompt; `special_tokens`: with those that the tokenizer adds, as BOS.

    Raises:
      RequestError: the tokenizer fails at this text.
    """
    with failures_are_the_requests("the tokenizer cannot encode the text"):
        text.encode()  # no tokenizer takes half of a surrogate pair; Python's message says where
        return tuple(
            tokenizer.encode(
                text,
                add_special_tokens=special_tokens,
                truncation=False,  # whatever tokenizer.json says
                padding=False,
                verbose=False,
            )
        )


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text of tokens, special ones left out. A byte-level token may hold a part of a UTF-8
    character: what is no whole character is U+FFFD.

    Raises:
      RequestError: the tokenizer fails at these tokens.
    """
    with failures_are_the_requests("the tokenizer cannot decode the tokens"):
        return tokenizer.decode(list(token_ids), skip_special_tokens=True)  # pyright: ignore


def answer_text(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], answer: Sequence[int]
) -> str:
    """What an answer adds to the text of its prompt, all tokens decoded together.

    Together, because text depends on what stands before it: a first space is dropped, a character
    is begun in the prompt and ended in the answer. Where the answer changes the prompt's text, it
    has all from the first change on.
    """
    return added_text(decode(tokenizer, prompt), decode(tokenizer, [*prompt, *answer]))


def added_text(before: str, after: str) -> str:
    """`after` without the beginning that it has in common with `before`."""
    if after.startswith(before):
        return after[len(before) :]
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))
    return after[sum(1 for _ in same) :]


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The tokens that are left out of text, by their content."""
    added = tokenizer.added_tokens_decoder.items()
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    return {text: i for text, i in named if i is not None} | {
        token.content: i for i, token in added if token.special
    }


def _check(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let settings of a wrong type be found now. What transformers says at a first use is said
    here too, unheard."""
    tokenizer.decode(tokenizer.encode("", verbose=False))
    templates = tokenizer.chat_template or {}
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        if not isinstance(template, str):
            raise TypeError(f"chat_template must be text, got {type(template).__name__}")


# ---- files --------------------------------------------------------------------------------------


def _has_vocabulary(directory: Path) -> bool:
    return any(any(directory.glob(pattern)) for pattern in _VOCABULARIES)


def _tokenizer_files(directory: Path) -> list[Path]:
    """What transformers may read."""
    return sorted(path for each in (*_VOCABULARIES, *_SETTINGS) for path in directory.glob(each))


def _culprit(directory: Path, files: Sequence[Path]) -> str:
    """The file that a failure to load is about: the first that is no JSON object, or all."""
    for path in files:
        if path.suffix == ".json":
            try:
                if isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
                    continue
            except (ValueError, OSError, RecursionError):
                pass
            return str(path)
    return f"{directory} ({', '.join(path.name for path in files)})"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No advice on stderr while transformers is imported and loads: what matters is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
