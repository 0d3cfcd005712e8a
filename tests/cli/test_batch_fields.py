"""The body of a request: fields that are understood, ignored and refused."""

from typing import Any

import pytest

from nspjax.errors import RequestError
from nspjax.generate.batch.fields import BatchRequest, parse_request
from nspjax.generate.batch.lines import BatchLine
from nspjax.generate.structured import StructuredOutputsParams
from nspjax.generate.tools.choice import tools_of

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def parsed(body: dict[str, Any], url: str = COMPLETIONS, custom_id: str = "a") -> BatchRequest:
    return parse_request(
        BatchLine(custom_id, url, body, "0"), lambda m, **_: f"chat:{m}", job_seed=0
    )


def refusal(body: dict[str, Any], url: str = COMPLETIONS) -> RequestError:
    with pytest.raises(RequestError) as error:
        parsed(body, url)
    return error.value


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("x", ("x",)),
        ([1, 2], ({"prompt_token_ids": [1, 2]},)),
        (["x", "y"], ("x", "y")),
        ([[1], [2, 3]], ({"prompt_token_ids": [1]}, {"prompt_token_ids": [2, 3]})),
    ],
)
def test_forms_of_a_prompt(prompt: Any, prompts: Any):
    assert parsed({"prompt": prompt}).prompts == prompts


@pytest.mark.parametrize("prompt", [None, 3, [], [[]], [1, "x"], [True], {"a": 1}, [1.5]])
def test_what_is_no_prompt(prompt: Any):
    error = refusal({"prompt": prompt})
    assert '"prompt" must be a text' in str(error)
    assert error.param == "prompt"  # pyright: ignore


def test_settings_of_a_completion():
    body = {
        "prompt": "x",
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.1,
        "stop": "\n",
        "stop_token_ids": [7],
        "seed": 11,
        "n": 2,
        "ignore_eos": True,
        "min_tokens": 2,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.5,
        "include_stop_str_in_output": True,
        "truncate_prompt_tokens": 7,
        "logprobs": 3,
        "prompt_logprobs": 1,
    }
    params = parsed(body).params
    for name in body.keys() - {"prompt", "stop", "stop_token_ids"}:
        assert getattr(params, name) == body[name]
    assert params.stop == ("\n",)
    assert params.stop_token_ids == (7,)


def test_defaults_are_openais():
    assert parsed({"prompt": "x"}).params.max_tokens == 16
    assert parsed({"prompt": "x", "max_tokens": None}).params.max_tokens == 16
    assert parsed({"prompt": "x"}).params.temperature == 1.0
    assert parsed({"messages": HELLO}, CHAT).params.max_tokens is None


def test_chat():
    asked = parsed({"messages": HELLO, "max_completion_tokens": 4, "max_tokens": 9}, CHAT)
    assert asked.prompts == (f"chat:{HELLO}",)
    assert asked.params.max_tokens == 4
    assert asked.chat


def test_token_ids_come_back_where_they_were_given_or_asked_for():
    assert not parsed({"prompt": "x"}).return_token_ids
    assert parsed({"prompt": [1]}).return_token_ids
    assert not parsed({"prompt": [1], "return_token_ids": False}).return_token_ids
    assert parsed({"prompt": "x", "return_token_ids": True}).return_token_ids


def test_each_request_has_a_seed_of_its_own():
    seeds = [parsed({"prompt": "x"}, custom_id=name).params.seed for name in ("a", "b", "a")]
    assert seeds[0] == seeds[2] != seeds[1]
    other_job = parse_request(BatchLine("a", COMPLETIONS, {"prompt": "x"}, "0"), str, job_seed=1)
    assert other_job.params.seed not in seeds


