"""Logprobs in result lines: OpenAI's shapes, by the openai package's own types."""

import copy
import json
import math
from typing import Any

import pytest
from jobs import results
from tiny_llama import write_tiny_llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import nspjax
from nspjax.generate.batch.job import BatchJob
from nspjax.generate.batch.logprob_shapes import completion_logprobs
from nspjax.generate.outputs import Logprob

TEMPLATE = "{{ messages[0].content }}{{ reasoning_effort }}"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello "}]
ASKED = {
    "chat": (CHAT, {"messages": HELLO, "logprobs": True, "top_logprobs": 3, "seed": 1}),
    "chat own": (CHAT, {"messages": HELLO, "logprobs": True, "prompt_logprobs": 1}),
    "effort": (CHAT, {"messages": HELLO, "reasoning_effort": "low"}),
    "completion": (COMPLETIONS, {"prompt": "say it", "logprobs": 2, "temperature": 0}),
    "own": (COMPLETIONS, {"prompt": "say it", "logprobs": 0, "temperature": 0}),
    "echo": (COMPLETIONS, {"prompt": "say it", "logprobs": 2, "temperature": 0, "echo": True}),
    "only echo": (
        COMPLETIONS,
        {"prompt": [5, 6, 7], "logprobs": 1, "echo": True, "max_tokens": 0, "n": 2},
    ),
    "plain echo": (COMPLETIONS, {"prompt": "say it", "echo": True, "temperature": 0}),
    "plain": (COMPLETIONS, {"prompt": "say it", "temperature": 0}),
    "truncated": (
        COMPLETIONS,
        {"prompt": "not this say it", "truncate_prompt_tokens": 6, "temperature": 0, "echo": True},
    ),
    "no room": (COMPLETIONS, {"prompt": "say it", "max_tokens": 99}),
    "no such number": (COMPLETIONS, {"prompt": "say it", "presence_penalty": 3}),
    "no such token": (COMPLETIONS, {"prompt": "say it", "logit_bias": {"64": 1}}),
}


