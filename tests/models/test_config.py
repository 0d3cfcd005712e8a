"""config.json in both spellings, and every setting that we do not have refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_checkpoint
from compare import GOLDENS

from nspjax.errors import CheckpointError, InvalidArgumentError, UnsupportedModelError
from nspjax.models import LinearRopeScaling, Llama3RopeScaling, ModelConfig, load_config

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def read(directory: Path, **settings) -> ModelConfig:
    return load_config(tiny_checkpoint.write_config(directory, **settings))


def family(architecture: str) -> dict[str, object]:
    return {"architectures": [architecture], "model_type": ...}


# ---- spellings ----------------------------------------------------------------------------------


def test_llama(tmp_path: Path) -> None:
    assert read(tmp_path, eos_token_id=7, bos_token_id=5) == ModelConfig.llama(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        max_position_tokens=32,
        eos_token_ids=(7,),
        bos_token_id=5,
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rope_theta": 5e5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        ({"rope_theta": 5e5, "rope_scaling": None}, {"rope_parameters": {"rope_theta": 5e5}}),
        (
            {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2}},
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e6, "factor": 2.0}},
        ),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
        ),
        ({"torch_dtype": "bfloat16"}, {"dtype": "bfloat16"}),
        ({"torch_dtype": "torch.float16"}, {"dtype": "float16"}),
    ],
)
def test_old_and_new_spelling_are_the_same(tmp_path: Path, old, new) -> None:
    assert read(tmp_path, **old) == read(tmp_path, **new) != read(tmp_path)


def test_rope_scaling(tmp_path: Path) -> None:
    linear = read(tmp_path, rope_scaling={"type": "linear", "factor": 2})
    assert linear.rope_scaling == LinearRopeScaling(2.0)
    llama3 = read(tmp_path, rope_scaling={"rope_type": "llama3", **LLAMA3})
    assert llama3.rope_scaling == Llama3RopeScaling(8.0, 1.0, 4.0, 8192)
    beside = {"rope_type": "llama3", **LLAMA3}
    llama3 = read(tmp_path, rope_scaling=beside, original_max_position_embeddings=4096)
    assert llama3.rope_scaling == Llama3RopeScaling(8.0, 1.0, 4.0, 4096)


def test_defaults_of_absent_keys_are_the_familys(tmp_path: Path) -> None:
    absent = {"num_key_value_heads": ..., "num_attention_heads": 8, "max_position_embeddings": ...}
    llama = read(tmp_path, **absent)
    assert (llama.n_kv_heads, llama.rope_theta, llama.max_position_tokens) == (8, 1e4, 2048)
    mistral = read(tmp_path, **absent, **family("MistralForCausalLM"))
    assert (mistral.window_tokens, mistral.max_position_tokens) == (4096, 131072)
    mixtral = read(tmp_path, **absent, **family("MixtralForCausalLM"))
    assert (mixtral.n_experts, mixtral.rope_theta, mixtral.window_tokens) == (8, 1e6, None)
    qwen3 = read(tmp_path, **family("Qwen3ForCausalLM"))
    assert (qwen3.head_dim, qwen3.qkv_bias, qwen3.qk_norm) == (128, False, True)


ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "opt": "OPTForCausalLM",
}
# what AutoConfig of transformers 5.24 makes of hidden_size 256, 64 heads; the two of qwen3's
# head_dim and mistral's and mixtral's KV heads that are null it refuses, its __post_init__ does not
ABSENT_AND_NULL = [
    ("n_kv_heads", "num_key_value_heads", "llama", 64, 64),
    ("n_kv_heads", "num_key_value_heads", "mistral", 8, 64),
    ("n_kv_heads", "num_key_value_heads", "mixtral", 8, 64),
    ("n_kv_heads", "num_key_value_heads", "qwen2", 32, 64),
    ("n_kv_heads", "num_key_value_heads", "qwen3", 32, 64),
    ("head_dim", "head_dim", "llama", 4, 4),
    ("head_dim", "head_dim", "mistral", 4, 4),
    ("head_dim", "head_dim", "mixtral", 4, 4),
    ("head_dim", "head_dim", "qwen2", 4, 4),
    ("head_dim", "head_dim", "qwen3", 128, 4),
    ("window_tokens", "sliding_window", "mistral", 4096, None),
    ("window_tokens", "sliding_window", "mixtral", None, None),
    ("window_tokens", "sliding_window", "qwen2", 4096, None),
    ("window_tokens", "sliding_window", "qwen3", 4096, None),
    ("windowed_layers", "layer_types", "qwen2", (1,), (1,)),
    ("rope_scaling", "rope_scaling", "llama", None, None),
    ("rope_theta", "rope_parameters", "llama", 1e4, 1e4),
    ("rope_theta", "rope_parameters", "mixtral", 1e6, 1e6),
    ("tied_embeddings", "tie_word_embeddings", "llama", False, False),
    ("tied_embeddings", "tie_word_embeddings", "qwen3", False, False),
    ("tied_embeddings", "tie_word_embeddings", "opt", True, True),
    ("embedding_size", "word_embed_proj_dim", "opt", 256, 256),
    ("bos_token_id", "bos_token_id", "llama", 1, None),
    ("bos_token_id", "bos_token_id", "mistral", 1, None),
    ("bos_token_id", "bos_token_id", "mixtral", 1, None),
    ("bos_token_id", "bos_token_id", "qwen2", None, None),
    ("bos_token_id", "bos_token_id", "qwen3", None, None),
    ("bos_token_id", "bos_token_id", "opt", 2, None),
    ("eos_token_ids", "eos_token_id", "llama", (2,), ()),
    ("eos_token_ids", "eos_token_id", "mistral", (2,), ()),
    ("eos_token_ids", "eos_token_id", "mixtral", (2,), ()),
    ("eos_token_ids", "eos_token_id", "qwen2", (), ()),
    ("eos_token_ids", "eos_token_id", "qwen3", (), ()),
    ("eos_token_ids", "eos_token_id", "opt", (2,), ()),
]


@pytest.mark.parametrize(("field", "key", "name", "absent", "null"), ABSENT_AND_NULL)
def test_a_key_that_is_absent_or_null(tmp_path: Path, field, key, name, absent, null) -> None:
    settings = {
        "hidden_size": 256,
        "num_attention_heads": 64,
        "ffn_dim": 24,
        "use_sliding_window": True,
        "max_window_layers": 1,
        **family(ARCHITECTURES[name]),
    }
    assert getattr(read(tmp_path, **settings, **{key: ...}), field) == absent
    assert getattr(read(tmp_path, **settings, **{key: None}), field) == null


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_quantisation(tmp_path: Path, nothing) -> None:
    assert read(tmp_path, quantization_config=nothing) == read(tmp_path)


def test_model_type_where_architectures_is_absent(tmp_path: Path) -> None:
    assert read(tmp_path, architectures=..., model_type="qwen2").family == "qwen2"


def test_windows(tmp_path: Path) -> None:
    mistral = family("MistralForCausalLM")
    assert read(tmp_path, sliding_window=None, **mistral).window_tokens is None
    assert read(tmp_path, sliding_window=9, **mistral).layer_window_tokens(1) == 9
    qwen = {**family("Qwen2ForCausalLM"), "sliding_window": 9, "max_window_layers": 1}
    assert read(tmp_path, use_sliding_window=False, **qwen).window_tokens is None
    windowed = read(tmp_path, use_sliding_window=True, **qwen)
    assert [windowed.layer_window_tokens(i) for i in range(2)] == [None, 9]
    types = ["sliding_attention", "full_attention"]
    windowed = read(tmp_path, use_sliding_window=True, layer_types=types, **qwen)
    assert [windowed.layer_window_tokens(i) for i in range(2)] == [9, None]


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (..., None, (2,)),
        (..., {"eos_token_id": None}, ()),
        (None, None, ()),
        ([], None, ()),
        (3, None, (3,)),
        ([3, 4], None, (3, 4)),
        (3, {"eos_token_id": [5, 6]}, (5, 6)),
        (3, {"eos_token_id": None}, (3,)),
        (None, {"eos_token_id": 0}, (0,)),
        (-1, None, ()),  # none, in transformers too
        ([3, -1], None, (3,)),
        (3, {"eos_token_id": -1}, ()),
    ],
)
def test_end_of_sequence_tokens(tmp_path: Path, config, generation, expected) -> None:
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert read(tmp_path, eos_token_id=config).eos_token_ids == expected


def test_a_beginning_that_is_no_token(tmp_path: Path) -> None:
    assert read(tmp_path, bos_token_id=-1).bos_token_id is None


def test_goldens_of_both_spellings_are_committed() -> None:
    old = json.loads((GOLDENS / "llama_old_spelling" / "config.json").read_text())
    new = json.loads((GOLDENS / "llama" / "config.json").read_text())
    assert {"rope_scaling", "rope_theta", "torch_dtype"} <= old.keys()
    assert {"rope_parameters", "dtype"} <= new.keys()


# ---- what we do not have ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [["GPT2LMHeadModel"], ["LlamaModel"], [], "LlamaForCausalLM", None]
)
def test_unknown_architecture_lists_ours(tmp_path: Path, names) -> None:
    with pytest.raises(UnsupportedModelError, match=r"LlamaForCausalLM, .*MixtralForCausalLM"):
        read(tmp_path, architectures=names, model_type="no_such")


@pytest.mark.parametrize("kind", ["yarn", "dynamic", "longrope", "proportional", "new one"])
@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_rope_scaling_we_do_not_have(tmp_path: Path, key: str, kind: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{kind}.*default, linear, llama3"):
        read(tmp_path, rope_scaling={key: kind, "factor": 4.0})


@pytest.mark.parametrize(
    ("architecture", "settings", "message"),
    [
        ("LlamaForCausalLM", {"hidden_act": "mish"}, "hidden_act to 'mish'.*silu"),
        ("LlamaForCausalLM", {"quantization_config": {"bits": 4}}, "quantization_config.*bits"),
        ("LlamaForCausalLM", {"partial_rotary_factor": 0.5}, "partial_rotary_factor to 0.5.*1.0"),
        (
            "LlamaForCausalLM",
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "rope_parameters in .* partial_rotary_factor to 0.5",
        ),
        (
            "LlamaForCausalLM",
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "rope_parameters to .*full_attention.*one rotation for all layers",
        ),
        ("OPTForCausalLM", {"ffn_dim": 8, "_remove_final_layer_norm": True}, "_remove_final"),
        ("OPTForCausalLM", {"ffn_dim": 8, "activation_function": "tanh"}, "activation_.*relu"),
        ("OPTForCausalLM", {"num_attention_heads": 3}, "num_attention_heads to 3.*divisors"),
        ("Qwen2ForCausalLM", {"layer_types": ["full_attention", "linear"]}, "layer_types.*linear"),
        ("Qwen2ForCausalLM", {"layer_types": "full_attention"}, "layer_types to 'full_attention'"),
        ("Qwen2ForCausalLM", {"layer_types": ["full_attention"]}, "layer_types.*each of 2 layers"),
        (
            "Qwen3ForCausalLM",
            {"layer_types": ["sliding_attention"] * 2},
            "sliding_attention only with use_sliding_window",
        ),
        (
            "MistralForCausalLM",
            {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4},
            "layer_types.*sliding_attention in every layer",
        ),
    ],
)
def test_setting_we_do_not_have(tmp_path: Path, architecture, settings, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        read(tmp_path, **family(architecture), **settings)


# ---- values that make no sense ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": ...}, "has no hidden_size"),
        ({"vocab_size": None}, "has no vocab_size"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers in .* integer of at least 1, got '2'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers in .*, got 0"),
        ({"num_attention_heads": True}, "num_attention_heads in .*, got True"),
        ({"num_key_value_heads": 3}, r"n_heads \(4\) must be a multiple of n_kv_heads \(3\)"),
        ({"head_dim": 5}, "even head_dim, got 5"),
        ({"num_attention_heads": 32}, "head_dim in .* at least 1, got 0"),
        ({"rms_norm_eps": 0}, "rms_norm_eps in .* above 0, got 0"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings in .* true or false, got 'yes'"),
        ({"rope_scaling": 3}, "rope_scaling in .* object or null, got 3"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling in .* has no factor"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be .*'</s>'"),
        ({"dtype": 16}, "dtype in .* a string, got 16"),
    ],
)
def test_value_out_of_range(tmp_path: Path, settings, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, **settings)


def test_malformed_generation_config(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config.json is not valid JSON"):
        read(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_layers": 0},
        {"window_tokens": 0},
        {"n_experts": 1},
        {"n_kv_heads": 3},
        {"rope_theta": float("inf")},
        {"rope_theta": 0.0},
        {"norm_eps": float("nan")},
        {"norm_eps": -1e-6},
    ],
)
def test_model_config_checks_itself(settings) -> None:
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "max_position_tokens": 8}
    (name,) = settings
    with pytest.raises(InvalidArgumentError, match=name):
        ModelConfig.llama(**{**sizes, "n_layers": 1, "n_heads": 4, **settings})
