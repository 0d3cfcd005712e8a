import random

import pytest
from byte_tokenizer import EOS, byte_tokenizer
from tiny_decoder import ScriptedDecoder, TinyConfig, TinyDecoder, greedy_by_hand, scripted

from nspjax.errors import InvalidArgumentError, RequestError, StoreFullError
from nspjax.generate import LLM, Request, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=10)


@pytest.fixture(scope="module")
def model():
    return TinyDecoder()


@pytest.fixture(scope="module")
def llm(model):
    with LLM(model, max_num_seqs=4, prefill_budget_tokens=32, steps_per_call=8) as made:
        yield made


def random_prompts(seed, lengths):
    draw = random.Random(seed)
    return [[draw.randrange(48) for _ in range(length)] for length in lengths]


def llm_that_says(text, **options):
    """An LLM over bytes that answers "?" with `text`, again and again."""
    config = options.pop("config", {})
    options = {"max_num_seqs": 2, "steps_per_call": 4, "prefill_budget_tokens": 16} | options
    return LLM(scripted(text, ord("?"), **config), tokenizer=byte_tokenizer(), **options)


@pytest.fixture(scope="module")
def alphabet():
    """Answers "?" with a to i, again and again."""
    with llm_that_says("abcdefghi") as made:
        yield made


# ---- generate -----------------------------------------------------------------------------------


def test_greedy_answers_are_those_of_the_plainest_loop(model, llm):
    prompts = random_prompts(0, [1, 70, 5, 16, 17, 100, 33, 2, 64])
    answers = [list(output.outputs[0].token_ids) for output in llm.generate(prompts, GREEDY)]
    assert answers == greedy_by_hand(model, prompts, 10)


def test_outputs_are_complete_and_in_the_order_of_the_prompts(llm):
    prompts = random_prompts(1, [3, 40, 7, 9, 2, 12])
    params = [SamplingParams(temperature=0, max_tokens=n) for n in (17, 1, 9, 2, 8, 3)]
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params)
    assert [output.request_id for output in outputs] == list("012345")
    assert [list(output.prompt_token_ids) for output in outputs] == prompts
    assert [len(output.outputs[0].token_ids) for output in outputs] == [17, 1, 9, 2, 8, 3]
    only = outputs[0].outputs[0]
    assert (only.index, only.text, only.finish_reason, only.stop_reason) == (0, "", "length", None)
    assert outputs[0].prompt is None


def test_one_prompt_need_not_stand_in_a_list(alphabet):
    for prompt in ("?", {"prompt": "?"}, [ord("?")], {"prompt_token_ids": [ord("?")]}):
        (output,) = alphabet.generate(prompt, GREEDY)
        assert output.outputs[0].text == "abcdefghia"
    both = {"prompt": "what?", "prompt_token_ids": [ord("?")]}
    assert alphabet.generate(both, GREEDY)[0].prompt == "what?"
    assert alphabet.generate([]) == []
    assert len(alphabet.generate(["?"])[0].outputs[0].token_ids) == 16


# ---- when an answer ends ------------------------------------------------------------------------


def test_the_models_end_token_ends_an_answer_unless_ignored():
    follower = [*range(258)]
    follower[ord("?")], follower[ord("a")], follower[EOS] = ord("a"), EOS, ord("b")
    config = TinyConfig(vocab_size=258, n_layers=1, eos_token_ids=(EOS,))
    decoder = ScriptedDecoder(follower, config)
    with LLM(decoder, tokenizer=byte_tokenizer(), max_num_seqs=2, steps_per_call=4) as llm:
        ended, ignored, at_once = llm.generate(
            ["?", "?", "a"],
            [GREEDY, SamplingParams(temperature=0, max_tokens=5, ignore_eos=True), GREEDY],
        )
    first = ended.outputs[0]
    assert (first.text, first.token_ids) == ("a", (ord("a"), EOS))
    assert (first.finish_reason, first.stop_reason) == ("stop", None)
    assert ignored.outputs[0].text == "abbb"
    assert ignored.outputs[0].finish_reason == "length"
    assert at_once.outputs[0].token_ids == (EOS,)
    assert at_once.outputs[0].text == ""


