"""Tokenizers from GGUF files: those of the vocabulary that was written into them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")

from tokenizer_forms import byte_level, metaspace  # noqa: E402
from tokenizers import pre_tokenizers  # noqa: E402
from transformers import PreTrainedTokenizerBase  # noqa: E402

from nspjax.errors import CheckpointError, RequestError  # noqa: E402
from nspjax.generate import LLM, SamplingParams  # noqa: E402
from nspjax.generate.text.tokenization import encode, load_tokenizer, why_missing  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))
sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
from gguf_files import write_gguf  # noqa: E402
from tiny_llama import write_tiny_llama  # noqa: E402

TEXTS = [
    "",
    "hello the world",
    "  hello\n\nthe€ world 😀😀",
    "é</s>END x",
    "<tool>the",
]
CONTROL, USER_DEFINED, NORMAL, BYTE = 3, 4, 1, 6


def described(tokenizer: PreTrainedTokenizerBase, model: str) -> dict[str, Any]:
    """The keys that llama.cpp's converter writes."""
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    types = [
        (CONTROL if added[token] else USER_DEFINED)
        if token in added
        else (BYTE if token.startswith("<0x") else NORMAL)
        for token in tokens
    ]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    ids = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token"}
    return {
        "model": model,
        "tokens": tokens,
        "token_type": types,
        "merges": [" ".join(merge) for merge in merges],
        **{f"{name}_token_id": tokens.index(getattr(tokenizer, of)) for name, of in ids.items()},
    }


def write(directory: Path, keys: dict[str, Any], **metadata: Any) -> Path:
    directory = write_tiny_llama(directory / "model")
    metadata |= {f"tokenizer.ggml.{name}": value for name, value in keys.items()}
    write_gguf(directory / "x.gguf", directory, metadata=metadata)
    return directory / "x.gguf"


def test_byte_level(tmp_path: Path) -> None:
    whole = byte_level()
    whole.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    keys = described(whole, "gpt2") | {"pre": "gpt-2", "add_bos_token": True}
    ours = load_tokenizer(write(tmp_path, keys, **{"tokenizer.chat_template": "{{ messages }}"}))
    assert ours is not None
    for text in TEXTS:
        ids = whole.encode(text)
        assert encode(ours, text, special_tokens=False) == tuple(ids)
        assert encode(ours, text, special_tokens=True) == (whole.bos_token_id, *ids)
        assert ours.decode(ids) == whole.decode(ids)
    assert ours.chat_template == "{{ messages }}"
    assert ours.all_special_tokens == whole.all_special_tokens


def test_sentencepiece(tmp_path: Path) -> None:
    """BOS is added where the file does not say otherwise."""
    whole = metaspace()
    keys = described(whole, "llama")
    scores = {"scores": [float(-i) for i in range(len(keys["tokens"]))]}
    ours = load_tokenizer(write(tmp_path, keys | scores))
    assert ours is not None
    for text in ("hello", "the 😀"):
        assert ours.decode(encode(ours, text, special_tokens=False)) == text
        assert encode(ours, text, special_tokens=True)[0] == whole.bos_token_id


def test_a_split_that_transformers_does_not_know(tmp_path: Path) -> None:
    keys = described(byte_level(), "gpt2") | {"pre": "of-its-own"}
    path = write(tmp_path, keys)
    with pytest.warns(RuntimeWarning, match="pre = 'of-its-own', which transformers does not know"):
        load_tokenizer(path)


def test_no_tokenizer(tmp_path: Path) -> None:
    path = write(tmp_path, {})
    assert load_tokenizer(path) is None
    assert f"{path} holds no tokenizer: give token ids" in why_missing(path)


@pytest.mark.parametrize(
    "keys",
    [
        {"model": "of-its-own", "tokens": ["a", "b"]},
        {"model": "gpt2", "tokens": ["a", "b"], "merges": ["a b c"]},
        {"model": "gpt2", "tokens": [1, 2], "merges": ["a b"]},
        {"model": "gpt2", "tokens": ["a", "b"], "merges": ["a b"], "eos_token_id": 7},
    ],
)
def test_descriptions_that_transformers_cannot_follow(tmp_path: Path, keys: dict) -> None:
    with pytest.raises(CheckpointError, match=r"x.gguf cannot be read as a tokenizer"):
        load_tokenizer(write(tmp_path, keys))


def test_token_ids_are_served_without_a_tokenizer(tmp_path: Path) -> None:
    path = write(tmp_path, {"model": "of-its-own", "tokens": ["a", "b"]})
    with LLM(path, max_num_seqs=1) as llm:
        with pytest.raises(RequestError, match=r"cannot be read as a tokenizer .*Give token ids"):
            llm.generate("a")
        (output,) = llm.generate([[1, 2]], SamplingParams(max_tokens=2))
        assert len(output.outputs[0].token_ids) == 2


def test_a_file_answers_as_its_directory_does(tmp_path: Path) -> None:
    path = write(tmp_path, {})
    params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
    answers = []
    for model in (path, path.parent):
        with LLM(model, dtype="float32", max_num_seqs=1) as llm:
            (output,) = llm.generate([[1, 2, 3]], params)
            answers.append(output.outputs[0].token_ids)
    assert answers[0] == answers[1]
    assert len(np.unique(answers[0])) > 2
