"""Which prompts share what: the plan alone, without a model."""

from hypothesis import given
from hypothesis import strategies as st

from nspjax.generate.shared_prefixes import GRAIN_TOKENS, Loan, Round, plan_rounds, shared_tokens

LONG = (1,) * (3 * GRAIN_TOKENS)


def always(_from_row: int, _row: int) -> bool:
    return True


def test_a_multiple_of_the_grain_is_shared_and_a_token_is_left():
    assert shared_tokens((*LONG, 2), (*LONG, 3)) == len(LONG)
    assert shared_tokens(LONG, LONG) == len(LONG) - GRAIN_TOKENS
    assert shared_tokens((*LONG[:100], 2, 2), LONG) == 64
    assert shared_tokens((1,) * 64, LONG) == 0
    assert shared_tokens(LONG, ()) == 0


def test_prompts_that_come_together_wait_for_the_first():
    prompts = {0: (*LONG, 2), 1: (3, 4), 2: (*LONG, 5), 3: LONG}
    assert plan_rounds(prompts, {}, always) == [
        Round((), {0: 0, 1: 0}),
        Round((Loan(0, (2,), 192), Loan(0, (3,), 128)), {2: 192, 3: 128}),
    ]


def test_a_row_that_is_there_lends_at_once():
    prompts = {1: (*LONG, 2), 2: (*LONG, 3)}
    resident = {0: (*LONG, 4), 1: (5,), 2: (6,)}
    assert plan_rounds(prompts, resident, always) == [
        Round((Loan(0, (1, 2), 192),), {1: 192, 2: 192})
    ]


def test_a_row_used_again_keeps_what_its_new_prompt_begins_with():
    prompts = {0: (*LONG, 2), 1: (*LONG, 3)}
    assert plan_rounds(prompts, {0: (*LONG, 4), 1: (*LONG, 5)}, always) == [
        Round((), {0: 192, 1: 192})
    ]


def test_without_a_store_nothing_is_kept():
    prompts = {0: (*LONG, 2), 1: (*LONG, 3)}
    assert plan_rounds(prompts, {0: LONG, 5: LONG}, lambda *_: False) == [Round((), {0: 0, 1: 0})]


def test_rows_that_cannot_share_compute():
    prompts = {0: (*LONG, 2), 1: (*LONG, 3), 2: (*LONG, 4)}
    even = plan_rounds(prompts, {}, lambda one, other: (one - other) % 2 == 0)
    assert even == [Round((), {0: 0, 1: 0}), Round((Loan(0, (2,), 192),), {2: 192})]


PROMPT = st.lists(st.sampled_from([(0,) * 64, (1,) * 64, (2,), (3,) * 30]), min_size=1, max_size=4)
PROMPTS = st.dictionaries(st.integers(0, 7), PROMPT.map(lambda parts: sum(parts, ())), max_size=8)


@given(PROMPTS, PROMPTS)
def test_a_row_begins_with_what_its_prompt_begins_with(prompts, resident):
    holds = dict(resident)
    run = []
    for each in plan_rounds(prompts, resident, always):
        before = dict(holds)
        for loan in each.loans:
            for row in loan.rows:
                holds[row] = before[loan.from_row][: loan.n_tokens]
                assert len(before[loan.from_row]) >= loan.n_tokens
        for row, start in each.starts.items():
            assert holds.get(row, ())[:start] == prompts[row][:start]
            assert start < len(prompts[row])
        for row in each.starts:
            holds[row] = prompts[row]
            run.append(row)
    assert sorted(run) == sorted(prompts)