@pytest.mark.parametrize(
    "ignored",
    [
        {"user": "me"},
        {"metadata": {"a": "b"}},
        {"logprobs": None},
        {"logprobs": False},
        {"presence_penalty": 0},
        {"frequency_penalty": 0.0},
        {"best_of": 1},
        {"stream": False},
        {"response_format": {"type": "text"}},
        {"tools": []},
        {"guided_json_object": False},
        {"guided_decoding_backend": "xgrammar"},
    ],
)
def test_what_asks_for_nothing_is_let_pass(ignored: dict[str, Any]):
    assert parsed({"prompt": "x"} | ignored).prompts == ("x",)


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ({"skip_special_tokens": False}, "unsupported_field"),
        ({"stream": True}, "unsupported_field"),
        ({"best_of": 2}, "unsupported_field"),
        ({"response_format": {"type": "xml"}}, "invalid_value"),
        ({"guided_json": 3}, "invalid_value"),
        ({"guided_regex": ""}, "invalid_value"),
        ({"guided_choice": "ab"}, "invalid_value"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "invalid_value"),
        ({"structured_outputs": {"xml": 1}}, "invalid_value"),
        ({"length_penalty": 0.1}, "unsupported_field"),
        ({"tools": [{"type": "function"}]}, "unsupported_field"),
        ({"temprature": 0.1}, "unknown_field"),
        ({"messages": HELLO}, "unknown_field"),
        ({"return_token_ids": 1}, "invalid_value"),
        ({"model": 1}, "invalid_value"),
    ],
)
def test_what_would_change_the_answer_is_refused(field: dict[str, Any], code: str):
    error = refusal({"prompt": "x"} | field)
    (name,) = field
    assert error.code == code  # pyright: ignore
    assert error.param == name  # pyright: ignore
    assert name in str(error)


@pytest.mark.parametrize(
    "field",
    [
        {"max_tokens": 0},
        {"max_tokens": "8"},
        {"max_tokens": 1.5},
        {"temperature": -1},
        {"temperature": "hot"},
        {"top_p": 0},
        {"n": 0},
        {"n": True},
        {"stop": 3},
        {"stop": [""]},
        {"seed": "x"},
        {"stop_token_ids": "x"},
        {"ignore_eos": 1},
        {"logprobs": 21},
        {"logprobs": True},
        {"echo": 1},
        {"max_tokens": 0, "echo": False},
        {"prompt_logprobs": -1},
        {"logit_bias": {"x": 1}},
        {"min_tokens": 17},
        {"add_special_tokens": 1},
    ],
)
def test_wrong_values(field: dict[str, Any]):
    (name, *_) = field
    error = refusal({"prompt": "x"} | field)
    assert name in str(error)
    assert error.param == name


@pytest.mark.parametrize(
    "field",
    [
        {"logprobs": 1},
        {"top_logprobs": 1},  # without logprobs
        {"top_logprobs": 21, "logprobs": True},
        {"top_logprobs": True, "logprobs": True},
        {"reasoning_effort": 1},
        {"echo": True},
        {"max_tokens": 0},
    ],
)
def test_wrong_values_of_a_chat(field: dict[str, Any]):
    (name, *_) = field
    assert refusal({"messages": HELLO} | field, CHAT).param == name


def test_logprobs_of_both_endpoints():
    assert parsed({"prompt": "x", "logprobs": 0}).params.logprobs == 0
    assert parsed({"prompt": "x", "logprobs": 5}).params.logprobs == 5
    assert parsed({"messages": HELLO, "logprobs": True}, CHAT).params.logprobs == 0
    chat = {"messages": HELLO, "logprobs": True, "top_logprobs": 20, "prompt_logprobs": 0}
    asked = parsed(chat, CHAT)
    assert (asked.params.logprobs, asked.params.prompt_logprobs) == (20, 0)
    assert asked.prompt_logprobs
    assert parsed({"messages": HELLO, "logprobs": False}, CHAT).params.logprobs is None


def test_an_echo_asks_for_the_prompts_logprobs_as_well():
    asked = parsed({"prompt": "x", "logprobs": 2, "echo": True})
    assert (asked.params.logprobs, asked.params.prompt_logprobs) == (2, 2)
    assert (asked.echo, asked.only_echo, asked.prompt_logprobs) == (True, False, False)
    assert parsed({"prompt": "x", "echo": True}).params.prompt_logprobs is None
    assert parsed({"prompt": "x", "echo": True, "max_tokens": 0}).only_echo


def test_max_tokens_is_clipped_where_it_is_the_default():
    assert parsed({"prompt": "x"}).clip_max_tokens
    assert not parsed({"prompt": "x", "max_tokens": 4}).clip_max_tokens
    assert not parsed({"messages": HELLO, "max_completion_tokens": 4}, CHAT).clip_max_tokens


def test_add_special_tokens_comes_with_the_text():
    body = {"prompt": ["x", "y"], "add_special_tokens": False}
    asked = parsed(body)
    assert asked.prompts[1] == {"prompt": "y", "add_special_tokens": False}
    assert not asked.return_token_ids
    assert parsed(body | {"add_special_tokens": True}).prompts == ("x", "y")


