"""A corpus of model files that are not what they seem: each is refused, by name, and at once."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoint
from safetensors.numpy import save_file

from nspjax.errors import CheckpointError
from nspjax.models import load_config, load_decoder, model_file
from nspjax.models.safetensors_file import StoredTensor

CONFIG, SHARD, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def refusal(directory: Path, load: Callable = load_decoder) -> str:
    begin = time.process_time()
    with pytest.raises(CheckpointError) as error:
        load(directory)
    assert time.process_time() - begin < 5
    assert len(str(error.value)) < 1500
    return str(error.value)


# ---- config.json: fields ------------------------------------------------------------------------

SIZES = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
]
NO_SIZES = [2**63, 10**400, 10**11, -1, 0, 2.0, 1e400, float("nan"), True, "2", [2], {"a": 2}]


@pytest.mark.parametrize("value", NO_SIZES, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("key", SIZES)
def test_a_size_that_is_none(tmp_path: Path, key: str, value: object) -> None:
    tiny_checkpoint.write(tmp_path, **{key: value})
    message = refusal(tmp_path)
    assert f"{key} in {tmp_path / CONFIG} must be" in message
    assert "got" in message


@pytest.mark.parametrize("key", SIZES)
def test_a_size_that_no_tensor_has(tmp_path: Path, key: str) -> None:
    """The largest that are taken for sizes: nothing is made of them before tensors are compared."""
    tiny_checkpoint.write(tmp_path, **{key: 10_000 if key == "num_hidden_layers" else 2**31 - 2})
    if key == "max_position_embeddings":  # no tensor has it, no rotation is made for it
        load_decoder(tmp_path)
    else:
        assert tmp_path.name in refusal(tmp_path)


def test_all_sizes_at_once(tmp_path: Path) -> None:
    most = 2**31 - 2
    sizes = dict.fromkeys(SIZES, most)
    tiny_checkpoint.write(tmp_path, **{**sizes, "num_hidden_layers": 21})
    assert "but config.json makes it" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"num_local_experts": 10**11}, "num_local_experts"),
        ({"num_experts_per_tok": 10**11}, "num_experts_per_tok"),
        ({"num_experts_per_tok": 9}, "n_experts_per_token"),
        ({"num_local_experts": 10_000}, "10000 or more missing tensors"),
        ({"layer_types": ["sliding_attention"] * 10**5}, "layer_types"),
    ],
)
def test_experts_and_layers(tmp_path: Path, settings, field: str) -> None:
    mixtral = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    tiny_checkpoint.write(tmp_path, **mixtral, **settings)
    assert field in refusal(tmp_path)


@pytest.mark.parametrize("value", [0, -1, 1e400, 1e39, 1e-60, 10**400, "1e4", True, [1e4]])
@pytest.mark.parametrize("key", ["rope_theta", "rms_norm_eps"])
def test_a_number_that_is_none(tmp_path: Path, key: str, value: object) -> None:
    tiny_checkpoint.write_config(tmp_path, **{key: value})
    assert f"{key} in {tmp_path / CONFIG} must be" in refusal(tmp_path, load_config)


LLAMA3 = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("rope", "field"),
    [
        ({"type": "linear"}, "has no factor"),
        ({"type": "linear", "factor": float("nan")}, "factor in"),
        ({"type": "linear", "factor": 0}, "factor in"),
        ({"type": "linear", "factor": None}, "has no factor"),
        ({"type": "linear", "factor": 2, "rope_theta": float("inf")}, "rope_theta in"),
        ({**LLAMA3, "low_freq_factor": None}, "has no low_freq_factor"),
        ({**LLAMA3, "low_freq_factor": 4}, "high_freq_factor in"),
        ({**LLAMA3, "original_max_position_embeddings": 2**63}, "original_max_position_embeddings"),
        ({"type": 3}, "type in"),
        ({"type": "yarn"}, "'yarn'"),
        ([3], "must be an object or null, got [3]"),
        (False, "must be an object or null, got False"),
        ("linear", "must be an object or null"),
    ],
)
def test_rope(tmp_path: Path, key: str, rope: object, field: str) -> None:
    tiny_checkpoint.write_config(tmp_path, **{key: rope})
    message = refusal(tmp_path, load_config)
    assert field in message
    assert key in message


@pytest.mark.parametrize("value", [-2, 2**31, 1.0, True, "2", [2, "3"], [[2]], {"a": 1}, 10**400])
@pytest.mark.parametrize("file", [CONFIG, "generation_config.json"])
def test_token_ids(tmp_path: Path, file: str, value: object) -> None:
    tiny_checkpoint.write_config(tmp_path)
    values = json.loads((tmp_path / CONFIG).read_text()) if file == CONFIG else {}
    (tmp_path / file).write_text(json.dumps({**values, "eos_token_id": value}))
    message = refusal(tmp_path, load_config)
    assert "eos_token_id must be a token id or a list of them, got" in message


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


# ---- safetensors --------------------------------------------------------------------------------


def shard(header: object, values: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + values


def entry(begin: object = 0, end: object = 4, dtype: object = "F32", shape: object = (1,)):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


FOUR = bytes(4)
SHARDS = {
    "nothing": b"",
    "no header": bytes(7),
    "a header of 2^63": shard({}, length=2**63),
    "a header of 2^64 - 1": shard({}, length=2**64 - 1),
    "a header behind the end": shard({}, length=3),
    "no JSON": shard(b"{]"),
    "a list": shard([]),
    "deep": shard(b'{"a":' * 10**5),
    "not UTF-8": shard(b'{"\xff": 1}'),
    "an entry that is a number": shard({"x": 1}, FOUR),
    "an entry that is null": shard({"x": None}, FOUR),
    "no shape": shard({"x": {"dtype": "F32", "data_offsets": [0, 4]}}, FOUR),
    "a shape of strings": shard({"x": entry(shape=["1"])}, FOUR),
    "a shape of bools": shard({"x": entry(shape=[True])}, FOUR),
    "a negative shape": shard({"x": entry(shape=[-1, -1])}, FOUR),
    "a shape that overflows": shard({"x": entry(shape=[2**62, 4, 2**62])}, FOUR),
    "a dtype that is a number": shard({"x": entry(dtype=32)}, FOUR),
    "bytes that the shape has not": shard({"x": entry(shape=[2])}, FOUR),
    "offsets that are no numbers": shard({"x": entry("0", 4)}, FOUR),
    "offsets that are floats": shard({"x": entry(0.0, 4.0)}, FOUR),
    "negative offsets": shard({"x": entry(-4, 0)}, FOUR),
    "offsets behind the end": shard({"x": entry(4, 8)}, FOUR),
    "offsets of 10^400": shard({"x": entry(10**400, 10**400 + 4)}, FOUR),
    "offsets backwards": shard({"x": entry(4, 0)}, FOUR),
    "three offsets": shard({"x": {**entry(), "data_offsets": [0, 2, 4]}}, FOUR),
    "overlapping": shard({"x": entry(), "y": entry()}, FOUR),
    "a gap": shard({"x": entry(), "y": entry(8, 12)}, FOUR * 3),
    "bytes that no tensor has": shard({"x": entry()}, FOUR * 2),
    "bytes that are missing": shard({"x": entry(0, 8, shape=[2])}, FOUR),
    "a tensor twice": shard(
        b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        FOUR * 2,
    ),
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_that_is_none(tmp_path: Path, name: str) -> None:
    tiny_checkpoint.write_config(tmp_path)
    (tmp_path / SHARD).write_bytes(SHARDS[name])
    size = len(SHARDS[name])
    assert f"{tmp_path / SHARD} ({size} bytes) is truncated or damaged" in refusal(tmp_path)


def test_a_header_above_the_limit_is_not_read(tmp_path: Path) -> None:
    tiny_checkpoint.write_config(tmp_path)
    with open(tmp_path / SHARD, "wb") as sparse:
        sparse.write(struct.pack("<Q", 100_000_001))
        sparse.truncate(2**40)
    assert "header too large" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("model.layers.00.self_attn.q_proj.weight", "surplus"),
        ("model.layers.٣.self_attn.q_proj.weight", "surplus"),
        (f"model.layers.{'9' * 5000}.self_attn.q_proj.weight", "surplus"),
        ("model.layers.{layer}.self_attn.q_proj.weight", "surplus"),
        ("model.layers.{}.self_attn.q_proj.weight", "surplus"),
        ("\ud800", "is truncated or damaged"),
        ("x" * 10**6, "surplus"),
    ],
)
def test_a_tensor_s_name(tmp_path: Path, name: str, why: str) -> None:
    tiny_checkpoint.write(tmp_path)
    path = tmp_path / SHARD
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header[name] = entry(len(data) - 8 - length, len(data) - 4 - length)
    path.write_bytes(shard(header, data[8 + length :] + FOUR))
    assert why in refusal(tmp_path)


def test_values_are_those_that_safetensors_writes(tmp_path: Path) -> None:
    """Tensors without axes and without values too, in files whose header is padded or not."""
    import ml_dtypes

    from nspjax.models.safetensors_file import shard_tensors

    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(3.5, np.float16),
        "c": np.zeros((0, 4), np.float64),
        "d": np.arange(5).astype(ml_dtypes.bfloat16),
        "é": np.arange(2, dtype=np.float64),
    }
    save_file(tensors, tmp_path / "x", metadata={"format": "pt"})
    found = shard_tensors(tmp_path / "x")
    assert found.keys() == tensors.keys()
    for name, values in tensors.items():
        read = found[name].read()
        assert (read.dtype, read.shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(read, values)


# ---- files that change while they are read ------------------------------------------------------


def test_a_shard_that_is_cut_between_tensors(tmp_path: Path, monkeypatch) -> None:
    path = tiny_checkpoint.write(tmp_path) / SHARD
    read = StoredTensor.read

    def cut_then_read(self):
        os.truncate(path, 100)
        return read(self)

    monkeypatch.setattr(StoredTensor, "read", cut_then_read)
    assert f"{path} was changed while it was loaded (100 bytes now)" in refusal(tmp_path)


def test_a_shard_that_is_removed(tmp_path: Path, monkeypatch) -> None:
    path = tiny_checkpoint.write(tmp_path) / SHARD
    read = StoredTensor.read

    def remove_then_read(self):
        path.unlink(missing_ok=True)
        return read(self)

    monkeypatch.setattr(StoredTensor, "read", remove_then_read)
    assert f"{path} was removed while it was loaded" in refusal(tmp_path)


def test_reads_that_come_in_pieces(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(100)))
    preadv = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:7]], offset)
    )
    with model_file.opened(path) as file:
        assert file.read(90, 5) == bytes(range(5, 95))
