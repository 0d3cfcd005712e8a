import json

import pytest

from nspjax.errors import CheckpointError, RequestError
from nspjax.generate.chat_template import ChatTemplate

TEMPLATE = """{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}
<|{{ message.role }}|>{{ message.content | trim }}{{ eos_token }}
{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " 1 < 2? "}]
RENDERED = "<s><|system|>Be brief.</s>\n<|user|>1 < 2?</s>\n<|assistant|>"


def write_config(directory, **fields):
    (directory / "tokenizer_config.json").write_text(json.dumps(fields))


def test_a_conversation_is_rendered_with_the_checkpoints_tokens(tmp_path):
    write_config(tmp_path, chat_template=TEMPLATE, bos_token="<s>", eos_token={"content": "</s>"})
    template = ChatTemplate.load(tmp_path)
    assert template is not None
    assert template.render(MESSAGES, add_generation_prompt=True) == RENDERED
    without = template.render(MESSAGES, add_generation_prompt=False)
    assert without == RENDERED.removesuffix("<|assistant|>")


def test_the_template_may_have_a_file_of_its_own_or_be_one_of_several(tmp_path):
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}]
    write_config(tmp_path, chat_template=named)
    assert ChatTemplate.load(tmp_path).source == "yes"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert ChatTemplate.load(tmp_path).source == "file"


def test_a_checkpoint_may_have_no_template(tmp_path):
    assert ChatTemplate.load(tmp_path) is None
    write_config(tmp_path, bos_token="<s>")
    assert ChatTemplate.load(tmp_path) is None


def test_a_broken_config_is_named(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json is not JSON"):
        ChatTemplate.load(tmp_path)


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    template = ChatTemplate("{{ messages[0].content }}", {})
    messages = [{"role": "user", "content": parts}]
    assert template.render(messages, add_generation_prompt=True) == "a\nb"


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "at least one message"),
        ("hello", "must be a list"),
        ([{"content": "x"}], r'messages\[0\] must be an object with a "role"'),
        ([{"role": "user", "content": 3}], r"messages\[0\].content must be text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "a part that is not text"),
        ([{"role": "tool", "content": "x"}], "no tools here"),
    ],
)
def test_bad_messages_are_refused(messages, complaint):
    template = ChatTemplate(TEMPLATE, {})
    with pytest.raises(RequestError, match=complaint):
        template.render(messages, add_generation_prompt=True)


def test_the_template_runs_in_a_sandbox():
    source = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(RequestError, match="unsafe"):
        ChatTemplate(source, {}).render(MESSAGES, add_generation_prompt=True)