@pytest.mark.parametrize(
    "messages",
    [None, [], "hi", ["hi"], [{"content": "hi"}]],
)
def test_what_is_no_conversation(messages: Any):
    assert "messages" in str(refusal({"messages": messages}, CHAT))


TOOLS = [{"type": "function", "function": {"name": "f"}}]


def test_what_is_for_the_chat_template_is_handed_on():
    asked: list[dict[str, Any]] = []

    def chat_prompt(messages: Any, **for_template: Any) -> str:
        asked.append(for_template)
        return "prompt"

    def ask(**fields: Any) -> dict[str, Any]:
        line = BatchLine("a", CHAT, {"messages": HELLO, **fields}, "0")
        parse_request(line, chat_prompt, job_seed=0)
        return asked.pop()

    given = {
        "tools": TOOLS,
        "documents": [{"title": "t", "text": "x"}],
        "chat_template_kwargs": {"enable_thinking": False},
        "add_generation_prompt": False,
        "continue_final_message": True,
        "add_special_tokens": True,
    }
    assert ask(**given) == given
    assert ask(reasoning_effort="low") == {"chat_template_kwargs": {"reasoning_effort": "low"}}
    assert ask() == ask(tools=None, documents=None) == ask(tools=[]) == {}
    assert ask(tools=TOOLS, tool_choice="auto") == {"tools": TOOLS}
    assert ask(tools=TOOLS, tool_choice="none") == {}


@pytest.mark.parametrize(
    "field",
    [
        {"tools": {}},
        {"documents": "x"},
        {"chat_template_kwargs": []},
        {"add_generation_prompt": 1},
        {"continue_final_message": "content"},
        {"tool_choice": "required"},
        {"tool_choice": TOOLS[0]},
        {"parallel_tool_calls": "no"},
        {"chat_template": "{{ 1 }}"},
    ],
)
def test_what_a_chat_template_cannot_get(field: dict[str, Any]):
    (name,) = field
    assert f'"{name}"' in str(refusal({"messages": HELLO, **field}, CHAT))


def test_unknown_endpoint():
    assert 'no endpoint "/v1/embeddings"' in str(refusal({"input": "x"}, "/v1/embeddings"))


# ---- the form of an answer ----------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
                }
            },
            {"json": SCHEMA},
        ),
        ({"guided_json": SCHEMA}, {"json": SCHEMA}),
        ({"guided_json": "{}", "guided_whitespace_pattern": " "},
         {"json": "{}", "whitespace_pattern": " "}),
        ({"guided_regex": "a+"}, {"regex": "a+"}),
        ({"guided_choice": ["a", "b"]}, {"choice": ["a", "b"]}),
        ({"guided_grammar": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
        ({"guided_json_object": True}, {"json_object": True}),
        ({"structured_outputs": {"regex": "a", "disable_fallback": True}}, {"regex": "a"}),
        ({"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}},
         {"json": SCHEMA, "disable_any_whitespace": True}),
        ({"response_format": {"type": "structural_tag", "structures": [], "triggers": []}},
         {"structural_tag": {"structures": [], "triggers": []}}),
    ],
)  # fmt: skip
def test_forms_in_all_spellings(field: dict[str, Any], expected: dict[str, Any]):
    for url, body in ((COMPLETIONS, {"prompt": "x"}), (CHAT, {"messages": HELLO})):
        request = parsed(body | field, url)
        assert request.params.structured_outputs == StructuredOutputsParams(**expected)
        assert request.form is not None
        assert request.form.field == next(iter(field))


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}},
         "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}}},
         "response_format.json_schema.strict"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex"),
        ({"tools": TOOLS, "tool_choice": "required", "guided_regex": "a"}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
    ],
)  # fmt: skip
def test_wrong_forms_are_refused_by_field(field: dict[str, Any], param: str):
    error = refusal({"messages": HELLO, **field}, CHAT)
    assert error.param == param  # pyright: ignore


def test_an_answer_of_a_form_is_no_call():
    request = parsed({"messages": HELLO, "tools": TOOLS, "guided_regex": "a"}, CHAT)
    assert request.tools is None
    assert parsed({"messages": HELLO, "tools": TOOLS}, CHAT).tools == tools_of(TOOLS)
