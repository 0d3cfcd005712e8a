"""A tokenizer whose tokens are bytes: ids 0 to 255 are the bytes' own values."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD, VOCAB = 256, 257, 258, 264
SPECIAL = ["<|bos|>", "<|eos|>", "<|pad|>", *(f"<|reserved_{i}|>" for i in range(VOCAB - 259))]
# A conversation is a comment block; what the model writes below it is the answer.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "# {{ message['role'] }}: {{ message['content'] | trim | replace('\\n', '\\n# ') }}\n"
    "{% endfor %}{% if add_generation_prompt %}{{ '\\n\\n' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes are their own ids; the merge-free BPE only wraps that in the usual file format."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    symbols = {byte: chr(byte) for byte in printable}  # GPT-2's alphabet, as in ByteLevel
    symbols |= {byte: chr(256 + rank) for rank, byte in enumerate(hidden)}
    tokenizer = Tokenizer(models.BPE({symbols[byte]: byte for byte in range(256)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[0]} $A",
        pair=f"{SPECIAL[0]} $A {SPECIAL[0]} $B",
        special_tokens=[(SPECIAL[0], BOS)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        pad_token=SPECIAL[2],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