@pytest.mark.parametrize("n_others", [0, 20], ids=["in the loop's table", "beyond it"])
def test_a_stop_token_ends_an_answer(alphabet, n_others):
    stops = [*range(n_others), ord("f")]
    params = SamplingParams(temperature=0, max_tokens=30, stop_token_ids=stops)
    outputs = alphabet.generate(["?", "?", "?"], params)
    for answer in (output.outputs[0] for output in outputs):
        assert (answer.text, bytes(answer.token_ids)) == ("abcde", b"abcdef")
        assert (answer.finish_reason, answer.stop_reason) == ("stop", ord("f"))


@pytest.mark.parametrize("stop", ["defg", "g", ["never", "fg", "g"]], ids=str)
def test_a_stop_text_ends_an_answer_and_is_no_part_of_it(alphabet, stop):
    # 4 steps a call: "defg" begins in one call and ends in the next
    (output,) = alphabet.generate("?", SamplingParams(temperature=0, max_tokens=40, stop=stop))
    answer = output.outputs[0]
    found = stop if isinstance(stop, str) else "fg"
    assert answer.text == "abcdefg".removesuffix(found)
    assert bytes(answer.token_ids) == b"abcdefg"
    assert (answer.finish_reason, answer.stop_reason) == ("stop", found)


def stopped(alphabet, **settings):
    params = SamplingParams(temperature=0, max_tokens=30, **settings)
    (output,) = alphabet.generate("?", params)
    answer = output.outputs[0]
    return answer.text, bytes(answer.token_ids), answer.stop_reason


def test_a_stop_text_may_stay_in_the_answer(alphabet):
    keep = {"include_stop_str_in_output": True}
    assert stopped(alphabet, stop="cd", **keep) == ("abcd", b"abcd", "cd")
    assert stopped(alphabet, stop_token_ids=[ord("d")], **keep) == ("abcd", b"abcd", ord("d"))
    assert stopped(alphabet, stop_token_ids=[ord("d")]) == ("abc", b"abcd", ord("d"))


@pytest.mark.parametrize("least", [1, 2, 3, 4, 5, 12])
def test_a_stop_text_does_not_end_an_answer_before_min_tokens(alphabet, least):
    found = stopped(alphabet, stop="bc", min_tokens=least)
    # "bc" is there after 3 tokens and after 12; half of it before min_tokens is not seen
    whole = {1: "abc", 12: "abcdefghiabcdefghiabc"}.get(least, "abcdefghiabc")
    assert found == (whole.removesuffix("bc"), whole.encode(), "bc")


def test_several_greedy_answers_are_the_same_and_run_once(alphabet):
    before = alphabet.stats().generated_tokens
    (output,) = alphabet.generate("?", SamplingParams(temperature=0, max_tokens=3, n=128))
    assert [answer.index for answer in output.outputs] == [*range(128)]
    assert {answer.text for answer in output.outputs} == {"abc"}
    assert alphabet.stats().generated_tokens == before + 3


def test_a_prompt_may_be_cut_at_its_beginning(alphabet):
    def kept(n_tokens, max_tokens=2):
        params = SamplingParams(
            temperature=0, max_tokens=max_tokens, truncate_prompt_tokens=n_tokens
        )
        request = Request("a", "x" * 300 + "?", params, with_text=True)
        (output,) = alphabet.stream([request])
        assert output.outputs[0].text == "ab"
        assert output.prompt == bytes(output.prompt_token_ids).decode()
        return output.prompt

    assert kept(3) == "xx?"
    assert kept(-1) == "x" * 125 + "?"  # the context is 128
    with pytest.raises(RequestError, match="leaves no room for a prompt"):
        kept(-1, max_tokens=128)
    with pytest.raises(RequestError, match="the prompt has 301 tokens"):
        kept(301)


def test_max_tokens_beyond_the_context_is_clipped_or_refused(alphabet):
    params = SamplingParams(temperature=0, max_tokens=200)
    (output,) = alphabet.stream([Request("a", "?" * 100, params)])
    assert len(output.outputs[0].token_ids) == 28
    with pytest.raises(RequestError, match=r"context of 128.*has room for 28") as error:
        alphabet.prepare(Request("a", "?" * 100, params, clip_max_tokens=False))
    assert error.value.param == "max_tokens"
    alphabet.prepare(
        Request("a", "?" * 100, SamplingParams(max_tokens=None), clip_max_tokens=False)
    )


