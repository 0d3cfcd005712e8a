import pytest
from hypothesis import given
from hypothesis import strategies as st

from nspjax.errors import InvalidArgumentError
from nspjax.generate.prefill_plan import PrefillPlan

plans = st.builds(
    PrefillPlan,
    n_rows=st.integers(1, 20),
    capacity_tokens=st.integers(2, 5000),
    budget_tokens=st.integers(16, 3000),
)


@st.composite
def plans_and_prompts(draw):
    plan = draw(plans)
    rows = draw(st.lists(st.integers(0, plan.n_rows - 1), unique=True))
    return plan, [(row, draw(st.integers(1, plan.capacity_tokens))) for row in rows]


@given(plans_and_prompts())
def test_every_prompt_runs_once_piece_after_piece(case):
    plan, prompts = case
    done = {row: 0 for row, _ in prompts}
    finished = set()
    for group in plan.groups(prompts):
        for piece in group.pieces:
            assert piece.start == done[piece.row]
            done[piece.row] += piece.n_tokens
            if piece.last:
                finished.add(piece.row)
    assert done == dict(prompts)
    assert finished == set(done)


@given(plans_and_prompts())
def test_a_call_keeps_to_the_budget_and_names_each_row_once(case):
    plan, prompts = case
    for group in plan.groups(prompts):
        rows = [piece.row for piece in group.pieces] + list(group.idle_rows)
        assert len(rows) == len(set(rows)) == plan.rows_per_call(group.bucket_tokens)
        assert set(rows) <= set(range(plan.n_rows))
        assert len(rows) == 1 or len(rows) * group.bucket_tokens <= plan.budget_tokens
        for piece in group.pieces:
            assert 0 < piece.n_tokens <= group.bucket_tokens


@given(plans_and_prompts())
def test_the_shapes_that_a_prompt_meets_do_not_depend_on_the_others(case):
    plan, prompts = case
    together = {row: [] for row, _ in prompts}
    for group in plan.groups(prompts):
        for piece in group.pieces:
            width = len(group.pieces) + len(group.idle_rows)
            together[piece.row].append((width, group.bucket_tokens, piece.start, piece.n_tokens))
    for row, n_tokens in prompts:
        alone = [
            (
                len(group.pieces) + len(group.idle_rows),
                group.bucket_tokens,
                group.pieces[0].start,
                group.pieces[0].n_tokens,
            )
            for group in plan.groups([((row + 1) % plan.n_rows, n_tokens)])
        ]
        assert together[row] == alone


@given(plans)
def test_buckets_ascend_and_end_at_what_fits(plan):
    buckets = plan.buckets
    assert list(buckets) == sorted(set(buckets))
    assert buckets[-1] == min(plan.budget_tokens, plan.capacity_tokens)


def test_buckets_of_a_usual_plan():
    assert PrefillPlan(16, 32768, 4096).buckets == (
        16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096,
    )  # fmt: skip


def test_a_budget_below_the_smallest_bucket_is_refused():
    with pytest.raises(InvalidArgumentError, match="at least 16, got 8"):
        PrefillPlan(4, 128, 8)
