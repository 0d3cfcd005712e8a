"""The model that answers `request_lines.jsonl`: a tiny Llama, whose tokens are known by heart.

Token i is byte i; then come pieces of several bytes, then added tokens, the last of them special.
"""

from __future__ import annotations

from pathlib import Path

from tiny_llama import write_tiny_llama
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CALL = '<tool_call>{"name": "clock", "arguments": {"zone": "UTC"}}</tool_call>'
"""One token, so that a model of random weights can be led to write a call."""
_WORDS = [
    " the",
    " and",
    " answer",
    "ing",
    "er",
    "on",
    ": ",
    "{}",
    '": ',
    "\n\n",
    "日",
    "é",
    "ok",
    "<n>",
]
_ADDED = ["<tool_call>", "</tool_call>", CALL]
_SPECIAL = ["<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = """\
{{- bos_token }}
{%- for tool in tools or [] %}{{ tool.function.name }};{% endfor %}
{%- for document in documents or [] %}{{ document.text }};{% endfor %}
{%- if reasoning_effort %}{{ reasoning_effort }};{% endif %}
{%- if enable_thinking is defined %}think={{ enable_thinking }};{% endif %}
{%- for message in messages %}
    {%- if message.role not in ['system', 'developer', 'user', 'assistant', 'tool'] %}
        {{- raise_exception('no role is called ' ~ message.role) }}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ (message.content or '') }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>' ~ call.function.arguments | tojson ~ '</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def _visible() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary, as in GPT-2."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def _merges() -> list[tuple[bytes, bytes]]:
    """Those that make the words, from left to right."""
    texts = [word.encode() for word in _WORDS]
    pairs = [(text[:i], text[i : i + 1]) for text in texts for i in range(1, len(text))]
    return list(dict.fromkeys(pairs))


TOKENS: list[bytes] = [
    *(bytes([byte]) for byte in range(256)),
    *(left + right for left, right in _merges()),
    *(text.encode() for text in [*_ADDED, *_SPECIAL]),
]
"""The bytes of each token; of a special one, its name's."""
SPECIAL = frozenset(range(len(TOKENS) - len(_SPECIAL), len(TOKENS)))
IDS = {text: token for token, text in enumerate(TOKENS)}
BOS, EOS, IM_START, IM_END = sorted(SPECIAL)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs, a BOS before a prompt, a template that writes its own."""
    visible = _visible()

    def written(text: bytes) -> str:
        return "".join(visible[byte] for byte in text)

    n_pieces = len(TOKENS) - len(_ADDED) - len(_SPECIAL)
    vocabulary = {written(text): token for token, text in enumerate(TOKENS[:n_pieces])}
    merges = [(written(left), written(right)) for left, right in _merges()]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken(text, normalized=False) for text in _ADDED])
    made.add_special_tokens(_SPECIAL)
    made.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<|bos|>", eos_token="<|eos|>", chat_template=TEMPLATE
    )


def write_model(folder: Path) -> Path:
    """A checkpoint with tokenizer and chat template, always the same."""
    write_tiny_llama(folder, vocab_size=len(TOKENS), eos_token_id=[EOS, IM_END])
    tokenizer().save_pretrained(folder)
    return folder
