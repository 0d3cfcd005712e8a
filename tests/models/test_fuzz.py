"""Whatever is in a checkpoint's files: a decoder, or a CheckpointError, and no other exception."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path

import pytest
import tiny_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_load_experts import MIXTRAL

from nspjax.errors import CheckpointError
from nspjax.models import load_config
from nspjax.models.checkpoint import read_configs, stored_tensors
from nspjax.models.safetensors_file import DTYPES

QUICK = settings(
    max_examples=200,
    deadline=3000,  # ms an example: the machine that runs tests may be busy
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
NUMBERS = st.one_of(
    st.integers(-2, 70),
    st.sampled_from([2**31 - 1, 2**31, 2**63, 10**11, 10**400, -(2**63), 1e39, 1e-50, 1e300]),
    st.floats(),
)
SCALARS = NUMBERS | st.booleans() | st.none() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
ROPE = st.dictionaries(
    st.sampled_from(
        [
            "type",
            "rope_type",
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "rope_theta",
            "original_max_position_embeddings",
            "partial_rotary_factor",
        ]
    ),
    st.sampled_from(["linear", "llama3", "default", "yarn"]) | SCALARS,
)
FAMILIES = {
    "LlamaForCausalLM": {"head_dim": 8, "attention_bias": True, "mlp_bias": False},
    "MistralForCausalLM": {"sliding_window": 4, "layer_types": ["sliding_attention"] * 2},
    "Qwen2ForCausalLM": {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 4},
    "Qwen3ForCausalLM": {"layer_types": ["full_attention"] * 2, "attention_bias": True},
    "MixtralForCausalLM": {**MIXTRAL, "num_experts_per_tok": 1},
    "OPTForCausalLM": {
        "ffn_dim": 24,
        "word_embed_proj_dim": 8,
        "enable_bias": True,
        "do_layer_norm_before": False,
        "activation_function": "gelu",
        "layer_norm_elementwise_affine": True,
        "_remove_final_layer_norm": False,
    },
}
ENDS = {
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "eos_token_id": [2],
    "bos_token_id": 1,
    "torch_dtype": "float16",
    "dtype": "bfloat16",
    "hidden_act": "silu",
    "quantization_config": None,
    "is_encoder_decoder": False,
    "rope_parameters": {"rope_type": "linear", "factor": 2.0},
}


@pytest.fixture(scope="module")
def directory():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def refused_or_read(read, directory: Path) -> bool:
    """True: it was read."""
    try:
        read(directory)
    except CheckpointError as error:
        message = str(error)
    else:
        return True
    assert len(message) < 2000
    return False


def all_settings(architecture: str) -> dict[str, object]:
    values = {**tiny_checkpoint.CONFIG, **ENDS, **FAMILIES[architecture]}
    return {**values, "architectures": [architecture]}


def test_what_is_mutated_is_good(tmp_path: Path) -> None:
    for architecture in FAMILIES:
        load_config(tiny_checkpoint.write_config(tmp_path, **all_settings(architecture)))


@pytest.mark.parametrize("architecture", FAMILIES)
@QUICK
@given(data=st.data())
def test_settings(directory: Path, architecture: str, data) -> None:
    values = all_settings(architecture)
    for key in data.draw(st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=3)):
        values[key] = data.draw(ROPE | VALUES if key.startswith("rope_p") else VALUES)
    tiny_checkpoint.write_config(directory, **values)
    refused_or_read(load_config, directory)


def mutated(data, text: bytes) -> bytes:
    """Some bytes overwritten, removed, or put twice."""
    made = bytearray(text)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(made)))
        end = min(len(made), at + data.draw(st.integers(0, 12)))
        insert = data.draw(
            st.binary(max_size=6)
            | st.sampled_from(
                [b"}", b"[", b'"', b"9" * 30, b"-1", b"null", b'"x":', b"1e999", b"\\u"]
            )
            | st.just(bytes(made[at:end]) * 2)
        )
        made[at:end] = insert
    return bytes(made)


@QUICK
@given(data=st.data())
def test_bytes_of_config_json(directory: Path, data) -> None:
    config = tiny_checkpoint.write_config(directory, **ENDS) / "config.json"
    config.write_bytes(mutated(data, config.read_bytes()))
    refused_or_read(load_config, directory)


@QUICK
@given(data=st.data())
def test_bytes_of_an_index(tmp_path: Path, data) -> None:
    tiny_checkpoint.write_sharded(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(mutated(data, index.read_bytes()))
    refused_or_read(stored_tensors, tmp_path)


@QUICK
@given(data=st.data())
def test_bytes_of_an_adapter_config(tmp_path: Path, data) -> None:
    tiny_checkpoint.write_config(tmp_path)
    text = b'{"base_model_name_or_path": "a/b", "peft_type": "LORA"}'
    (tmp_path / "adapter_config.json").write_bytes(mutated(data, text))
    assert not refused_or_read(read_configs, tmp_path)


@pytest.fixture(scope="module")
def whole_shard(directory: Path) -> bytes:
    return (tiny_checkpoint.write(directory) / "model.safetensors").read_bytes()


@QUICK
@given(data=st.data())
def test_headers_of_shards(tmp_path: Path, whole_shard: bytes, data) -> None:
    """What is read of a header that was taken is within the file."""
    (length,) = struct.unpack("<Q", whole_shard[:8])
    header, values = whole_shard[8 : 8 + length], whole_shard[8 + length :]
    if data.draw(st.booleans()):
        header = mutated(data, header)
    else:
        entries = json.loads(header)
        name = data.draw(st.sampled_from(sorted(entries)))
        key = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        entries[name][key] = data.draw(VALUES | st.lists(NUMBERS, max_size=3))
        header = json.dumps(entries).encode()
    length = data.draw(st.just(len(header)) | st.integers(0, 2**64 - 1) | st.integers(0, 3000))
    values = values[: len(values) - data.draw(st.sampled_from([0, 0, 0, 1, 4]))]
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header + values)
    if refused_or_read(stored_tensors, tmp_path):
        for tensor in stored_tensors(tmp_path).values():
            if tensor.dtype in DTYPES:
                read = tensor.read()
                assert (read.shape, read.dtype) == (tensor.shape, DTYPES[tensor.dtype])
