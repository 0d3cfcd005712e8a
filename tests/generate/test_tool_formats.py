"""Calls as models write them, read; the texts are those of the models' cards and templates."""

import json
from pathlib import Path

import pytest

from nspjax import LLM
from nspjax.errors import InvalidArgumentError, RequestError
from nspjax.generate.tools.calls import ReadAnswer, ToolCall
from nspjax.generate.tools.choice import Tools, tools_of
from nspjax.generate.tools.formats import (
    FORMATS,
    Function,
    Mistral,
    format_in,
    format_named,
)

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-python-llama"
HERMES, LLAMA, MISTRAL = FORMATS["hermes"], FORMATS["llama3_json"], FORMATS["mistral"]
PARIS = ToolCall("get_weather", '{"city": "Paris", "unit": "celsius"}')
OSLO = ToolCall("get_weather", '{"city": "Oslo"}')


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (
            '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "unit": '
            '"celsius"}}\n</tool_call>',
            None,
            [PARIS],
        ),
        (  # the other order, text before, two calls
            'Let me see.\n<tool_call>\n{"arguments": {"city": "Oslo"}, "name": "get_weather"}\n'
            '</tool_call>\n<tool_call>{"name":"get_weather","arguments":{"city":"Paris","unit":'
            '"celsius"}}</tool_call>',
            "Let me see.",
            [OSLO, PARIS],
        ),
        (  # the end token came before the closing tag
            '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}',
            None,
            [OSLO],
        ),
        (  # tags in the arguments
            '<tool_call>{"name": "f", "arguments": {"a": "</tool_call><tool_call>{}"}}</tool_call>',
            None,
            [ToolCall("f", '{"a": "</tool_call><tool_call>{}"}')],
        ),
        (  # what does not parse stays text
            '<tool_call>{"name": "f", "arguments": {</tool_call> <tool_call>{"name": "get_weather",'
            ' "arguments": {"city": "Oslo"}}</tool_call>',
            '<tool_call>{"name": "f", "arguments": {</tool_call>',
            [OSLO],
        ),
    ],
)
def test_hermes(text, content, calls):
    assert HERMES.read(text) == ReadAnswer(content, tuple(calls))


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (
            '{"name": "get_weather", "parameters": {"city": "Paris", "unit": "celsius"}}',
            None,
            [PARIS],
        ),
        ('<|python_tag|>{"name": "get_weather", "parameters": {"city": "Oslo"}}', None, [OSLO]),
        (
            'I call <|python_tag|>{"name": "get_weather", "parameters": {"city": "Oslo"}}; '
            '{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}\n',
            "I call",
            [OSLO, PARIS],
        ),
    ],
)
def test_llama(text, content, calls):
    assert LLAMA.read(text) == ReadAnswer(content, tuple(calls))


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (
            '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris", "unit": '
            '"celsius"}}, {"name": "get_weather", "arguments": {"city": "Oslo"}, "id": "a1"}]',
            None,
            [PARIS, OSLO],
        ),
        ('Well. [TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}', "Well.", [OSLO]),
        (
            '[TOOL_CALLS]get_weather[CALL_ID]x9[ARGS]{"city": "Oslo"}'
            '[TOOL_CALLS]get_weather{"city": "Paris", "unit": "celsius"}',
            None,
            [OSLO, PARIS],
        ),
    ],
)
def test_mistral(text, content, calls):
    assert MISTRAL.read(text) == ReadAnswer(content, tuple(calls))


