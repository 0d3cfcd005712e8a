"""`LLM.beam_search` against transformers' `generate(num_beams=4)`, recorded and live."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from byte_tokenizer import byte_tokenizer
from tiny_decoder import ScriptedDecoder, TinyConfig, TinyDecoder

from nspjax import LLM, BeamSearchParams, SamplingParams, Store
from nspjax.errors import InvalidArgumentError, NotFiniteError, RequestError
from nspjax.models import load_decoder

HERE = Path(__file__).parent
MODELS = HERE.parent / "models" / "goldens"
GOLDENS = json.loads((HERE / "beam_goldens.json").read_text())
"""made by transformers: see make_beam_goldens.py"""
N_BEAMS, MAX_TOKENS = 4, 24


def loaded(name, end_tokens, **options):
    decoder = load_decoder(MODELS / name, dtype="float32")
    decoder.config = dataclasses.replace(decoder.config, eos_token_ids=tuple(end_tokens))
    return LLM(decoder, tokenizer=None, max_model_len=64, **options)


def check(llm, searches):
    """The same sequences in the same order, with the same ranks."""
    for penalty in sorted({search["length_penalty"] for search in searches}):
        of_it = [search for search in searches if search["length_penalty"] == penalty]
        params = BeamSearchParams(
            beam_width=N_BEAMS,
            max_tokens=MAX_TOKENS,
            length_penalty=penalty,
            include_stop_str_in_output=True,
        )
        outputs = llm.beam_search([{"prompt_token_ids": s["prompt"]} for s in of_it], params)
        for output, search in zip(outputs, of_it, strict=True):
            n_prompt = len(search["prompt"])
            got = [list(sequence.tokens[n_prompt:]) for sequence in output.sequences]
            assert got == search["sequences"]
            ranks = [
                sequence.cum_logprob / len(tokens) ** penalty
                for sequence, tokens in zip(output.sequences, got, strict=True)
            ]
            np.testing.assert_allclose(ranks, search["ranks"], rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["llama", *(pytest.param(n, marks=pytest.mark.slow) for n in ("qwen3", "opt"))]
)
def test_in_memory(name):
    """Two prompts at a time, of three."""
    with loaded(name, GOLDENS[name]["end_tokens"], max_num_seqs=9) as llm:
        check(llm, GOLDENS[name]["searches"])


@pytest.mark.parametrize(
    ("name", "pipeline"),
    [
        ("llama", None),
        pytest.param("qwen3", "ans+writeback", marks=pytest.mark.slow),
        pytest.param("opt", "hilos", marks=pytest.mark.slow),
    ],
)
def test_in_a_store(name, pipeline, tmp_path):
    """On two directories, call after call, in the room that there was."""
    directories = [tmp_path / "a", tmp_path / "b"]
    for directory in directories:
        directory.mkdir()
    with Store(*directories, host_memory="16MiB", pinned="0") as store:
        options = {"store": store, "pipeline": pipeline, "interval_tokens": 4}
        with loaded(
            name, GOLDENS[name]["end_tokens"], max_num_seqs=8, steps_per_call=5, **options
        ) as llm:
            reserved = [device.reserved_bytes for device in store.devices()]
            check(llm, GOLDENS[name]["searches"])
            assert [device.reserved_bytes for device in store.devices()] == reserved
            assert store.stats().kv_bytes_stored == 0
            prompts = [{"prompt_token_ids": [5, 6, 7]}] * 8  # the rows are as before
            greedy = SamplingParams(max_tokens=4, temperature=0)
            outputs = llm.generate(prompts, greedy)
            assert len({output.outputs[0].token_ids for output in outputs}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDENS)
def test_live(name):
    pytest.importorskip("torch")
    from make_beam_goldens import end_tokens_of, searched

    end_tokens = end_tokens_of(MODELS / name)
    with loaded(name, end_tokens, max_num_seqs=4) as llm:
        check(llm, searched(MODELS / name, end_tokens))


def test_the_end_token_and_what_is_asked():
    """1 2 3 ... over and over, of which 6 ends: in the tokens, or not, or one like others."""
    config = TinyConfig(vocab_size=8, n_layers=1, eos_token_ids=(6,))
    model = ScriptedDecoder([1, 2, 3, 4, 5, 6, 7, 0], config)
    asked = {"beam_width": 2, "max_tokens": 9}
    with LLM(model, tokenizer=None, max_num_seqs=3) as llm:
        found = {
            name: llm.beam_search([[0, 1]], BeamSearchParams(**asked, **more))[0].sequences[0]
            for name, more in {
                "without": {},
                "with": {"include_stop_str_in_output": True},
                "ignored": {"ignore_eos": True},
            }.items()
        }
        assert found["without"].tokens == (0, 1, 2, 3, 4, 5)
        assert found["with"].tokens == (0, 1, 2, 3, 4, 5, 6)
        assert found["ignored"].tokens == (0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2)
        reasons = [found[name].finish_reason for name in ("without", "with", "ignored")]
        assert reasons == ["stop", "stop", "length"]
        assert found["with"].text == ""


def test_temperature_divides_the_logits():
    model = TinyDecoder()
    cold = BeamSearchParams(beam_width=2, max_tokens=1, temperature=0.5)
    with LLM(model, tokenizer=None, max_num_seqs=2) as llm:
        ((first, _),) = (out.sequences for out in llm.beam_search([[3, 4]], cold))
    hidden, _ = model(np.array([[3, 4]]), model.init_caches(1, 8))
    logits = model.logits(hidden[:, -1])[0]
    assert first.cum_logprob == pytest.approx(
        float(jax.nn.log_softmax(logits / 0.5).max()), rel=1e-5
    )


def test_what_fails_costs_its_prompt_only():
    """Logits that are not finite after the token 7, and a tokenizer that fails at the token 9; two
    prompts at a time."""
    tokenizer = byte_tokenizer()
    decode = tokenizer.decode

    def fail_at_9(ids, **options):
        if 9 in ids:
            raise ValueError("no 9")
        return decode(ids, **options)

    tokenizer.decode = fail_at_9
    model = TinyDecoder(TinyConfig(vocab_size=64))
    model.embedding[...] = model.embedding[...].at[7].set(np.finfo(np.float32).max)
    params = BeamSearchParams(beam_width=2, max_tokens=4)
    with LLM(model, tokenizer=tokenizer, max_num_seqs=4) as llm:
        (alone,) = llm.beam_search([[3, 4]], params)
        good, overflowing, unreadable, last = llm.beam_search(
            [[3, 4], [3, 7, 5], [9, 4], [3, 4]], params
        )
    assert len(alone.sequences) == 2
    assert good == last == alone
    assert alone.error is None
    assert isinstance(overflowing.error, NotFiniteError)
    assert "beam search" in str(overflowing.error)
    assert isinstance(unreadable.error, RequestError)
    assert "ValueError: no 9" in str(unreadable.error)
    assert overflowing.sequences == unreadable.sequences == ()


def test_what_cannot_be_asked(tmp_path):
    for name, value, allowed in (
        ("beam_width", 0, "an integer in [1, 64], got 0"),
        ("beam_width", True, "an integer in [1, 64], got True"),
        ("max_tokens", 0, "an integer in [1, 2147483647], got 0"),
        ("temperature", -1.0, "a number >= 0, got -1.0"),
        ("length_penalty", float("nan"), "a finite number, got nan"),
        ("length_penalty", float("-inf"), "a finite number, got -inf"),
    ):
        with pytest.raises(RequestError, match=re.escape(f"{name} must be {allowed}")):
            BeamSearchParams(**{"beam_width": 2, "max_tokens": 4} | {name: value})
    BeamSearchParams(beam_width=2, max_tokens=4, length_penalty=-2)
    four = BeamSearchParams(beam_width=4, max_tokens=4)
    with LLM(ScriptedDecoder([0]), tokenizer=None, max_num_seqs=3) as llm:
        with pytest.raises(InvalidArgumentError, match=r"beam_width 4 .* has 3 such rows"):
            llm.beam_search([[0]], four)
        with pytest.raises(RequestError, match="params must be BeamSearchParams"):
            llm.beam_search([[0]], SamplingParams())  # pyright: ignore
        with pytest.raises(RequestError, match="prompt 1: the prompt is empty"):
            llm.beam_search([[0], []], four)
    # 3 heads on 2 devices: every other row
    (tmp_path / "b").mkdir()
    with (
        Store(tmp_path, tmp_path / "b", host_memory="8MiB") as store,
        LLM(
            TinyDecoder(TinyConfig(n_kv_heads=3)), tokenizer=None, store=store, max_num_seqs=6
        ) as llm,
        pytest.raises(InvalidArgumentError, match=r"beam_width 4 .* has 3 such rows"),
    ):
        llm.beam_search([[0]], four)
