"""A corpus of model files that are not what they seem: each is refused, by name, and at once."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import tiny_checkpoint
from refusal import CONFIG, INDEX, refusal
from safetensors.numpy import save_file

from nspjax.models import load_config, load_decoder

# ---- JSON ---------------------------------------------------------------------------------------

DEEP = 10**5
TEXTS = {
    "empty": b"",
    "a list": b"[]",
    "cut": b'{"vocab_size": 2',
    "deep lists": b'{"a": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"a": ' * DEEP + b"1" + b"}" * DEEP,
    "5000 digits": b'{"vocab_size": ' + b"9" * 5000 + b"}",
    "Latin-1": '{"a": "é"}'.encode("latin-1"),
    "UTF-16": '{"a": "é"}'.encode("utf-16"),
    "zeros": bytes(1000),
    "two values of a key": b'{"hidden_size": 16, "hidden_size": 32}',
    "two values of a key, inside": b'{"rope_scaling": {"factor": 1, "factor": 2}}',
}


@pytest.mark.parametrize("file", [CONFIG, "generation_config.json", INDEX, "adapter_config.json"])
@pytest.mark.parametrize("text", TEXTS)
def test_json_that_is_none(tmp_path: Path, file: str, text: str) -> None:
    tiny_checkpoint.write_sharded(tmp_path)
    (tmp_path / file).write_bytes(TEXTS[text])
    assert str(tmp_path / file) in refusal(tmp_path)


def test_json_that_is_good(tmp_path: Path) -> None:
    """A byte-order mark, a key that says the same twice, NaN where nothing reads it."""
    config = tiny_checkpoint.write_config(tmp_path) / CONFIG
    text = config.read_text()
    plain = load_config(tmp_path)
    extra = ', "hidden_size": 16, "initializer_range": NaN, "x": [' + "9" * 400 + "]}"
    config.write_bytes(b"\xef\xbb\xbf" + (text[:-1] + extra).encode())
    assert load_config(tmp_path) == plain


@pytest.mark.parametrize("file", [CONFIG, INDEX, "tokenizer.json"])
def test_a_text_of_absurd_size(tmp_path: Path, file: str) -> None:
    tiny_checkpoint.write_sharded(tmp_path)
    with open(tmp_path / file, "wb") as sparse:
        sparse.truncate(2**40)
    assert f"{tmp_path / file} has 1099511627776 bytes" in refusal(tmp_path)


# ---- what is no plain file ----------------------------------------------------------------------


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("file", [CONFIG, "model-1-of-2.safetensors", INDEX, "tokenizer.json"])
@pytest.mark.parametrize(
    ("make", "kind"),
    [(fifo, "a FIFO"), (listening, "a socket"), (zero, "a device"), (Path.mkdir, "a directory")],
)
def test_no_plain_file(tmp_path: Path, monkeypatch, file: str, make, kind: str) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    tiny_checkpoint.write_sharded(Path())
    Path(file).unlink(missing_ok=True)
    make(Path(file))
    if (file, kind) != ("tokenizer.json", "a directory"):
        assert f"{file} is {kind}: a checkpoint consists of plain files" in refusal(Path())
    # and when it was put there after the directory was looked at
    monkeypatch.setattr("nspjax.models.hub.check_directory", lambda _: None)
    if file != "tokenizer.json":
        assert f"{file} is {kind}: a checkpoint consists of plain files" in refusal(Path())


@pytest.mark.parametrize("file", [CONFIG, "model-1-of-2.safetensors", INDEX])
def test_a_link_to_itself(tmp_path: Path, file: str) -> None:
    tiny_checkpoint.write_sharded(tmp_path)
    (tmp_path / file).unlink()
    itself(tmp_path / file)
    assert file in refusal(tmp_path)


def test_links_into_the_blobs_of_a_hub_s_snapshot(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "0a", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, path in enumerate(sorted(tiny_checkpoint.write_sharded(snapshot).iterdir())):
        path.rename(blobs / str(i))
        path.symlink_to(f"../../blobs/{i}")
    load_decoder(snapshot)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "~nobody-of-this-name/model"])
def test_paths_that_are_none(name: str) -> None:
    assert refusal(Path(name), load_decoder)
    assert refusal(Path("/tmp") / name, load_decoder)


# ---- the index ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shard",
    ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\0b", 3, None, ["a"], "\ud800", "a" * 300],
)
def test_a_shard_s_name(tmp_path: Path, shard: object) -> None:
    tiny_checkpoint.write_sharded(tmp_path)
    tiny_checkpoint.write_index(tmp_path, {"model.norm.weight": shard})
    message = refusal(tmp_path)
    assert "must be a file beside the index" in message or "cannot be read" in message


def test_an_index_of_many_entries(tmp_path: Path) -> None:
    tiny_checkpoint.write_sharded(tmp_path)
    tiny_checkpoint.write_index(
        tmp_path, {f"t{i}": "model-1-of-2.safetensors" for i in range(2 * 10**5)}
    )
    assert "missing tensors" in refusal(tmp_path)


@pytest.mark.parametrize(
    "absent", ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"]
)
def test_an_index_that_names_an_absent_tensor(tmp_path: Path, absent: str) -> None:
    """As in transformers: what is needed and missing is told, whatever an index says."""
    weights = tiny_checkpoint.tensors()
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "a.safetensors")
    tiny_checkpoint.write_index(tmp_path, dict.fromkeys([*weights, absent], "a.safetensors"))
    tiny_checkpoint.write_config(tmp_path, tie_word_embeddings=True)
    load_decoder(tmp_path)
    tiny_checkpoint.write_config(tmp_path, tie_word_embeddings=False)
    assert "1 missing tensor (lm_head.weight)" in refusal(tmp_path)
