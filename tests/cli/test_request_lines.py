"""300 lines with every kind of request, answered in one job: each field of each result is what its
request asks for, and of the openai package's types."""

import contextlib
import copy
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from request_lines.choices import check_choice
from request_lines.expected import CONTEXT, expected_ending, expected_prompts, has_token_ids
from request_lines.logprobs import check_prompt_logprobs
from request_lines.make import ERRORS, FILE, URLS, text
from request_lines.model import write_model
from request_lines.plain_llama import PlainLlama

import nspjax
from nspjax.generate.batch.field_table import served
from nspjax.generate.batch.job import BatchJob

pytest.importorskip("llguidance", reason="needs the extra structured")
types = pytest.importorskip("openai.types", reason="needs the package openai")

LINES = FILE.read_bytes().splitlines()
REQUESTS = {
    line["custom_id"]: {name: value for name, value in line["body"].items() if value is not None}
    for line in map(json.loads, LINES[: -len(ERRORS)])
}
"""The bodies of those that are answered, without what is null."""
SETTINGS = frozenset(
    """
n seed temperature top_k top_p min_p max_tokens min_tokens stop logit_bias allowed_token_ids
presence_penalty frequency_penalty repetition_penalty
""".split()  # noqa: SIM905
)
ALONE = [
    custom_id
    for custom_id, body in REQUESTS.items()
    if (body.get("temperature") == 0 or "seed" in body)
    and body.keys() <= SETTINGS | {"prompt", "messages", "return_token_ids"}
]
"""Requests that are also asked of `generate`, one by one."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint."""
    return write_model(tmp_path_factory.mktemp("model") / "tiny-llama")


@pytest.fixture(scope="module")
def plain(model) -> PlainLlama:
    return PlainLlama(model)


@pytest.fixture(
    scope="module",
    params=["in memory", pytest.param("in a store, speculating", marks=pytest.mark.slow)],
)
def job(request, model, tmp_path_factory) -> tuple[list[dict[str, Any]], dict[str, list]]:
    """The results, and the tokens that `generate` gives."""
    folder = tmp_path_factory.mktemp("lines")
    output, settings = folder / "out.jsonl", {}
    with contextlib.ExitStack() as entered:
        if request.param != "in memory":
            store = entered.enter_context(nspjax.Store(folder, host_memory="64MiB"))
            settings = {"store": store, "share_prefixes": True}
            settings["speculative"] = {"method": "ngram", "num_speculative_tokens": 4}
        llm = entered.enter_context(
            nspjax.LLM(model, max_model_len=CONTEXT, prefill_budget_tokens=16, **settings)
        )
        with BatchJob(str(FILE), str(output), model="tiny-llama") as batch:
            batch.run(llm)
        alone = {custom_id: _tokens_alone(llm, REQUESTS[custom_id]) for custom_id in ALONE}
    return [json.loads(line) for line in output.read_bytes().splitlines()], alone


@pytest.fixture(scope="module")
def results(job) -> dict[str, dict[str, Any]]:
    return {result["custom_id"]: result for result in job[0]}


def for_each(custom_ids: Iterable[str], check: Callable[[str], None]) -> None:
    """Check them all, whichever is wrong. (As tests of their own, they would be divided among
    pytest's processes, and the job would run in each.)"""
    wrong = []
    for custom_id in custom_ids:
        try:
            check(custom_id)
        except Exception as error:
            error.add_note(f"of line {custom_id}")
            wrong.append(error)
    if wrong:
        raise ExceptionGroup("results that are not as they must be", wrong)


def _tokens_alone(llm: nspjax.LLM, body: dict[str, Any]) -> list[list[int]]:
    params = nspjax.SamplingParams(**{name: body[name] for name in SETTINGS & body.keys()})
    prompts = [{"prompt_token_ids": tokens} for tokens in expected_prompts(body)]
    found = [output for prompt in prompts for output in llm.generate(prompt, params)]
    return [list(answer.token_ids) for output in found for answer in output.outputs]


def test_the_file_is_what_its_script_makes():
    assert FILE.read_text(encoding="utf-8") == text()
    assert len(LINES) == 300


@pytest.mark.parametrize("endpoint", URLS)
def test_each_served_field_is_in_an_answered_line(endpoint):
    bodies = [body for custom_id, body in REQUESTS.items() if f" {endpoint}, " in custom_id]
    assert served(URLS[endpoint]) <= {name for body in bodies for name in body}


def test_every_line_has_one_result(job):
    found, _ = job
    assert sorted(result["custom_id"] for result in found) == [*REQUESTS, *ERRORS]
    assert len({result["id"] for result in found}) == len(LINES)
    for result in found:
        digest = result["id"].removeprefix("batch_req_")
        assert result["response"]["request_id"] == f"req_{digest}"


def test_lines_that_are_refused_say_why(results):
    for_each(ERRORS, lambda custom_id: _check_error(results[custom_id], ERRORS[custom_id]))


