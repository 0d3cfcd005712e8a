"""The table of fields: in the documentation, and as OpenAI and vLLM have them."""

from pathlib import Path

import pytest

from nspjax.errors import RequestError
from nspjax.generate.batch.field_table import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    IGNORED,
    UNSUPPORTED,
    served,
    table,
)
from nspjax.generate.batch.fields import _TEMPLATE, parse_request
from nspjax.generate.batch.lines import BatchLine

DOCS = Path(__file__).parents[2] / "docs" / "run-batch.md"
VLLM = frozenset(
    """
use_beam_search top_k min_p repetition_penalty length_penalty stop_token_ids min_tokens ignore_eos
include_stop_str_in_output skip_special_tokens spaces_between_special_tokens allowed_token_ids
truncate_prompt_tokens truncation_side prompt_logprobs bad_words echo add_generation_prompt
continue_final_message add_special_tokens documents chat_template chat_template_kwargs
media_io_kwargs mm_processor_kwargs structured_outputs priority request_id logits_processors
return_tokens_as_token_ids return_token_ids cache_salt kv_transfer_params vllm_xargs prompt_embeds
include_reasoning guided_json guided_regex guided_choice guided_grammar guided_decoding_backend
guided_whitespace_pattern structural_tag thinking_token_budget repetition_detection
""".split()  # noqa: SIM905
)
"""Of its CompletionRequest and ChatCompletionRequest, as of 2026, beside OpenAI's."""

VALUES = {
    "prompt": "x",
    "messages": [{"role": "user", "content": "x"}],
    "temperature": 0.5,
    "seed": 1,
    "logit_bias": {"1": 1.0},
    "documents": [{"text": "x"}],
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "auto",
    "response_format": {"type": "json_object"},
    "structured_outputs": {"regex": "a"},
    "structural_tag": "{}",
    "guided_json": "{}",
    "guided_regex": "a",
    "guided_choice": ["a"],
    "guided_grammar": "a",
    "chat_template_kwargs": {},
    "reasoning_effort": "low",
    "bad_words": ["x"],
    "stop": "x",
    "stop_token_ids": [1],
    "allowed_token_ids": [1],
    "model": "m",
    "max_tokens": 3,
    "truncate_prompt_tokens": 3,
    "max_completion_tokens": 3,
    "top_logprobs": 0,
}


def test_the_documentation_has_the_codes_table():
    assert table() in DOCS.read_text()  # python -m nspjax.generate.batch.field_table


@pytest.mark.parametrize("url", [COMPLETIONS, CHAT_COMPLETIONS])
def test_what_is_said_to_be_served_is(url):
    prompt = "prompt" if url == COMPLETIONS else "messages"
    for name in served(url):
        body = {prompt: VALUES[prompt]}
        assert any(_is_taken(url, body | {name: value}) for value in (VALUES.get(name), True, 1))


def _is_taken(url, body):
    try:
        parse_request(BatchLine("a", url, body, "0"), _prompt, job_seed=0)
    except RequestError:
        return False
    return True


def _prompt(_messages, **arguments):
    assert arguments.keys() <= _TEMPLATE.keys()
    return "x"


def test_vllms_fields_are_known():
    known = served(COMPLETIONS) | served(CHAT_COMPLETIONS) | IGNORED | UNSUPPORTED.keys()
    assert known >= VLLM


@pytest.mark.parametrize("url", [COMPLETIONS, CHAT_COMPLETIONS])
def test_openais_fields_are_known(url):
    types = pytest.importorskip("openai.types", reason="needs the package openai")
    of = types.completion_create_params if url == COMPLETIONS else (
        types.chat.completion_create_params
    )  # fmt: skip
    fields = of.CompletionCreateParamsBase.__annotations__.keys() | {"stream"}
    assert len(fields) > 15
    assert fields - served(url) - IGNORED - UNSUPPORTED.keys() == set()
