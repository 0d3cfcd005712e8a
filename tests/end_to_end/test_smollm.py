"""A real instruct model from its GGUF file, against transformers' own loading of that file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest

for package in ("torch", "accelerate"):
    pytest.importorskip(package, reason=f"transformers loads GGUF files with {package} only")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(3600)]

from nspjax import LLM, SamplingParams, Store  # noqa: E402

N_NEW = 16
NOISE = 1e-3
"""Logits closer than this are equal to float32 after 30 layers; they are about 10 apart from the
mean."""
QUESTIONS = [
    "What is the capital of France?",
    "Write one sentence about rivers.",
    "Name three primary colours.",
    "How many legs does a spider have?",
    "Translate 'good morning' into French.",
    "What does the Python keyword 'yield' do?",
    "Give me a short proverb about time.",
    "Which planet is the largest?",
]
TOPICS = ["assert", "lambda", "with", "exceptions", "integers", "function", "import", "execmodel"]
LONG = {
    "debugger": ["Which command lists the source code?", "How do I set a breakpoint?"],
    "string-methods": ["What does casefold() do?", "How is a text centred?"],
}


@dataclasses.dataclass(frozen=True)
class Greedy:
    """tokens: of the answer. margins: the best logit minus the second, before each of them."""

    tokens: tuple[int, ...]
    margins: tuple[float, ...]


def conversations() -> list[str]:
    """20 user messages; the last four are beyond 4096 tokens, two and two about one document."""
    short = [f"{topics[name]}\n\nWhat is this about?" for name in TOPICS]
    long = [f"{topics[name][:16_800]}\n\n{asked}" for name in LONG for asked in LONG[name]]
    return [*QUESTIONS, *short, *long]


@pytest.fixture(scope="module")
def prompts(smollm: Path) -> list[dict[str, Any]]:
    with LLM(smollm, max_model_len=64, max_num_seqs=1) as llm:
        asked = [llm.chat_prompt([{"role": "user", "content": c}]) for c in conversations()]
    lengths = [len(prompt["prompt_token_ids"]) for prompt in asked]
    assert len(lengths) == 20
    assert sum(n > 4096 for n in lengths) == 4
    return asked


@pytest.fixture(scope="module")
def theirs(smollm: Path, prompts: Sequence[dict[str, Any]]) -> list[Greedy]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm.parent, gguf_file=smollm.name)
    model = AutoModelForCausalLM.from_pretrained(
        smollm.parent, gguf_file=smollm.name, dtype=torch.float32
    ).eval()
    found = []
    for prompt, content in zip(prompts, conversations(), strict=True):
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        assert list(prompt["prompt_token_ids"]) == list(rendered)
        found.append(greedy(model, rendered))
    return found


def greedy(model: Any, prompt: Sequence[int]) -> Greedy:
    import torch

    tokens, margins = [], []
    with torch.no_grad():
        out = model(torch.tensor([list(prompt)]), use_cache=True, logits_to_keep=1)
        for _ in range(N_NEW):
            best = out.logits[0, -1].topk(2)
            tokens.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
            if tokens[-1] == model.config.eos_token_id:
                break
            out = model(
                torch.tensor([[tokens[-1]]]), past_key_values=out.past_key_values, use_cache=True
            )
    return Greedy(tuple(tokens), tuple(margins))


@pytest.fixture(params=["memory", "file", "file shared"])
def llm(request, smollm: Path, tmp_path: Path) -> Iterator[LLM]:
    settings = {"dtype": "float32", "max_model_len": 5120, "max_num_seqs": 4}
    if request.param == "memory":
        with LLM(smollm, **settings) as llm:
            yield llm
        return
    with (
        Store(tmp_path, host_memory="256MiB", pinned=0) as store,
        LLM(smollm, store=store, share_prefixes="shared" in request.param, **settings) as llm,
    ):
        yield llm


def test_greedy_answers(llm: LLM, prompts: list[dict[str, Any]], theirs: list[Greedy]) -> None:
    """Equal, but for a choice between two that are equal within float32's noise: after it an answer
    goes another way."""
    outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=N_NEW))
    ties = []
    for i, (output, expected) in enumerate(zip(outputs, theirs, strict=True)):
        ours = tuple(output.outputs[0].token_ids)
        if ours == expected.tokens:
            continue
        pairs = zip(ours, expected.tokens, strict=False)
        at = next(n for n, (a, b) in enumerate(pairs) if a != b)
        assert expected.margins[at] < NOISE, (i, at, ours, expected)
        ties.append(i)
    print(f"{len(ties)} ties, smallest margin {min(min(t.margins) for t in theirs):.2g}")
    assert len(ties) <= 1
    assert len({tuple(output.outputs[0].token_ids) for output in outputs}) > 15
    assert np.mean([len(t.tokens) for t in theirs]) > 8
