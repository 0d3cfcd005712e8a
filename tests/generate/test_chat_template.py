"""Conversations through chat templates, against transformers' `apply_chat_template`."""

import datetime
import json

import pytest
from byte_tokenizer import byte_tokenizer
from transformers import AutoTokenizer

from nspjax.errors import RequestError
from nspjax.generate.text.chat_forms import ContentForms, render_fitting
from nspjax.generate.text.chat_process import ChatProcess
from nspjax.generate.text.chat_template import ChatTemplate

PLAIN = """{{ bos_token }}{% for message in messages %}
    {%- if message.role == 'robot' %}{{ raise_exception('no robots here') }}{% endif %}
<|{{ message.role }}|>{{ message.content | trim }}{{ eos_token }}
{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"b": 1, "a": [2, "é<"]}}}
DOCUMENT = {"title": "t", "text": "x"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "é"}}}
SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " 1 < 2? "}]


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """For all templates of this file: a process takes a second to start."""
    process = ChatProcess()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nspjax.generate.text.chat_template.ChatProcess", lambda: process)
        yield
    process.close()


def render(source, messages, tokenizer=None, **options):
    tokenizer = tokenizer or byte_tokenizer(chat_template=source)
    return ChatTemplate(tokenizer).render(messages, **options)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (PLAIN, {}),
        (PLAIN, {"add_generation_prompt": False}),
        (PLAIN, {"add_generation_prompt": False, "continue_final_message": True}),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", {}),
        ("{% for t in tools %}{{ t | tojson(indent=2) }}{% endfor %}", {"tools": [TOOL]}),
        ("{{ tools | tojson(separators=(',', ':'), sort_keys=True) }}", {"tools": [TOOL]}),
        ("{{ tools is none }}{{ documents is none }}{{ image_token }}", {}),
        ("{{ documents[0].title }}", {"documents": [DOCUMENT]}),
        ("{{ thinking }}{{ eos_token }}", {"chat_template_kwargs": {"thinking": True}}),
        ("{{ eos_token }}", {"chat_template_kwargs": {"eos_token": "<other>"}}),
        ("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", {}),
        ("{{ strftime_now('%Y') }}", {}),
    ],
)
def test_a_template_sees_what_transformers_shows_it(source, options):
    tokenizer = byte_tokenizer(chat_template=source, extra_special_tokens={"image_token": "<i>"})
    kwargs = dict(options)
    flat = kwargs.pop("chat_template_kwargs", {})
    kwargs = {"add_generation_prompt": True} | kwargs
    right = tokenizer.apply_chat_template(SAID, tokenize=False, **kwargs, **flat)
    assert render(source, SAID, tokenizer, **options) == right


def test_values_that_do_not_come_from_transformers():
    whole = "<s><|system|>Be brief.</s>\n<|user|>1 < 2?</s>\n<|assistant|>"
    assert render(PLAIN, SAID) == whole
    left_open = whole.removesuffix("</s>\n<|assistant|>")
    assert render(PLAIN, SAID, continue_final_message=True) == left_open
    assert render("{{ strftime_now('%Y') }}", SAID) == str(datetime.date.today().year)


def test_with_tools_the_template_of_that_name_is_taken(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("default")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert render(None, SAID, tokenizer) == "default"
    assert render(None, SAID, tokenizer, tools=[TOOL]) == "tools"
    named = byte_tokenizer(chat_template=[{"name": "tool_use", "template": "tools"}])
    with pytest.raises(RequestError, match="no default"):
        render(None, SAID, named)


def test_a_tool_may_be_a_python_function():
    def add(a: int, b: int = 2):
        """Add two numbers.

        Args:
            a: one
            b: the other
        """

    source = "{{ tools | tojson }}"
    tokenizer = byte_tokenizer(chat_template=source)
    right = tokenizer.apply_chat_template(SAID, tools=[add], tokenize=False)
    assert '"name": "add"' in right
    assert render(source, SAID, tokenizer, tools=[add]) == right
    with pytest.raises(RequestError, match=r"a tool cannot be described: .*docstring"):
        render(source, SAID, tools=[lambda x: x])


@pytest.mark.parametrize(
    ("messages", "options", "complaint"),
    [
        ([], {}, "at least one message"),
        ("hello", {}, "must be a list"),
        ([{"content": "x"}], {}, r'messages\[0\] must be an object with a "role"'),
        ([{"role": "user", "content": 3}], {}, r"messages\[0\].content must be text"),
        ([{"role": "user", "content": {"text": "x"}}], {}, r"content must be text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], {}, "a part that is not text"),
        ([{"role": "user", "content": [{"type": "text"}]}], {}, "a part that is not text"),
        ([{"role": "user", "content": ["x"]}], {}, "a part that is not text"),
        ([{"role": "robot", "content": "x"}], {}, "refuses the messages: no robots here"),
        (SAID, {"tools": ["x"]}, "tools must be a list of objects"),
        (SAID, {"documents": {}}, "documents must be a list of objects"),
        (SAID, {"chat_template_kwargs": {"tokenize": True}}, "holds 'tokenize'"),
        (SAID, {"chat_template_kwargs": {"messages": []}}, "holds 'messages'"),
        (SAID, {"chat_template_kwargs": {"x": {1}}}, "JSON values"),
        (SAID, {"add_generation_prompt": True, "continue_final_message": True}, "one of them"),
    ],
)
def test_what_is_refused(messages, options, complaint):
    with pytest.raises(RequestError, match=complaint) as error:
        render(PLAIN, messages, **options)
    assert len(str(error.value)) < 500


def test_a_tokenizer_may_have_no_template():
    with pytest.raises(RequestError, match="no chat template: give it a prompt"):
        render(None, SAID)


# ---- forms of the same conversation -------------------------------------------------------------

TEXT_ONLY = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"
PARTS = {
    "loop": "{% for m in messages %}[{% for p in m.content %}{{ p.text }}{% endfor %}]{% endfor %}",
    "typed loop": "{% for m in messages %}[{% for p in m['content'] %}{% if p['type'] == 'text' %}"
    "{{ p['text'] }}{% endif %}{% endfor %}]{% endfor %}",
    "filters": "{% for m in messages %}[{{ m.content | map(attribute='text') | join }}]"
    "{% endfor %}",
    "macro": "{% macro show(c) %}{% for p in c %}{{ p.text }}{% endfor %}{% endmacro %}"
    "{% for m in messages %}[{{ show(m.content) }}]{% endfor %}",
    "set": "{% for m in messages %}{% set c = m.content %}[{% for p in c %}{{ p.text }}{% endfor %}"
    "]{% endfor %}",
}
BOTH = "{% for m in messages %}[{% if m.content is string %}{{ m.content }}{% else %}" \
    "{% for p in m.content %}({{ p.text }}){% endfor %}{% endif %}]{% endfor %}"  # fmt: skip
BY_ROLE = "{% for m in messages %}{% if m.role == 'system' %}[{{ m.content }}]{% else %}" \
    "[{% for p in m.content %}{{ p.text }}{% endfor %}]{% endif %}{% endfor %}"  # fmt: skip


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def said(*contents, role="user"):
    return [{"role": role, "content": content} for content in contents]


@pytest.mark.parametrize("source", PARTS.values(), ids=PARTS)
def test_a_template_that_wants_parts_gets_parts(source):
    assert render(source, said("xxa")) == "[xxa]"
    assert render(source, said(parts("xx", "a"))) == "[xxa]"
    assert render(source, said("", "x")) == "[][x]"


def test_a_template_that_wants_text_gets_text():
    assert render(TEXT_ONLY, said(parts("xx", "a"), "b", parts("c"), [])) == "[xx\na][b][c][]"


def test_a_template_may_change_the_text_it_gets():
    assert render("{{ messages[0].content | upper }}", said(parts("xx", "a"))) == "XX\nA"


def test_a_template_that_takes_both_gets_what_was_given():
    assert render(BOTH, said(parts("xx", "a"), "b")) == "[(xx)(a)][b]"


def test_a_template_may_want_another_form_for_each_role():
    system, user = said("be", role="system"), said("x")
    assert render(BY_ROLE, system + user) == "[be][x]"
    system, user = said(parts("b", "e"), role="system"), said(parts("x", "y"))
    assert render(BY_ROLE, system + user) == "[b\ne][xy]"


NO_NONE = {
    "printed": ("[{{ m.content }}]", "[]"),
    "filtered": ("[{{ m.content | trim }}]", "[]"),
    "added": ("{{ '[' + m.content + ']' }}", "[]"),
    "joined": ("[{{ 'x' ~ m.content }}]", "[x]"),
    "parts": ("[{% for p in m.content %}{{ p.text }}{% endfor %}]", "[]"),
    "tested": ("{% if m.content %}[{{ m.content }}]{% endif %}", ""),
    "defined": ("{% if m.content is defined %}[{{ m.content }}]{% endif %}", ""),
    "must be there": (
        "{% if 'content' not in m %}{{ raise_exception('x') }}{% endif %}[{{ m.content }}]",
        "[]",
    ),
    # DeepSeek's: without content means null to it
    "null": (
        "{% if m.content is none %}call{% endif %}"
        "{% if m.content is not none %}{{ '[' + m.content + ']' }}{% endif %}",
        "call",
    ),
}


@pytest.mark.parametrize(("source", "right"), NO_NONE.values(), ids=NO_NONE)
@pytest.mark.parametrize("message", [{"content": None}, {}], ids=["null", "absent"])
def test_a_missing_content_is_not_the_word_none(source, right, message):
    source = "{% for m in messages %}" + source + "{% endfor %}"
    call = [{"role": "assistant", "tool_calls": [CALL], **message}]
    assert render(source, call) == right
    assert render(source, [*said("None"), *call]).count("None") <= 1


def test_null_fields_are_left_out_as_by_transformers():
    source = "{{ messages | tojson }}"
    messages = [{"role": "user", "content": "x", "name": None, "refusal": None}]
    right = byte_tokenizer(chat_template=source).apply_chat_template(messages, tokenize=False)
    assert render(source, messages) == right == '[{"role": "user", "content": "x"}]'


@pytest.mark.parametrize("given", [{"a": 1, "b": "é"}, '{"a": 1, "b": "é"}'], ids=type)
@pytest.mark.parametrize(
    "write",
    [
        "{{ f.arguments | tojson }}",
        "{{ f.arguments }}",
        "{{ '' + f.arguments }}",
        "{{ f.arguments if f.arguments is string else f.arguments | tojson }}",
    ],
)
def test_arguments_are_json_whichever_way_they_come(given, write):
    source = "{% set f = messages[1].tool_calls[0].function %}" + write
    call = {**CALL, "function": {"name": "add", "arguments": given}}
    messages = [*said("x"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert render(source, messages) == '{"a": 1, "b": "é"}'


@pytest.mark.parametrize("wrong", ["{oops", "[" * 20_000], ids=["no JSON", "too deep"])
def test_what_a_model_wrote_may_be_no_json(wrong):
    source = "{{ messages[0].tool_calls[0].function.arguments }}"
    call = {**CALL, "function": {"name": "add", "arguments": wrong}}
    assert render(source, [{"role": "assistant", "tool_calls": [call]}]) == wrong


def test_all_fields_of_a_message_reach_the_template():
    source = "{{ messages | tojson }}"
    result = {"role": "tool", "content": "3", "name": "add", "tool_call_id": "1", "own": [1]}
    assert json.loads(render(source, [*said("x"), result])) == [*said("x"), result]


def test_one_rendering_is_enough_once_a_template_is_known():
    calls = []

    def template(messages):
        calls.append(messages)
        return "".join(message["content"] for message in messages)

    forms = ContentForms()
    assert render_fitting(template, said("a"), forms) == "a"
    del calls[:]
    assert [render_fitting(template, said(text), forms) for text in "bcd"] == ["b", "c", "d"]
    assert len(calls) == 3
