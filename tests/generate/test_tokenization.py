import pytest
from byte_tokenizer import BOS, EOS, byte_tokenizer

from nspjax.errors import CheckpointError
from nspjax.generate import tokenization


def test_a_character_cut_in_half_is_dropped_at_the_end_and_shown_in_the_middle():
    tokenizer = byte_tokenizer()
    euro = list("€".encode())
    assert tokenization.decode(tokenizer, [*b"1 ", *euro]) == "1 €"
    assert tokenization.decode(tokenizer, [*b"1 ", *euro[:2]]) == "1 "
    assert tokenization.decode(tokenizer, [*euro[:2], *b" 1"]) == "\ufffd 1"


def test_special_tokens_are_not_text():
    assert tokenization.decode(byte_tokenizer(), [BOS, *b"a", EOS]) == "a"


@pytest.mark.parametrize("text", ["def f(x):", "naïve 😀 €", "\n\n", "a" * 300])
@pytest.mark.parametrize("stop", ["def", "😀", "\n\n", "aaa", "ïve 😀"])
def test_a_stop_text_is_found_at_the_token_that_completes_it(text, stop):
    tokenizer = byte_tokenizer()
    tokens = list(text.encode())
    found = next(
        (n for n in range(1, len(tokens) + 1)
         if tokenization.find_stop(tokenizer, tokens[:n], ["not there", stop])),
        None,
    )  # fmt: skip
    at = text.encode().find(stop.encode())
    assert found == (None if at < 0 else at + len(stop.encode()))


def test_of_several_stop_texts_the_one_that_begins_first_counts():
    tokens = list(b"x END")
    assert tokenization.find_stop(byte_tokenizer(), tokens, ["D", "END", "ND"]) == "END"
    assert tokenization.cut_at_stop("x END", "END") == "x "


def test_special_tokens_are_added_where_wanted():
    tokenizer = byte_tokenizer(add_bos=True)
    assert tokenization.encode(tokenizer, "a", special_tokens=True) == (BOS, ord("a"))
    assert tokenization.encode(tokenizer, "<s>a", special_tokens=False) == (BOS, ord("a"))


def test_a_directory_may_have_no_tokenizer_but_not_a_broken_one(tmp_path):
    assert tokenization.load_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        tokenization.load_tokenizer(tmp_path)
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    loaded = tokenization.load_tokenizer(tmp_path)
    assert loaded is not None
    assert tokenization.encode(loaded, "hé", special_tokens=True) == tuple("hé".encode())