BROKEN = [
    "",
    "Hello",
    '{"a": 1}',
    '[1, {"name": "f"}]',
    '{"name": "f"}',
    '{"name": 3, "%s": {}}',
    '{"name": "", "%s": {}}',
    '{"name": "f", "%s": "text"}',
    '{"name": "f", "%s": {"x": NaN}}',
    '{"name": "f", "%s": {"x": "\\ud800"}}',
    '{"name": "f", "%s": {"x": 1}',
    "[" * 100_000,
    '{"name": "f", "%s": {"x": ' + "9" * 5000 + "}}",
]


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize(
    ("reader", "wrapped", "key"),
    [
        (HERMES, "<tool_call>{}</tool_call>", "arguments"),
        (LLAMA, "<|python_tag|>{}", "parameters"),
        (LLAMA, "{}", "parameters"),
        (MISTRAL, "[TOOL_CALLS][{}]", "arguments"),
    ],
)
def test_what_is_no_call_is_text(reader, wrapped, key, broken):
    assert reader.read(wrapped.replace("{}", broken.replace("%s", key))) is None


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{% if tools %}<tools>…</tools> answer in <tool_call></tool_call>{% endif %}", "hermes"),
        ('<tool_call>\n{"name": … "parameters": …}\n</tool_call>', "hermes"),
        ("<tool_call>\n<function=f>\n<parameter=x>\n", None),
        ('<|start_header_id|>user<|end_header_id|> {"name": …, "parameters": {…}}', "llama3_json"),
        ("{{ '<|python_tag|>' }}", "llama3_json"),
        ("{{ '[TOOL_CALLS] [' + calls + ']' }}", "mistral"),
        ('{"name": …, "parameters": {…}} in some other notation', None),
        ("{% for message in messages %}{{ message.content }}{% endfor %}", None),
    ],
)
def test_the_template_tells_the_format(template, name):
    found = format_in(template)
    assert (found and found.name) == name


def test_newer_mistral_models_name_the_function_first():
    assert format_in("[TOOL_CALLS] [ARGS]") == Mistral(named=True)


def test_an_unknown_format_is_refused_with_those_there_are():
    with pytest.raises(InvalidArgumentError, match="hermes, llama3_json, mistral"):
        format_named("pythonic")


def test_a_model_writes_calls_in_the_format_that_is_named():
    with LLM(EXAMPLE, max_model_len=16) as auto, LLM(EXAMPLE, tool_call_parser="mistral") as named:
        assert auto.tools is not None
        assert named.tools is not None
        assert auto.tools.format is None  # its template does not tell
        assert named.tools.format == FORMATS["mistral"]
        with pytest.raises(RequestError, match="--tool-call-parser"):
            auto.tools.form(Tools((Function("f", {}),), required=True))


# ---- what a request says of tools ---------------------------------------------------------------

F = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
G = {"type": "function", "function": {"name": "g", "strict": True}}


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, True, (["f", "g"], False, True)),
        ("auto", False, (["f", "g"], False, False)),
        ("required", True, (["f", "g"], True, True)),
        ("required", False, (["f", "g"], True, False)),
        ({"type": "function", "function": {"name": "g"}}, True, (["g"], True, False)),
    ],
)
def test_choices(choice, parallel, expected):
    tools = tools_of([F, G], choice, parallel)
    assert ([f.name for f in tools.functions], tools.required, tools.several) == expected


def test_none_and_no_tools():
    assert tools_of([F], "none") is tools_of([], "auto") is tools_of(None) is None


def test_a_function_without_parameters_takes_none():
    (function,) = tools_of([G]).functions
    assert json.loads(json.dumps(function.parameters))["additionalProperties"] is False


@pytest.mark.parametrize(
    ("tools", "choice", "parallel", "param"),
    [
        ("f", None, True, "tools"),
        ([{"type": "function"}], None, True, "tools[0]"),
        ([F, {"function": {"name": ""}}], None, True, "tools[1]"),
        (
            [{"function": {"name": "f", "parameters": []}}],
            None,
            True,
            "tools[0].function.parameters",
        ),
        ([F], "any", True, "tool_choice"),
        ([F], {"type": "function", "function": {"name": "h"}}, True, "tool_choice"),
        ([F], {"type": "allowed_tools"}, True, "tool_choice"),
        ([], "required", True, "tool_choice"),
        ([F], "auto", "no", "parallel_tool_calls"),
    ],
)
def test_wrong_tools_are_refused_by_field(tools, choice, parallel, param):
    with pytest.raises(RequestError) as refused:
        tools_of(tools, choice, parallel)
    assert refused.value.param == param
