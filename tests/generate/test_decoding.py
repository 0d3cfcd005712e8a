"""Answers' texts and stop texts, against transformers' decoding of all tokens."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_forms import byte_level, metaspace, unigram
from tokenizers import decoders

from nspjax.errors import RequestError
from nspjax.generate.answer import Answer
from nspjax.generate.sampling_params import SamplingParams
from nspjax.generate.text.stop_texts import StopTexts, StopWatch
from nspjax.generate.text.token_texts import TokenTexts
from nspjax.generate.text.tokenization import answer_text

FORMS = {
    "byte_level": byte_level,
    "metaspace": metaspace,
    "unigram": unigram,
    "clean_up": lambda: unigram(clean_up_tokenization_spaces=True),
}
TEXTS = st.lists(st.sampled_from(["é", "€", "😀", "\ufffd", " ", "\n", "hello the", " ,", "END"]))


@functools.cache
def tokenizer_of(form):
    return FORMS[form]()


@st.composite
def token_ids(draw, form, most_times=1):
    """Tokens of text, tokens at random (bytes that are no text among them), and cut-off ones."""
    tokenizer = tokenizer_of(form)
    any_token = st.integers(0, len(tokenizer) + 2)
    ids = []
    for _ in range(draw(st.integers(0, 3))):
        ids += tokenizer.encode("".join(draw(TEXTS)), add_special_tokens=False)
        ids += draw(st.lists(any_token, max_size=4))
        del ids[len(ids) - draw(st.integers(0, 2)) :]
    return ids * draw(st.integers(1, most_times))


def decoded(form, ids):
    return tokenizer_of(form).decode(ids, skip_special_tokens=True)


def common(a, b):
    return max(n for n in range(len(a) + 1) if b.startswith(a[:n]))


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_prompt_and_answer_make_the_text_of_all_tokens(form, data):
    ids = data.draw(token_ids(form))
    split = data.draw(st.integers(0, len(ids)))
    prompt, whole = decoded(form, ids[:split]), decoded(form, ids)
    text = answer_text(tokenizer_of(form), ids[:split], ids[split:])
    assert prompt[: common(prompt, whole)] + text == whole
    if whole.startswith(prompt):
        assert prompt + text == whole


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_stop_text_is_found_as_if_all_tokens_were_decoded_after_each(form, data):
    prompt, answer = data.draw(token_ids(form, 8)), data.draw(token_ids(form, 8))
    answer += data.draw(token_ids(form))
    full = decoded(form, prompt + answer)
    stops = []
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, max(0, len(full) - 1)))
        if data.draw(st.booleans()):
            begin = max(0, len(full) - 1 - begin % 12)  # near the end: found late, if at all
        stops.append(full[begin : begin + data.draw(st.integers(1, 5))] or "END")
    if len(prompt + answer) > 40:  # see StopWatch on runs of bytes that are no text
        stops = [stop for stop in stops if "\ufffd" not in stop] or ["END"]
    stops = [stop for stop in stops if "<" not in stop] or ["END"]
    assert streamed(form, prompt, answer, stops) == by_decoding_all(form, prompt, answer, stops)


def streamed(form, prompt, answer, stops):
    watch = StopWatch(StopTexts.of(tokenizer_of(form), stops), prompt)
    for n in range(1, len(answer) + 1):
        if (found := watch.found(answer[:n])) is not None:
            return n, *found
    return None


def by_decoding_all(form, prompt, answer, stops):
    before = decoded(form, prompt)
    for n in range(1, len(answer) + 1):
        after = decoded(form, prompt + answer[:n])
        text = after[common(before, after) :].rstrip("\ufffd")
        found = [(text.find(stop), -len(stop), stop) for stop in stops if stop in text]
        if found:
            return n, text[: min(found)[0]], min(found)[2]
    return None


def ids_of(form, *tokens):
    return tokenizer_of(form).convert_tokens_to_ids(list(tokens))


def bytes_of(text):
    return ids_of("metaspace", *(f"<0x{byte:02X}>" for byte in text.encode()))


X = ids_of("metaspace", "x")


@pytest.mark.parametrize(
    ("form", "prompt", "answer", "text"),
    [
        ("metaspace", ids_of("metaspace", "▁hello"), ids_of("metaspace", "▁world"), " world"),
        ("metaspace", ids_of("metaspace", "<s>"), ids_of("metaspace", "▁hello"), "hello"),
        ("metaspace", [], ids_of("metaspace", "▁▁", "x"), " x"),
        ("metaspace", ids_of("metaspace", "x"), ids_of("metaspace", "▁▁", "x"), "  x"),
        ("unigram", ids_of("unigram", "▁hello"), ids_of("unigram", "▁world"), " world"),
        ("clean_up", ids_of("unigram", "▁hello", "▁"), ids_of("unigram", ","), ","),
        # a character that the prompt began and the answer ends is the answer's
        ("metaspace", [*X, *bytes_of("€")[:1]], bytes_of("€")[1:], "€"),
        ("metaspace", X, bytes_of("€")[:2], "\ufffd\ufffd"),
        ("metaspace", X, bytes_of("\ufffd"), "\ufffd"),
        ("metaspace", [*X, *bytes_of("\0")], bytes_of("€")[:1], "\ufffd\ufffd"),
        ("metaspace", X, ids_of("metaspace", "</s>", "x", "</s>", "<tool>"), "x<tool>"),
    ],
)  # fmt: skip
def test_the_text_of_an_answer(form, prompt, answer, text):
    assert answer_text(tokenizer_of(form), prompt, answer) == text


@pytest.mark.parametrize(
    ("prompt", "answer", "stops", "expected"),
    [
        ("hello", " world", [" "], (1, "", " ")),  # at the very beginning
        ("EN", "D END", ["END"], (5, "D ", "END")),  # not across prompt and answer
        ("", "x END", ["D", "END", "ND"], (5, "x ", "END")),  # the first in the text
        ("", "aab", ["a", "aa"], (1, "", "a")),  # at the token that completes it
        ("", "x\ufffdy", ["\ufffd"], (3, "x", "\ufffd")),
    ],
)
def test_where_a_stop_text_is_found(prompt, answer, stops, expected):
    prompt, answer = (ids_of("metaspace", *text.replace(" ", "▁")) for text in (prompt, answer))
    assert streamed("metaspace", prompt, answer, stops) == expected


@pytest.mark.parametrize("n_before", range(4))
def test_a_stop_text_is_found_at_the_end_of_a_long_run_of_bytes(n_before):
    """Wherever the window begins; special tokens take no room in it."""
    text = "a" * n_before + "😀€" * 30 + "é" * 7
    answer = [*bytes_of(text), *bytes_of("E"), *[2] * 200, *bytes_of("ND")]
    assert streamed("metaspace", X, answer, ["END"]) == (len(answer), text, "END")


@pytest.mark.parametrize("n_bytes", [1, 2])
def test_half_a_character_is_no_stop_text(n_bytes):
    half = bytes_of("€")[:n_bytes]
    assert streamed("metaspace", X, half, ["\ufffd"]) is None
    assert streamed("metaspace", X, bytes_of("€x"), ["\ufffd"]) is None
    # once it is clear that it stays half, it is text
    spoiled = [*half, *X]
    assert streamed("metaspace", X, spoiled, ["\ufffd"]) == (n_bytes + 1, "", "\ufffd")


def test_a_stop_text_with_a_special_token_in_it_is_refused():
    tokenizer = tokenizer_of("metaspace")
    stops = StopTexts.of(tokenizer, ["</s>", "x", "<tool>"])
    assert stops.tokens == {tokenizer.eos_token_id: "</s>"}
    with pytest.raises(RequestError, match=r"special token '</s>'.*use stop_token_ids=\[2\]"):
        StopTexts.of(tokenizer, ["x</s>"])


@pytest.mark.parametrize("stop", ["</s>", "xx"])
def test_an_answer_ends_at_its_stop_text(stop):
    tokenizer = tokenizer_of("metaspace")
    params = SamplingParams(stop=stop)
    answer = Answer(
        X, params, index=0, seed=0, max_tokens=9, end_tokens=(), tokenizer=tokenizer,
        stops=StopTexts.of(tokenizer, params.stop_texts),
    )  # fmt: skip
    said = ids_of("metaspace", "h", *(["</s>"] if stop == "</s>" else "xx"))
    answer.accept(said[0])
    answer.restart()
    assert [answer.accept(token) for token in said] == [False] * (len(said) - 1) + [True]
    output = answer.output(TokenTexts(tokenizer))
    assert (output.text, output.finish_reason, output.stop_reason) == ("h", "stop", stop)
    assert answer.stop_tokens == ([2] if stop == "</s>" else [])


def test_a_token_costs_the_same_however_long_the_answer_is(monkeypatch):
    form, tokenizer = "metaspace", tokenizer_of("metaspace")
    lengths = []
    decode = tokenizer.decode
    monkeypatch.setattr(
        tokenizer, "decode", lambda ids, **kw: (lengths.append(len(ids)), decode(ids, **kw))[1]
    )
    prompt, answer = bytes_of("😀€ hello") * 100, [*bytes_of("😀\n€"), 2] * 200
    assert streamed(form, prompt, answer, ["END", "never"]) is None
    assert max(lengths) <= 2 * (4 * len("never") + 16)
    assert len(lengths) < 1.5 * len(answer)


def test_what_a_decoder_raises_is_the_requests_error():
    tokenizer = unigram()
    tokenizer.backend_tokenizer.decoder = decoders.Strip(" ", 1, 1)  # panics at " "
    tokenizer.add_tokens([" "])
    with pytest.raises(RequestError, match="the tokenizer cannot decode the tokens"):
        answer_text(tokenizer, [], [len(tokenizer) - 1])
