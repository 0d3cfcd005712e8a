"""A job over the real `LLM`: its answers are those of `generate`, its refusals error lines."""

import json
from pathlib import Path

from jobs import request_line, results
from tiny_llama import write_tiny_llama

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
        ("chat", "no chat template"),
    ):
        assert message in found[name]["error"]["message"]


def token_ids(result: dict) -> list[list[int]]:
    return [choice["token_ids"] for choice in result["response"]["body"]["choices"]]
