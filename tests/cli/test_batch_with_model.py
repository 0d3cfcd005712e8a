"""A job over the real `LLM`: its answers are those of `generate`, its refusals error lines."""

import json
from pathlib import Path
from typing import Any

from jobs import request_line, results
from tiny_llama import write_tiny_llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import nspjax
from nspjax.generate.batch.job import BatchJob


def test_answers_and_refusals(tmp_path: Path):
    prompts = [[1, 2, 3], [7] * 20, [5]]
    hello = {"messages": [{"role": "user", "content": "hello"}]}
    chat = {"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions", "body": hello}
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    with source.open("w") as file:
        for i, prompt in enumerate(prompts):
            file.write(request_line(str(i), prompt=prompt, max_tokens=6, temperature=0))
        file.write(request_line("together", prompt=prompts, max_tokens=6, temperature=0))
        file.write(request_line("drawn", prompt=[4, 4], n=2, max_tokens=6))
        file.write(request_line("too long", prompt=[1] * 32))
        file.write(request_line("no token", prompt=[1, 64]))
        file.write(request_line("text", prompt="def main():"))
        file.write(json.dumps(chat) + "\n")

    model = write_tiny_llama(tmp_path / "tiny-llama")
    with (
        nspjax.LLM(str(model), max_model_len=32, max_num_seqs=2) as llm,
        BatchJob(str(source), str(output), model="tiny-llama") as job,
    ):
        progress = job.run(llm)
        expected = llm.generate(prompts, nspjax.SamplingParams(max_tokens=6, temperature=0))

    assert (progress.answered, progress.refused) == (5, 4)
    found = results(output)
    expected_ids = [list(answer.outputs[0].token_ids) for answer in expected]
    assert [token_ids(found[str(i)]) for i in range(3)] == [[ids] for ids in expected_ids]
    assert token_ids(found["together"]) == expected_ids
    assert len(token_ids(found["drawn"])) == 2
    assert found["0"]["response"]["body"]["usage"]["prompt_tokens"] == 3
    for name, message in (
        ("too long", "the prompt has 32 tokens, and the context of 32"),
        ("no token", "prompt_token_ids holds 64"),
        ("text", "no tokenizer"),
        ("chat", "no chat template can be used"),
    ):
        assert message in found[name]["error"]["message"]


def test_what_a_template_and_a_tokenizer_raise_costs_their_request_only(tmp_path: Path):
    template = (
        "{% set text = messages[0].content %}{% if text == 'fail' %}{{ 1 / 0 }}{% endif %}"
        "{% if text == 'half' %}{{ half }} {% endif %}{{ text }}"
    )
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model = write_tiny_llama(tmp_path / "tiny-llama")
    loaded = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template)
    loaded.save_pretrained(model)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    with source.open("w") as file:
        for i, text in enumerate(("w1", "fail", "half", "w2")):
            body = {"messages": [{"role": "user", "content": text}], "max_tokens": 2, "seed": 1}
            body["chat_template_kwargs"] = {"half": "w1 w3"}
            line = {"custom_id": str(i), "method": "POST", "url": "/v1/chat/completions"}
            file.write(json.dumps({**line, "body": body}) + "\n")
    with (
        nspjax.LLM(str(model), max_model_len=32, max_num_seqs=2) as llm,
        BatchJob(str(source), str(output), model="tiny-llama") as job,
    ):
        assert llm.tokenizer is not None
        decode = llm.tokenizer.decode

        def fail_at_w3(ids: list[int], **options: Any) -> Any:
            if 3 in ids[:2]:
                raise RecursionError("deep")
            return decode(ids, **options)

        llm.tokenizer.decode = fail_at_w3  # pyright: ignore
        progress = job.run(llm)
    assert (progress.answered, progress.refused) == (2, 2)
    found = results(output)
    assert "ZeroDivisionError" in found["1"]["error"]["message"]
    assert "cannot decode the tokens: RecursionError: deep" in found["2"]["error"]["message"]
    assert found["3"]["response"]["body"]["usage"]["prompt_tokens"] == 1


def token_ids(result: dict) -> list[list[int]]:
    return [choice["token_ids"] for choice in result["response"]["body"]["choices"]]
