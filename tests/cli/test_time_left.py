"""The estimate of the time left, against simulated jobs whose end is known."""

import dataclasses
import random
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from nspjax.cli.answer_lengths import AnswerLengths
from nspjax.cli.time_left import seconds_left
from nspjax.generate import GenerationStats
from nspjax.generate.batch.work import Work

# ---- lengths ------------------------------------------------------------------------------------


def test_equal_lengths():
    lengths = AnswerLengths({(100, True): 3, (40, False): 5})
    assert lengths.expected_left(0, None) == pytest.approx(100)
    assert lengths.expected_left(40, 1000) == pytest.approx(60)
    assert lengths.expected_left(0, 30) == pytest.approx(30)


def test_limits_that_all_reach():
    lengths = AnswerLengths({(64, False): 9})
    assert lengths.expected_left(10, 64) == 54
    assert lengths.expected_left(0, 500) == 500
    assert lengths.expected_left(0, None) is None


def test_answers_that_run_do_not_make_the_short_ones_all():
    """Against the mean of those that finished, which are the short ones."""
    draw = np.random.default_rng(0)
    lengths = draw.geometric(1 / 200, 4000)
    begun_ago = draw.integers(1, 300, 4000)
    seen = Counter(
        (int(min(length, ago)), bool(length <= ago))
        for length, ago in zip(lengths, begun_ago, strict=True)
    )
    finished = np.mean(lengths[lengths <= begun_ago])
    assert finished < 100
    expected = AnswerLengths(seen).expected_left(0, None)
    assert expected == pytest.approx(200, rel=0.3)
    assert AnswerLengths(seen).expected_left(500, None) == pytest.approx(200, rel=0.3)
    cut = AnswerLengths(seen).expected_left(0, 100)
    assert cut == pytest.approx(np.minimum(lengths, 100).mean(), rel=0.05)


# ---- jobs ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class Asked:
    """A request. Its line has about four bytes a token."""

    prompt: int
    length: int
    most: int | None

    @property
    def n_bytes(self) -> int:
        return 60 + 4 * self.prompt


@dataclasses.dataclass
class Machine:
    """Seconds of a prompt token, and in each step: at all, of a row, of 1000 cached tokens."""

    prompt_token: float = 0.01
    step: float = 0.2
    row: float = 0.02
    cached: float = 0.0
    rows: int = 8
    context: int = 4096


Seen = tuple[float, GenerationStats, Work]
"""The time, and what is known then."""


def job(
    requests: Sequence[Asked], machine: Machine
) -> Iterator[tuple[float, GenerationStats, Work]]:
    """What is seen of a job that runs alone, after every call."""
    waiting, running = list(requests), []  # running: [tokens so far, request]
    now = prefill_seconds = decode_seconds = 0.0
    prompt_tokens = generated = steps = 0
    finished: Counter[tuple[int, int, bool]] = Counter()

    def seen() -> Seen:
        ahead, unread = waiting[: machine.rows], waiting[machine.rows :]  # as `Slots` reads
        read = requests[: len(requests) - len(unread)]
        stats = GenerationStats(
            prompt_tokens=prompt_tokens,
            generated_tokens=generated,
            prefill_seconds=prefill_seconds,
            decode_seconds=decode_seconds,
            decode_steps=steps,
            running=tuple((n, limit(each)) for n, each in running),
        )
        in_flight = [each.most for _, each in running] + [each.most for each in ahead]
        return (
            now,
            stats,
            Work(
                Counter(each.most for each in unread),
                sum(each.n_bytes for each in unread),
                sum(each.n_bytes for each in read),
                sum(each.prompt for each in read),
                in_flight,
                dict(finished),
            ),
        )

    def limit(each: Asked) -> int:
        room = machine.context - each.prompt
        return room if each.most is None else min(each.most, room)

    while waiting or running:
        new = waiting[: machine.rows - len(running)]
        del waiting[: len(new)]
        running += [[0, each] for each in new]
        for each in new:
            seconds = machine.prompt_token * each.prompt
            now, prefill_seconds = now + seconds * 1.05, prefill_seconds + seconds
            prompt_tokens += each.prompt
            yield seen()
        for _ in range(8):
            cached = sum(n + each.prompt for n, each in running)
            seconds = machine.step + machine.row * len(running) + machine.cached * cached / 1000
            now, decode_seconds = now + seconds * 1.05, decode_seconds + seconds
            steps, generated = steps + 1, generated + len(running)
            for row in list(running):
                row[0] += 1
                if row[0] >= min(row[1].length, limit(row[1])):
                    finished[Work.limit_class(row[1].most), row[0], row[0] < limit(row[1])] += 1
                    running.remove(row)
            if not running:
                break
        yield seen()


CHOOSE = random.Random(7)


def uneven(most: int | None) -> list[Asked]:
    """Lengths from a few tokens to many hundreds, prompts likewise."""
    return [
        Asked(
            int(CHOOSE.lognormvariate(4, 1)),
            max(1, int(CHOOSE.lognormvariate(4.5, 0.9))),
            most,
        )
        for _ in range(150)
    ]


JOBS: dict[str, tuple[list[Asked], Machine]] = {
    "equal": ([Asked(50, 200, 200)] * 60, Machine()),
    "equal, ending by themselves": ([Asked(50, 100, 2000)] * 80, Machine()),
    "uneven": (uneven(1000), Machine()),
    "uneven, as many as fit": (uneven(None), Machine()),
    "uneven, the caches cost most": (uneven(1000), Machine(step=0.02, row=0.05, cached=0.05)),
    "prefill costs most": (
        [Asked(CHOOSE.randrange(500, 3500), 8, 8) for _ in range(120)],
        Machine(prompt_token=0.02),
    ),
    "few long ones at the end": (
        [Asked(100, CHOOSE.randrange(20, 60), 64) for _ in range(300)] + [Asked(100, 900, 900)] * 2,
        Machine(),
    ),
    "few long ones at the begin": (
        [Asked(100, 1500, 1500)] * 2 + [Asked(100, CHOOSE.randrange(20, 60), 64)] * 200,
        Machine(),
    ),
    "one row": (uneven(200)[:40], Machine(rows=1)),
}


@pytest.mark.parametrize("name", JOBS)
def test_within_a_factor_of_two_after_the_first_minute_and_answers(name: str):
    requests, machine = JOBS[name]
    seen = list(job(requests, machine))
    end = seen[-1][0]
    assert end > 150
    times = [at for at, _, _ in seen]
    n_checked = 0
    for at, stats, work in seen:
        if at < 60 or end - at < 15 or sum(work.finished.values()) < machine.rows:
            continue
        before = seen[max(0, int(np.searchsorted(times, at - 20)) - 1)][1]
        estimate = seconds_left(before, stats, work, at)
        assert estimate is not None
        # where the last of eight answers ends, nobody knows: a tenth of the whole job, then
        close = abs(estimate - (end - at)) < 0.1 * end and not sum(work.unread.values())
        assert close or 0.5 < estimate / (end - at) < 2, (at, end, estimate)
        n_checked += 1
    assert n_checked > 20


def test_what_cannot_be_told():
    work = Work({None: 5}, 500, 100, 10, (None,), {})
    begun = GenerationStats(
        prompt_tokens=10, generated_tokens=5, decode_steps=5, decode_seconds=1, running=((5, 900),)
    )
    assert seconds_left(begun, begun, work, 5.0) is None
    assert seconds_left(GenerationStats(), GenerationStats(), work, 5.0) is None
