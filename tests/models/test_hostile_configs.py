"""Fields of config.json that are not what they seem: each is refused, by name, and at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_checkpoint
from refusal import CONFIG, refusal

from nspjax.models import load_config, load_decoder

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
