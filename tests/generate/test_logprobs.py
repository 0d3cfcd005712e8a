"""Logprobs, against the log-softmax in float64 of the logits of a plain run."""

import dataclasses

import numpy as np
import pytest
from byte_tokenizer import byte_tokenizer
from logits_by_hand import ALIKE, PlainModel, bytes_decoder, llm_in, log_softmax

from nspjax.generate import SamplingParams
from nspjax.generate.logprob_records import LogprobRecords
from nspjax.generate.sampling.logprobs import Logprobs

PROMPTS = [
    [*b"hello, world"],
    [*b"a prompt so long that it is computed in pieces, and that a part of it may be shared"],
    [*b"x"],
]


@pytest.fixture(scope="module")
def model():
    return bytes_decoder()


@pytest.fixture(
    scope="module", params=["in memory", pytest.param("memory:", marks=pytest.mark.slow)]
)
def llm(model, request):
    shares = {} if request.param == "in memory" else {"share_prefixes": True}
    with llm_in(request.param, model, tokenizer=byte_tokenizer(), **shares) as made:
        yield made


def check(records, tokens, right, n_top):
    """records: of tokens; right: log-softmax float64 [n, V] before each."""
    assert len(records) == len(tokens)
    for record, token, row in zip(records, tokens, right, strict=True):
        likely = np.argsort(-row, kind="stable")[:n_top].tolist()
        assert list(record) == [token, *(other for other in likely if other != token)]
        for other, found in record.items():
            assert found.logprob == pytest.approx(row[other], abs=1e-5)
            assert found.rank == 1 + (row > row[other]).sum()
            text = bytes([other]) if other < 256 else (b"<s>", b"</s>")[other - 256]
            assert found.decoded_bytes == text


def test_logprobs_are_those_of_the_models_own_logits(llm, model):
    plain = PlainModel(model)
    usual = SamplingParams(temperature=0, max_tokens=11, **ALIKE)
    params = [
        dataclasses.replace(usual, logprobs=3, prompt_logprobs=2),
        SamplingParams(temperature=1.5, seed=4, max_tokens=11, logprobs=0, top_k=9,
                       presence_penalty=1.0, logit_bias={5: 3.0}),
        SamplingParams(temperature=1.0, seed=5, max_tokens=9, logprobs=20, prompt_logprobs=0,
                       **ALIKE),
    ]  # fmt: skip
    outputs = llm.generate(PROMPTS, params)
    outputs += llm.generate(PROMPTS[1:2] * 2, [params[0], usual])
    for output, asked in zip(outputs, [*params, params[0], usual], strict=True):
        (answer,), prompt = output.outputs, list(output.prompt_token_ids)
        right = log_softmax(plain.logits([*prompt, *answer.token_ids]))
        if asked.prompt_logprobs is None:
            assert output.prompt_logprobs is None
        else:
            assert output.prompt_logprobs[0] is None
            check(
                output.prompt_logprobs[1:],
                prompt[1:],
                right[: len(prompt) - 1],
                asked.prompt_logprobs,
            )
        if asked.logprobs is None:
            assert (answer.logprobs, answer.cumulative_logprob) == (None, None)
            continue
        before = right[len(prompt) - 1 : -1]
        check(answer.logprobs, answer.token_ids, before, asked.logprobs)
        total = sum(row[token] for row, token in zip(before, answer.token_ids, strict=True))
        assert answer.cumulative_logprob == pytest.approx(total, abs=1e-4)
    assert outputs[-1].outputs[0].token_ids == outputs[-2].outputs[0].token_ids


def test_what_is_computed_again_replaces_what_was_there():
    def logprobs(*values):
        chosen = np.array(values, np.float32)
        rank = np.ones(len(values), np.int32)
        return Logprobs(chosen, rank, np.zeros((len(values), 1), np.int32), chosen[:, None])

    records = LogprobRecords(1)
    assert records.put(0, logprobs(-1, -2))
    assert records.put(2, logprobs(-4))
    assert records.total(3) == -7
    assert records.put(0, logprobs(-8))
    assert records.total(3) == -8
    assert not records.put(1, logprobs(np.nan))