def test_special_tokens_are_added_unless_it_is_said():
    with LLM(scripted("ab", ord("?")), tokenizer=byte_tokenizer(add_bos=True)) as llm:
        ids = [llm.prepare(Request("a", {"prompt": "?", "add_special_tokens": add})).token_ids
               for add in (True, False)]  # fmt: skip
    assert ids == [(256, ord("?")), (ord("?"),)]


def test_a_character_that_was_cut_off_is_shown_as_such():
    said = "é€😀."
    with llm_that_says(said) as llm:
        texts = [
            llm.generate("?", SamplingParams(temperature=0, max_tokens=n))[0].outputs[0].text
            for n in range(1, 11)
        ]
    assert texts == [said.encode()[:n].decode(errors="replace") for n in range(1, 11)]


def test_the_context_ends_an_answer():
    with llm_that_says("abc", config={"max_position_tokens": 64}, max_model_len=12) as llm:
        for max_tokens in (None, 100):
            (output,) = llm.generate("1234?", SamplingParams(temperature=0, max_tokens=max_tokens))
            assert output.outputs[0].text == "abcabca"
            assert output.outputs[0].finish_reason == "length"


# ---- sampling -----------------------------------------------------------------------------------


def test_a_seed_gives_the_same_answer_again_and_no_seed_another(llm):
    prompts = random_prompts(2, [5])
    seeded = SamplingParams(max_tokens=20, seed=-5, top_p=0.95)
    assert llm.generate(prompts, seeded) == llm.generate(prompts, seeded)
    free = SamplingParams(max_tokens=20, temperature=2.0)
    assert llm.generate(prompts, free) != llm.generate(prompts, free)


def test_answer_i_of_n_is_the_one_of_seed_plus_i(llm):
    prompts = random_prompts(3, [5, 20])
    several = SamplingParams(max_tokens=7, temperature=1.5, seed=10, n=5)
    outputs = llm.generate(prompts, several)
    assert [answer.index for answer in outputs[1].outputs] == [0, 1, 2, 3, 4]
    assert len({answer.token_ids for answer in outputs[1].outputs}) > 1
    for i in range(5):
        (alone,) = llm.generate(
            [prompts[1]], SamplingParams(max_tokens=7, temperature=1.5, seed=10 + i)
        )
        assert alone.outputs[0].token_ids == outputs[1].outputs[i].token_ids


def test_a_temperature_beyond_float32_makes_all_tokens_as_likely(llm):
    prompts = random_prompts(4, [5])
    hot = [SamplingParams(max_tokens=9, seed=1, temperature=t) for t in (1e30, 1e300, 10**300)]
    ids = [llm.generate(prompts, params)[0].outputs[0].token_ids for params in hot]
    assert ids[0] == ids[1] == ids[2]


# ---- stream -------------------------------------------------------------------------------------


def requests_of(prompts, max_tokens):
    return [
        Request(f"r{i}", prompt, SamplingParams(temperature=0, max_tokens=n))
        for i, (prompt, n) in enumerate(zip(prompts, max_tokens, strict=True))
    ]


def test_a_stream_yields_what_finishes_first_and_reads_lazily(llm):
    taken = []

    def source():
        for request in requests_of(random_prompts(4, [4] * 20), [90, 2] + [5] * 18):
            taken.append(request.request_id)
            yield request

    before = llm.stats()
    order = []
    for output in llm.stream(source()):
        if not order:
            assert len(taken) <= 8, "a batch, and as many ahead"
            assert llm.stats().rows_running + llm.stats().rows_waiting < 8
            assert all(1 <= so_far < most <= 90 for so_far, most in llm.stats().running)
        order.append(output.request_id)
    assert sorted(order) == sorted(taken)
    assert order[0] == "r1"
    assert order[-1] == "r0"
    after = llm.stats()
    assert after.requests_finished - before.requests_finished == 20
    assert after.prompt_tokens - before.prompt_tokens == 80
    assert after.generated_tokens - before.generated_tokens == 90 + 2 + 5 * 18
    assert after.decode_seconds > before.decode_seconds
    assert after.prefill_seconds > before.prefill_seconds
    assert after.decode_steps - before.decode_steps >= 89
    assert (after.rows_running, after.rows_waiting, after.running) == (0, 0, ())
    rows: dict[int, int] = {}
    served = llm.served()[-20:]
    assert [each.request_id for each in served] == order
    for each in sorted(served, key=lambda each: each.begin_ns):
        assert rows.get(each.row, 0) <= each.begin_ns < each.end_ns  # one at a time
        rows[each.row] = each.end_ns
    assert len(rows) == 4


