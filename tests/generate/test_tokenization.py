"""Checkpoints' tokenizers: what is read, what is refused, what a text becomes."""

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from byte_tokenizer import BOS, byte_tokenizer
from tokenizer_forms import byte_level, metaspace
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from nspjax.errors import CheckpointError, RequestError
from nspjax.generate import LLM, Request, SamplingParams
from nspjax.generate.text.tokenization import (
    encode,
    load_tokenizer,
    special_token_ids,
    why_missing,
)
from nspjax.models.model_file import MOST_TEXT_BYTES

GOLDENS = Path(__file__).parents[1] / "models" / "goldens"
PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast"}
END = {"content": "<|im_end|>", "lstrip": False, "rstrip": False, "normalized": False}


def write(directory, **files):
    """tokenizer="..." writes tokenizer.json."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / f"{name}.json").write_text(text)
    return directory


def json_of(tokenizer, **changes):
    return json.loads(tokenizer.backend_tokenizer.to_str()) | changes


def test_special_tokens_are_added_where_wanted(tmp_path):
    byte_tokenizer(add_bos=True).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert encode(tokenizer, "hé", special_tokens=True) == (BOS, *"hé".encode())
    assert encode(tokenizer, "<s>a", special_tokens=False) == (BOS, ord("a"))


SETTINGS = {
    "PreTrainedTokenizerFast": {"tokenizer_config": PLAIN},
    "no settings": {},
    "of a Llama": {"config": {"model_type": "llama"}},
    "LlamaTokenizer": {"tokenizer_config": {"tokenizer_class": "LlamaTokenizer"}},
    "Qwen2Tokenizer": {
        "tokenizer_config": {"tokenizer_class": "Qwen2Tokenizer"},
        "config": {"model_type": "qwen2"},
    },
    "a short model_max_length": {"tokenizer_config": PLAIN | {"model_max_length": 4}},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("form", [byte_level, metaspace])
def test_saved_truncation_and_padding_do_not_hold_for_prompts(tmp_path, form, settings):
    text = "hello the world " * 20
    write(tmp_path, tokenizer=json_of(form()), **settings)
    whole = AutoTokenizer.from_pretrained(tmp_path).encode(text)
    trained = form().backend_tokenizer
    trained.enable_truncation(8)
    trained.enable_padding(length=1000)
    write(tmp_path, tokenizer=json.loads(trained.to_str()))
    assert encode(load_tokenizer(tmp_path), text, special_tokens=True) == tuple(whole)
    assert 40 < len(whole) < 1000


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": PLAIN | {"added_tokens_decoder": {"ID": {**END, "special": True}}}},
        {"tokenizer_config": PLAIN | {"additional_special_tokens": ["<|im_end|>"]}},
        {"tokenizer_config": PLAIN | {"extra_special_tokens": ["<|im_end|>"]}},
        {"tokenizer_config": PLAIN | {"extra_special_tokens": {"end_of_turn": "<|im_end|>"}}},
        {"special_tokens_map": {"eos_token": "<|im_end|>"}, "tokenizer_config": PLAIN},
        {"special_tokens_map": {"eos_token": END}, "tokenizer_config": {"eos_token": None}},
        {"added_tokens": {"<|im_end|>": "ID"}, "special_tokens_map": {"eos_token": "<|im_end|>"}},
    ],
    ids=lambda files: str(files)[:60],
)
def test_a_token_that_only_the_settings_name_is_one_token_and_no_text(tmp_path, files):
    new_id = len(byte_level())
    as_text = json.dumps(files).replace('"ID":', f'"{new_id}":').replace('"ID"', str(new_id))
    write(tmp_path, tokenizer=json_of(byte_level()), **json.loads(as_text))
    tokenizer = load_tokenizer(tmp_path)
    assert encode(tokenizer, "a<|im_end|>", special_tokens=False)[1:] == (new_id,)
    assert special_token_ids(tokenizer)["<|im_end|>"] == new_id
    assert tokenizer.decode([new_id], skip_special_tokens=True) == ""


def test_a_vocabulary_without_tokenizer_json_is_enough(tmp_path):
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    write(tmp_path, vocab=letters, config={"model_type": "qwen2"})
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    ids = encode(load_tokenizer(tmp_path), "ab", special_tokens=False)
    assert ids == (letters["a"], letters["b"])


# ---- no tokenizer -------------------------------------------------------------------------------


def test_a_directory_without_vocabulary_has_no_tokenizer(tmp_path):
    write(tmp_path, tokenizer_config=PLAIN, config={"model_type": "llama"})
    assert load_tokenizer(tmp_path) is None
    assert "no tokenizer.json: give token ids" in why_missing(tmp_path)


def test_token_ids_are_served_without_transformers(tmp_path, monkeypatch):
    shutil.copytree(GOLDENS / "llama", tmp_path, dirs_exist_ok=True)
    byte_tokenizer().save_pretrained(tmp_path)
    for name in ("transformers", "tokenizers", "jinja2"):
        monkeypatch.setitem(sys.modules, name, None)
    with LLM(tmp_path, max_num_seqs=1, prefill_budget_tokens=16, max_model_len=32) as llm:
        assert llm.prepare(Request("ids", [3, 4])).token_ids == (3, 4)
        for refused in (
            lambda: llm.prepare(Request("text", "text")),
            lambda: llm.prepare(Request("stop", [3], SamplingParams(stop="x"))),
            lambda: llm.chat_prompt([{"role": "user", "content": "hi"}]),
        ):
            with pytest.raises(RequestError, match=r"pip install 'nspjax\[hf\]'"):
                refused()


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.txt", "tekken.json", "a.tiktoken"])
def test_token_ids_are_served_beside_files_that_make_no_tokenizer(tmp_path, name):
    shutil.copytree(GOLDENS / "llama", tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text("{}")
    with LLM(tmp_path, max_num_seqs=1, prefill_budget_tokens=16, max_model_len=32) as llm:
        assert llm.prepare(Request("ids", [3, 4])).token_ids == (3, 4)
        with pytest.raises(RequestError, match=rf"(?s){name}.*json, or give token ids"):
            llm.prepare(Request("text", "text"))


# ---- files that are not what they seem ----------------------------------------------------------

GOOD = json_of(byte_level())
NO_OBJECT = ["", "{", "[]", "null", "3", "[" * 100_000]
WRONG_TOKENIZERS = [
    {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}},
    {"model": GOOD["model"] | {"merges": [["zz", "yy"]]}},
    {"added_tokens": [{**END, "id": 2**40}]},
    {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated",
                       "invert": False}},
]  # fmt: skip
WRONG_SETTINGS = [
    {"tokenizer_class": 3},
    {"bos_token": 3},
    {"bos_token": {"a": 1}},
    {"added_tokens_decoder": {"x": END}},
    {"added_tokens_decoder": [1]},
    {"extra_special_tokens": 3},
    {"model_max_length": "x"},
    {"chat_template": 3},
    {"chat_template": [{"name": "x"}]},
    {"split_special_tokens": "x"},
    {"self": 1},
    {"tokenizer_class": "Other", "auto_map": {"AutoTokenizer": ["other.Other", None]}},
    {"tokenizer_class": "Other", "auto_map": {"AutoTokenizer": ["a/b--other.Other", None]}},
]
BROKEN = {
    "tokenizer": [*NO_OBJECT, "{}", *(GOOD | wrong for wrong in WRONG_TOKENIZERS)],
    "tokenizer_config": [*NO_OBJECT, *(PLAIN | wrong for wrong in WRONG_SETTINGS)],
    "special_tokens_map": ["{", "[]", "[" * 100_000, {"bos_token": 3}],
    "added_tokens": ["{", "[]", {"<q>": "x"}],
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, each) for name, contents in BROKEN.items() for each in contents],
    ids=lambda value: str(value)[-40:],
)  # fmt: skip
def test_a_broken_file_is_named(tmp_path, name, content):
    (tmp_path / "other.py").write_text("raise SystemExit('code of a checkpoint ran')")
    write(tmp_path, **{"tokenizer": GOOD, name: content})
    with pytest.raises(CheckpointError, match=rf"{name}\.json") as error:
        load_tokenizer(tmp_path)
    assert len(str(error.value)) < 1000


def test_a_chat_template_must_be_utf8(tmp_path):
    write(tmp_path, tokenizer=GOOD)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_what_is_no_ordinary_file_is_not_opened(tmp_path, name):
    write(tmp_path, tokenizer=GOOD)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{name} is a FIFO: .* plain files"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.bpe", "chat_template.jinja"])
def test_what_is_too_large_to_be_text_is_not_read(tmp_path, name):
    write(tmp_path, tokenizer=GOOD)
    with (tmp_path / name).open("a") as sparse:
        sparse.truncate(MOST_TEXT_BYTES + 1)
    with pytest.raises(CheckpointError, match=f"{name} has {MOST_TEXT_BYTES + 1} bytes"):
        load_tokenizer(tmp_path)


def test_loading_asks_no_network_and_says_nothing(tmp_path):
    """With a vocabulary of the size at which transformers would ask the hub about it."""
    words = {f"w{i}": i for i in range(100_001)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = PLAIN | {"clean_up_tokenization_spaces": True, "model_max_length": 2}
    write(tmp_path, tokenizer_config=settings, config={"model_type": "mistral"})
    script = f"""
        import pathlib, socket
        def refuse(*_): raise SystemExit("the network was asked")
        socket.socket.connect = socket.getaddrinfo = refuse
        from nspjax.generate.text.tokenization import decode, encode, load_tokenizer
        tokenizer = load_tokenizer(pathlib.Path({str(tmp_path)!r}))
        assert encode(tokenizer, "w1 w2 w3", special_tokens=True) == (1, 2, 3)
        decode(tokenizer, [1, 2, 3])
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert socket.socket.connect  # only the child's was taken away


# ---- texts that no tokenizer takes --------------------------------------------------------------


def test_half_a_surrogate_pair_is_the_requests_error():
    with pytest.raises(RequestError, match=r"cannot encode the text: .*\\ud800"):
        encode(byte_tokenizer(), "a\ud800", special_tokens=True)


class PanicException(BaseException):
    """As pyo3 raises where Rust panics: not an Exception."""


@pytest.mark.parametrize(
    "error", [OverflowError("x" * 10_000), RecursionError(), MemoryError(), PanicException("boom")]
)
def test_whatever_a_tokenizer_raises_is_the_requests_error(monkeypatch, error):
    tokenizer = byte_tokenizer()

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(tokenizer, "encode", fail)
    with pytest.raises(RequestError, match=type(error).__name__) as told:
        encode(tokenizer, "a", special_tokens=True)
    assert len(str(told.value)) < 500


def test_an_interrupt_is_no_failure_of_a_tokenizer(monkeypatch):
    tokenizer = byte_tokenizer()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(tokenizer, "a", special_tokens=True)
