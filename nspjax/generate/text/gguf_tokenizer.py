"""The tokenizer that a GGUF file describes: transformers makes it of a vocabulary and merges.

`AutoTokenizer.from_pretrained(gguf_file=...)` comes to the same, but needs torch, and trusts the
file's counts.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from nspjax.models.gguf import GgufHeader
from nspjax.models.json_file import shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KEYS = {
    "tokenizer_type": "model",
    "pre_tokenizer_type": "pre",
    "tokens": "tokens",
    "scores": "scores",
    "token_type": "token_type",
    "merges": "merges",
    "precompiled_charsmap": "precompiled_charsmap",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "unk_token_id": "unknown_token_id",
    "pad_token_id": "padding_token_id",
    "add_prefix_space": "add_space_prefix",
}
"""transformers' names of what llama.cpp keeps under tokenizer.ggml."""
_SPLITS_AS_GPT2 = (
    "default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "roberta-bpe", "smollm", "starcoder",
    "refact", "command-r", "codeshell", "exaone",
)  # fmt: skip
"""Values of tokenizer.ggml.pre that need no entry in transformers' table. From "smollm" on, digits
stand alone, which a vocabulary without merges of digits sees to."""


def has_tokenizer(header: GgufHeader) -> bool:
    """Whether there is a vocabulary in the file."""
    return "tokenizer.ggml.tokens" in header.metadata


def gguf_tokenizer(header: GgufHeader) -> PreTrainedTokenizerBase:
    """The tokenizer, with the file's chat template.

    Raises:
      Exception: whatever transformers raises at a description that it cannot follow.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

    architecture = header.metadata["general.architecture"]
    described = {
        name: _plain(header.metadata[f"tokenizer.ggml.{key}"])
        for name, key in _KEYS.items()
        if f"tokenizer.ggml.{key}" in header.metadata
    }
    backend, more = convert_gguf_tokenizer(architecture, described)
    settings = _settings(header, described) | more
    return PreTrainedTokenizerFast(tokenizer_object=backend, **settings)


def warn_of_unknown_split(header: GgufHeader) -> None:
    """Warn where transformers does not know how the vocabulary's merges want text to be split: it
    splits it as GPT-2 does, and tokens may be others than the model was trained with."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    split = header.metadata.get("tokenizer.ggml.pre", "default")
    known = split in _SPLITS_AS_GPT2 or split in GGUF_PRE_TOKENIZER_SPLITS
    if header.metadata.get("tokenizer.ggml.model") == "gpt2" and not known:
        warnings.warn(
            f"{header.path} says tokenizer.ggml.pre = {shown(split)}, which transformers does not "
            "know: text is split as GPT-2 does, and its tokens may not be the model's",
            RuntimeWarning,
            stacklevel=2,
        )


def _settings(header: GgufHeader, described: dict[str, Any]) -> dict[str, Any]:
    """What tokenizer_config.json would say."""
    settings = {}
    for name in ("bos", "eos", "unk", "pad"):
        token_id = described.get(f"{name}_token_id")
        settings[f"{name}_token"] = None if token_id is None else described["tokens"][token_id]
    # what is not said is as llama.cpp has it: sentencepiece begins with BOS
    sentencepiece = described.get("tokenizer_type") == "llama"
    settings["add_bos_token"] = header.metadata.get("tokenizer.ggml.add_bos_token", sentencepiece)
    settings["add_eos_token"] = header.metadata.get("tokenizer.ggml.add_eos_token", False)
    settings["chat_template"] = header.metadata.get("tokenizer.chat_template")
    return settings


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
