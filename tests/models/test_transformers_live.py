"""Fresh random checkpoints against transformers as it runs here; part of make test-all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # theirs
]

from compare import logits_error, run_forced  # noqa: E402
from variants import VARIANTS, Variant  # noqa: E402

from nspjax.models import load_config, load_decoder  # noqa: E402
from nspjax.models.rope import inverse_frequencies  # noqa: E402

SEED = 1000
WIDER = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "vocab_size": 301,
    "max_position_embeddings": 128,
}


def wider(variant: Variant) -> Variant:
    """The variant in other sizes than the committed goldens have."""
    settings = {**variant.settings, **WIDER}
    if "head_dim" in variant.settings:
        settings["num_attention_heads"] = 4
    if variant.settings.get("num_key_value_heads") == 2:
        settings["num_key_value_heads"] = settings["num_attention_heads"] // 2
    return dataclasses.replace(variant, settings=settings, max_shard_size="100KB")


@pytest.mark.parametrize("name", VARIANTS)
def test_float32_matches(name: str, tmp_path: Path) -> None:
    from oracle import answers, save_checkpoint

    save_checkpoint(tmp_path, wider(VARIANTS[name]), SEED)
    theirs = answers(tmp_path, SEED)
    prefill, decode = run_forced(load_decoder(tmp_path, dtype="float32"), theirs)
    assert logits_error(prefill, theirs["prefill_logits"], theirs["n_tokens"]).worst < 1e-4
    assert logits_error(decode, theirs["decode_logits"]).worst < 1e-4


@pytest.mark.parametrize(
    "name", ["llama", "llama_llama3_rope", "qwen2", "qwen3", "opt", "opt_350m"]
)
def test_bfloat16_is_no_further_from_float32_than_transformers(name: str, tmp_path: Path) -> None:
    import torch
    from oracle import answers, save_checkpoint

    save_checkpoint(tmp_path, wider(VARIANTS[name]), SEED)
    exact = answers(tmp_path, SEED)
    theirs = answers(tmp_path, SEED, torch.bfloat16, forced=exact["greedy"])
    prefill, decode = run_forced(load_decoder(tmp_path, dtype="bfloat16"), exact)
    n_tokens = exact["n_tokens"]
    ours_off = logits_error(prefill, exact["prefill_logits"], n_tokens).mean
    theirs_off = logits_error(theirs["prefill_logits"], exact["prefill_logits"], n_tokens).mean
    assert ours_off < 1.2 * theirs_off
    ours_off = logits_error(decode, exact["decode_logits"]).mean
    theirs_off = logits_error(theirs["decode_logits"], exact["decode_logits"]).mean
    assert ours_off < 1.2 * theirs_off


@pytest.mark.parametrize("name", ["llama", "llama_llama3_rope", "llama_old_spelling", "mixtral"])
def test_rotary_frequencies_are_the_same(name: str, tmp_path: Path) -> None:
    """In all but the last bit or two: at position 131072 that is still a small angle."""
    import transformers
    from oracle import save_checkpoint

    save_checkpoint(tmp_path, wider(VARIANTS[name]), SEED)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    theirs = model.model.rotary_emb.inv_freq.numpy()
    np.testing.assert_allclose(inverse_frequencies(load_config(tmp_path)), theirs, rtol=3e-7)
