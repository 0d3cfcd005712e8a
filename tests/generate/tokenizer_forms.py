"""Small tokenizers of the forms that checkpoints have, as transformers holds them."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>"]
WORDS = ["▁hello", "▁world", "▁the", "▁▁", "▁", "é", "€", "😀", "\ufffd", ",", "END", "▁x", "x"]


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's and Llama 3's: tokens are bytes, and some runs of bytes that cut characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = {text: i for i, text in enumerate([*SPECIAL, *alphabet])}
    merges = []
    for text in (" the", " hello", "€", " €", "😀", "\ufffd", "END", "\n\n"):
        word = as_bytes.pre_tokenize_str(text)[0][0]
        for end in range(1, len(word)):
            if word[: end + 1] not in vocabulary:
                vocabulary[word[: end + 1]] = len(vocabulary)
                merges.append((word[:end], word[end]))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = as_bytes
    tokenizer.decoder = decoders.ByteLevel()
    return _loaded(tokenizer)


def metaspace() -> PreTrainedTokenizerFast:
    """As Llama 2's: a space is "▁", the first one is dropped, unknown characters are bytes."""
    vocabulary = {text: i for i, text in enumerate(SPECIAL)}
    for text in [*(f"<0x{byte:02X}>" for byte in range(256)), *WORDS, *"▁abcdehlortwyEND\n.!"]:
        vocabulary.setdefault(text, len(vocabulary))
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return _loaded(tokenizer)


def unigram(**settings) -> PreTrainedTokenizerFast:
    """As T5's: a vocabulary of pieces with scores."""
    pieces = [*SPECIAL, *WORDS, *"abcdehlortw\n.!"]
    vocabulary = [(piece, -float(i)) for i, piece in enumerate(dict.fromkeys(pieces))]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _loaded(tokenizer, **settings)


def _loaded(tokenizer: Tokenizer, **settings) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", **settings
    )