def test_a_program_is_compiled_once(llm):
    llm.generate([[1, 2]], GREEDY)
    before = llm.stats()
    llm.generate([[3, 4]], GREEDY)
    assert llm.stats().programs_compiled == before.programs_compiled >= 2
    assert llm.stats().compile_seconds == before.compile_seconds > 0


def test_a_stream_may_be_given_up(llm):
    requests = requests_of(random_prompts(5, [3, 4, 5]), [40, 1, 40])
    whole = {output.request_id: output for output in llm.stream(requests)}
    stream = llm.stream(requests)
    assert next(stream) == whole["r1"]
    with pytest.raises(InvalidArgumentError, match="finish or close that stream first"):
        llm.generate([[1]], GREEDY)
    stream.close()
    assert llm.stats().rows_running == 0
    assert {output.request_id: output for output in llm.stream(requests)} == whole


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "params", "complaint"),
    [
        ([], GREEDY, "the prompt is empty"),
        ([1, 48], GREEDY, "prompt_token_ids holds 48: the model's tokens are 0 to 47"),
        ([1, -1], GREEDY, "prompt_token_ids holds -1"),
        ([1] * 128, GREEDY, "128 tokens, and the context of 128 .* at most 127"),
        ("hello", GREEDY, r"no tokenizer\.json: give token ids"),
        (3.5, GREEDY, "a prompt must be a text, a list of token ids"),
        (["a"], GREEDY, "a prompt must be a text, a list of token ids"),
        ({"text": "x"}, GREEDY, "a prompt must be a text, a list of token ids"),
        ({"prompt": 3}, GREEDY, '"prompt" must be text, got 3'),
        ([1], SamplingParams(stop_token_ids=[99]), "stop_token_ids holds 99"),
        ([1], SamplingParams(stop="x"), "needs a tokenizer"),
        ([1], {"max_tokens": 3}, "params must be SamplingParams"),
    ],
)
def test_a_bad_request_is_refused_before_anything_runs(llm, prompt, params, complaint):
    with pytest.raises(RequestError, match=complaint):
        llm.prepare(Request("bad", prompt, params))
    before = llm.stats()
    with pytest.raises(RequestError, match=f"prompt 1: .*{complaint}"):
        llm.generate([[1], prompt], [GREEDY, params])
    assert llm.stats() == before


def test_preparing_gives_the_tokens(alphabet):
    assert alphabet.prepare(Request("good", [1, 2], GREEDY)).token_ids == (1, 2)
    assert alphabet.prepare(Request("good", "hé", GREEDY)).token_ids == tuple("hé".encode())
    with pytest.raises(RequestError, match="the prompt is empty"):
        alphabet.prepare(Request("bad", "", GREEDY))


def test_params_must_be_as_many_as_prompts(llm):
    with pytest.raises(RequestError, match="2 prompts and 1 SamplingParams"):
        llm.generate([[1], [2]], [GREEDY])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1, got 0"),
        ({"steps_per_call": 0}, "steps_per_call must be at least 1, got 0"),
        ({"max_model_len": 129}, "context of 128 tokens, got 129"),
        ({"max_model_len": 1}, "context of 128 tokens, got 1"),
        ({"prefill_budget_tokens": 1}, "prefill_budget_tokens must be at least 16"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(model, options, complaint):
    with pytest.raises(InvalidArgumentError, match=complaint):
        LLM(model, **options)


def test_a_cache_larger_than_memory_is_refused(model):
    with pytest.raises(StoreFullError, match=r"10000000 rows x 128 tokens needs .* room for \d+"):
        LLM(model, max_num_seqs=10**7)


def test_no_chat_template_is_said(llm):
    with pytest.raises(RequestError, match="no chat template"):
        llm.chat_prompt([{"role": "user", "content": "hi"}])


def test_a_closed_llm_says_so(model):
    llm = LLM(model, max_num_seqs=1)
    llm.close()
    llm.close()
    with pytest.raises(InvalidArgumentError, match="this LLM is closed"):
        llm.generate([[1]], GREEDY)
