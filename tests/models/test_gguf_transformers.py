"""GGUF files as transformers itself loads and runs them; part of make test-all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

for package in ("torch", "accelerate"):
    pytest.importorskip(package, reason=f"transformers loads GGUF files with {package} only")
pytest.importorskip("gguf", reason="the extra gguf is not installed")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

import torch  # noqa: E402
from compare import logits_error, run_greedy  # noqa: E402
from gguf import GGMLQuantizationType as Format  # noqa: E402
from gguf_files import write_gguf  # noqa: E402
from oracle import answers_of, save_checkpoint  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from variants import LLAMA3_ROPE, VARIANTS, Variant  # noqa: E402

from nspjax.generate.text.tokenization import encode, load_tokenizer  # noqa: E402
from nspjax.models import load_decoder  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-python-llama"
FORMATS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
TEXTS = [
    "def f(x):\n    return x + 1\n",
    "  two spaces, 12345 digits, naïve café 漢字 🙂\n\n\ttab",
    "It's we'll <|im_start|>user\nhi<|im_end|>\n",
]


def theirs(path: Path) -> torch.nn.Module:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def assert_same(path: Path, model: torch.nn.Module) -> None:
    golden = answers_of(model, seed=5)
    prefill, greedy, decode = run_greedy(load_decoder(path, dtype="float32"), golden)
    np.testing.assert_array_equal(greedy, golden["greedy"])
    assert logits_error(prefill, golden["prefill_logits"], golden["n_tokens"]).worst < 1e-4
    assert logits_error(decode, golden["decode_logits"]).worst < 1e-4


@pytest.mark.parametrize("form", FORMATS)
def test_the_example_in_every_format(tmp_path: Path, form: str) -> None:
    (tmp_path / "config.json").write_text((EXAMPLE / "config.json").read_text())
    weights = load_file(EXAMPLE / "model.safetensors")
    exact = {name: np.asarray(w, np.float32) for name, w in weights.items()}
    save_file(exact, tmp_path / "model.safetensors")
    write_gguf(tmp_path / "x.gguf", tmp_path, Format[form], metadata=vocabulary(264))
    assert_same(tmp_path / "x.gguf", theirs(tmp_path / "x.gguf"))


@pytest.mark.parametrize("name", ["llama", "llama_mqa", "qwen2", "qwen3"])
def test_families(tmp_path: Path, name: str) -> None:
    settings = {**VARIANTS[name].settings, "hidden_size": 64, "intermediate_size": 96}
    if name == "qwen3":
        settings["head_dim"] = 128  # transformers does not read it from a GGUF file
    save_checkpoint(tmp_path, Variant(VARIANTS[name].config, settings, dtype="float32"), 7)
    write_gguf(tmp_path / "x.gguf", tmp_path, Format.Q8_0, metadata=vocabulary(96))
    assert_same(tmp_path / "x.gguf", theirs(tmp_path / "x.gguf"))


def test_llama_3_rotation_by_factors(tmp_path: Path) -> None:
    """transformers leaves the factors out, so it is compared as it loads the directory."""
    settings = {**VARIANTS["llama_llama3_rope"].settings}
    save_checkpoint(tmp_path, Variant("LlamaConfig", settings, dtype="float32"), 7)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager"
    ).eval()
    scaled = model.model.rotary_emb.inv_freq.double().numpy()
    d = 2 * len(scaled)
    factors = LLAMA3_ROPE["rope_theta"] ** (-np.arange(0, d, 2) / d) / scaled
    assert np.ptp(factors) > 2
    more = {"rope_freqs.weight": factors.astype(np.float32)}
    write_gguf(tmp_path / "x.gguf", tmp_path, more=more)
    assert_same(tmp_path / "x.gguf", model)


def vocabulary(n_tokens: int) -> dict:
    """What transformers needs to see of a tokenizer to load a model."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(n_tokens)],
        "tokenizer.ggml.merges": ["a b"],
        "general.name": "x",
    }


def test_smollm_is_tokenised_as_transformers_does(smollm: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm.parent, gguf_file=smollm.name)
    ours = load_tokenizer(smollm)
    assert ours is not None
    sources = [*TEXTS, *(p.read_text() for p in sorted(Path(__file__).parent.glob("*.py")))]
    for text in sources:
        ids = encode(ours, text, special_tokens=True)
        assert list(ids) == tokenizer.encode(text)
        assert ours.decode(ids) == tokenizer.decode(list(ids))
    assert ours.chat_template == tokenizer.chat_template
    assert ours.special_tokens_map == tokenizer.special_tokens_map
