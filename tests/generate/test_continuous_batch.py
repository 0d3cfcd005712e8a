import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nspjax.generate.continuous_batch import CALL_SECONDS, FIRST_STEPS, steps_for_next_call
from nspjax.generate.progress import Progress


@given(st.integers(1, 64), st.floats(0, 100), st.integers(1, 64))
def test_a_call_lasts_no_longer_than_it_should(n_steps, seconds_per_step, most):
    following = steps_for_next_call(n_steps, seconds_per_step, most)
    assert 1 <= following <= min(4 * n_steps, most)
    assert following == 1 or following * seconds_per_step <= CALL_SECONDS


def test_fast_steps_soon_make_full_calls():
    n_steps = steps_for_next_call(FIRST_STEPS, 1.0, 32)  # a slow one
    for _ in range(3):
        n_steps = steps_for_next_call(n_steps, 0.001, 32)
    assert n_steps == 32


def test_the_clock_stands_still_while_programs_are_compiled(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    progress = Progress()
    with progress.compiling():
        assert progress.stats.compiling
        now += 30
    now += 2
    assert progress.seconds() == 102
    with pytest.raises(ZeroDivisionError), progress.compiling():
        raise ZeroDivisionError
    assert progress.stats.compile_seconds == 30
    assert (progress.stats.programs_compiled, progress.stats.compiling) == (1, False)