def _check_error(result: dict[str, Any], expected: Mapping[str, Any]) -> None:
    assert result.keys() == {"id", "custom_id", "response", "error"}
    assert result["response"].keys() == {"status_code", "request_id", "body"}
    assert result["response"]["status_code"] == 400
    body = result["response"]["body"]
    assert body.keys() == {"error"}
    error = body["error"]
    parsed = types.ErrorObject.model_validate(error, strict=True)
    assert parsed.to_dict() == error
    assert (error["param"], error["code"]) == (expected["param"], expected["code"]), error
    assert error["type"] == "invalid_request_error"
    assert expected["message"] in error["message"]
    assert error["param"] in (None, "url") or error["param"] in error["message"]
    assert result["error"] == {"code": error["code"], "message": error["message"]}


def test_answers_are_of_openais_types(results):
    for_each(REQUESTS, lambda custom_id: _check_types(results[custom_id], REQUESTS[custom_id]))


def _check_types(result: dict[str, Any], asked: dict[str, Any]) -> None:
    assert result.keys() == {"id", "custom_id", "response", "error"}
    assert result["error"] is None
    assert result["response"].keys() == {"status_code", "request_id", "body"}
    assert result["response"]["status_code"] == 200, result
    body = copy.deepcopy(result["response"]["body"])
    if asked.get("echo") and asked.get("logprobs") is not None:
        for choice in body["choices"]:  # before the first token is nothing: their type lacks that
            for name, nothing in (("token_logprobs", 0.0), ("top_logprobs", {})):
                assert choice["logprobs"][name][0] is None
                choice["logprobs"][name][0] = nothing
    kind = types.chat.ChatCompletion if "messages" in asked else types.Completion
    parsed = kind.model_validate(body, strict=True)
    assert parsed.to_dict() == body
    expected = {"stop_reason"} | ({"prompt_logprobs"} & asked.keys())
    if has_token_ids(asked):
        expected |= {"token_ids", "prompt_token_ids"}
    assert set(_not_openais(parsed)) == expected


def _not_openais(value: Any) -> Iterator[str]:
    """Names of fields that their types do not have."""
    if isinstance(value, list):
        for each in value:
            yield from _not_openais(each)
    elif hasattr(value, "model_fields_set"):
        yield from value.model_extra or ()
        for name in value.model_fields_set - (value.model_extra or {}).keys():
            yield from _not_openais(getattr(value, name))


def test_answers_are_what_their_requests_ask_for(results, plain):
    for_each(
        REQUESTS,
        lambda custom_id: _check_answer(results[custom_id], REQUESTS[custom_id], plain),
    )


def _check_answer(result: dict[str, Any], asked: dict[str, Any], plain: PlainLlama) -> None:
    body = result["response"]["body"]
    chat, n = "messages" in asked, asked.get("n", 1)
    prompts = expected_prompts(asked)
    fields = {"id", "object", "created", "model", "system_fingerprint", "choices", "usage"}
    if chat:
        fields |= {"prompt_token_ids"} if has_token_ids(asked) else set()
        fields |= {"prompt_logprobs"} & asked.keys()
    assert body.keys() == fields
    digest = result["id"].removeprefix("batch_req_")
    assert body["id"] == ("chatcmpl-" if chat else "cmpl-") + digest
    assert body["object"] == ("chat.completion" if chat else "text_completion")
    assert body["model"] == "tiny-llama"
    assert time.time() - 3600 < body["created"] <= time.time()
    choices = body["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(prompts) * n))
    counts = [check_choice(asked, each, prompts[each["index"] // n], plain) for each in choices]
    usage = body["usage"]
    assert usage["prompt_tokens"] == sum(map(len, prompts))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    if None not in counts:
        assert usage["completion_tokens"] == sum(counts)
    if asked.get("temperature", 1) < 1e-5:
        for choice in choices:
            assert _said(choice) == _said(choices[choice["index"] // n * n])
    for place in [body] if chat else choices:
        prompt, n_top = prompts[0 if chat else place["index"] // n], asked.get("prompt_logprobs")
        if n_top is not None:
            logits = plain.logits(tuple(prompt))
            check_prompt_logprobs(n_top, place["prompt_logprobs"], prompt, logits)
        if has_token_ids(asked):
            assert place["prompt_token_ids"] == prompt


def _said(choice: dict[str, Any]) -> Any:
    """What is the same in all answers to a prompt that are greedy."""
    calls = choice.get("message", {}).get("tool_calls", [])
    functions = [call["function"] for call in calls]
    return choice["finish_reason"], choice.get("token_ids"), choice["logprobs"], functions


def test_answers_are_those_of_generate(job, results):
    _, alone = job
    assert len(alone) > 15
    for custom_id, tokens in alone.items():
        asked, body = REQUESTS[custom_id], results[custom_id]["response"]["body"]
        prompts = expected_prompts(asked)
        for choice, found in zip(body["choices"], tokens, strict=True):
            assert choice.get("token_ids", found) == found, custom_id
            prompt = prompts[choice["index"] // asked.get("n", 1)]
            text = expected_ending(asked, prompt, found).text
            assert text == (choice["message"]["content"] if "message" in choice else choice["text"])