def characters() -> PreTrainedTokenizerFast:
    """64 tokens, each a byte of ASCII."""
    letters = [chr(i) for i in [*range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1)]]
    vocabulary = {text: i for i, text in enumerate([*letters, "Ġ", *".,:;!?'-012"][:64])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def answered(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """custom_id -> the response of ASKED."""
    folder = tmp_path_factory.mktemp("job")
    model = write_tiny_llama(folder / "tiny-llama")
    characters().save_pretrained(model)
    source, output = folder / "in.jsonl", folder / "out.jsonl"
    with source.open("w") as file:
        for custom_id, (url, body) in ASKED.items():
            line = {"custom_id": custom_id, "method": "POST", "url": url}
            file.write(json.dumps({**line, "body": {"max_tokens": 5, **body}}) + "\n")
    with (
        nspjax.LLM(str(model), max_model_len=32, max_num_seqs=2, prefill_budget_tokens=32) as llm,
        BatchJob(str(source), str(output), model="tiny-llama") as job,
    ):
        job.run(llm)
    return {name: result["response"] for name, result in results(output).items()}


def choice(answered, name: str) -> dict[str, Any]:
    return answered[name]["body"]["choices"][0]


def test_results_are_what_the_openai_package_reads(answered):
    types = pytest.importorskip("openai.types", reason="needs the package openai")
    for name, (url, _) in ASKED.items():
        if answered[name]["status_code"] != 200:
            continue
        of = types.chat.ChatCompletion if url == CHAT else types.Completion
        body = {"created": 0, **copy.deepcopy(answered[name]["body"])}
        if "echo" in name:  # the first token has no logprob; OpenAI's own types do not say so
            for each in body["choices"]:
                each["logprobs"] = None
        of.model_validate(body, strict=True)


def test_logprobs_of_a_chat(answered):
    content = choice(answered, "chat")["logprobs"]["content"]
    text = choice(answered, "chat")["message"]["content"]
    assert "".join(entry["token"] for entry in content) == text
    for entry in content:
        assert bytes(entry["bytes"]).decode() == entry["token"]
        top = [other["logprob"] for other in entry["top_logprobs"]]
        assert len(top) == 3
        assert top == sorted(top, reverse=True)
        assert entry["logprob"] <= top[0] < 0
    own = answered["chat own"]["body"]
    assert all(entry["top_logprobs"] == [] for entry in own["choices"][0]["logprobs"]["content"])
    first, *others = own["prompt_logprobs"]
    assert first is None
    assert [max(by_id.values(), key=len)["rank"] > 0 for by_id in others] == [True] * 5


def test_the_reasoning_effort_reaches_the_template(answered):
    assert answered["effort"]["body"]["usage"]["prompt_tokens"] == len("hello low")


def test_logprobs_of_a_completion(answered):
    found, own = (choice(answered, name)["logprobs"] for name in ("completion", "own"))
    text = choice(answered, "completion")["text"]
    assert "".join(found["tokens"]) == text
    assert found["text_offset"] == list(range(5))
    assert found["token_logprobs"] == own["token_logprobs"]
    for token, value, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert len(top) == 2
        assert top[token] == value == max(top.values())  # greedy
    assert [len(top) for top in own["top_logprobs"]] == [1] * 5


def test_an_echo_has_the_prompt_too(answered):
    text = choice(answered, "completion")["text"]
    for name in ("echo", "plain echo", "truncated"):
        assert choice(answered, name)["text"] == "say it" + text
    found = choice(answered, "echo")["logprobs"]
    assert "".join(found["tokens"]) == "say it" + text
    assert found["text_offset"] == list(range(11))
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    assert found["token_logprobs"][6:] == pytest.approx(
        choice(answered, "completion")["logprobs"]["token_logprobs"], abs=1e-5
    )
    assert choice(answered, "plain")["logprobs"] is None


def test_an_echo_alone_generates_nothing(answered):
    body = answered["only echo"]["body"]
    assert [each["text"] for each in body["choices"]] == ["fgh", "fgh"]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}
    found = choice(answered, "only echo")
    assert found["token_ids"] == []
    assert found["finish_reason"] == "length"
    assert found["logprobs"]["tokens"] == ["f", "g", "h"]
    assert all(value < 0 for value in found["logprobs"]["token_logprobs"][1:])


@pytest.mark.parametrize(
    ("name", "param"),
    [
        ("no room", "max_tokens"),
        ("no such number", "presence_penalty"),
        ("no such token", "logit_bias"),
    ],
)
def test_errors_name_the_field(answered, name, param):
    assert answered[name]["status_code"] == 400
    assert answered[name]["body"]["error"]["param"] == param


def test_offsets_within_a_text():
    def record(text: str, raw: bytes, logprob: float = -1.0) -> dict[int, Logprob]:
        return {0: Logprob(logprob, 1, text, raw)}

    euro = "€".encode()
    tokens = [(" a", b" a"), ("<s>", b"<s>"), ("bytes:\\xe2", euro[:1]), ("bytes:\\x82", euro[1:]),
              ("b", b"b")]  # fmt: skip
    found = completion_logprobs([record(*token) for token in tokens], "a€b")
    assert found["text_offset"] == [0, 1, 1, 1, 2]
    spoilt = [("bytes:\\x82", euro[1:2]), *tokens, ("bytes:\\xe2", euro[:1]), ("c", b"c")]
    found = completion_logprobs([record(*token) for token in spoilt], "\ufffd a€b\ufffdc")
    assert found["text_offset"] == [0, 1, 3, 3, 3, 4, 5, 6]
    found = completion_logprobs([record("x", b"x", -math.inf)], "x")
    assert found["token_logprobs"] == [-9999.0]
    assert found["top_logprobs"] == [{"x": -9999.0}]
