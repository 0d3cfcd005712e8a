"""The generation loop: fill free rows by prefill, decode all rows, hand out what has finished."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence, Set
from typing import Any

import jax
import numpy as np

from nspjax.errors import NotFiniteError, NspjaxError, RequestError, StoreError, StoreFullError
from nspjax.generate.answer import Answer
from nspjax.generate.isolation import ISOLATED, MOST_FAILURES, judge
from nspjax.generate.jax_settings import pinned_settings
from nspjax.generate.model_runner import ModelRunner
from nspjax.generate.operands import decode_rows, first_asked, prefill_rows
from nspjax.generate.outputs import ServedRow
from nspjax.generate.prefill_plan import Group, PrefillPlan
from nspjax.generate.progress import Progress
from nspjax.generate.sampling.choice import NOT_FINITE
from nspjax.generate.sampling.logprobs import Logprobs
from nspjax.generate.shared_prefixes import plan_rounds
from nspjax.generate.slots import Slots
from nspjax.generate.speculation.history import TokenHistory

FIRST_STEPS = 4
CALL_SECONDS = 2.0
"""What a decode call aims to last at most: between calls the statistics move, finished answers are
handed out, and an interrupt is heard."""


class ContinuousBatch:
    """Runs the answers of `source`, as many at a time as the runner has rows.

    Every call has a shape that follows from the configuration or, for prefill, from the prompt's
    own length: what runs in the other rows changes no bit of an answer. With a history, decoding
    speculates.
    """

    def __init__(
        self,
        runner: ModelRunner,
        plan: PrefillPlan,
        source: Iterator[Answer],
        progress: Progress,
        history: TokenHistory | None = None,
    ) -> None:
        self._runner = runner
        self._history = history
        self._plan = plan
        self._slots = Slots(plan.n_rows, source)
        self._progress = progress
        self._n_steps = FIRST_STEPS
        # row -> the prompt that its tokens begin with
        self._resident: dict[int, Sequence[int]] = {}
        self._begun_ns: dict[int, int] = {}
        self._in_call: Sequence[int] = ()  # rows of the latest call
        self._borrowers: Set[int] = set()  # of them, those that began with another's tokens
        self._n_failures = 0

    def run(self) -> Generator[Answer]:
        """Each answer when it has finished."""
        try:
            while True:
                self._begun_ns |= dict.fromkeys(self._slots.admit(), time.monotonic_ns())
                self._count_rows()
                if not self._slots.running:
                    return
                if self._new_rows():
                    self._attempt(self._prefill_new)
                    yield from self._retire()  # some end with their first token
                if self._slots.running and not self._new_rows():
                    self._attempt(self._decode)
                    yield from self._retire()
        finally:
            self._progress.set(rows_running=0, rows_waiting=0, running=())

    def _retire(self) -> list[Answer]:
        done = [row for row, answer in self._slots.running.items() if answer.finished]
        released = [self._release(row) for row in done]
        if any(answer.error is None for answer in released):
            self._n_failures = 0
        self._count_rows()
        return released

    def _release(self, row: int) -> Answer:
        answer = self._slots.release(row)
        begin_ns, end_ns = self._begun_ns[row], time.monotonic_ns()
        self._progress.served.append(ServedRow(answer.request_id, row, begin_ns, end_ns))
        return answer

    def _count_rows(self) -> None:
        running = self._slots.running
        self._progress.set(
            rows_running=len(running),
            rows_waiting=self._slots.n_waiting,
            running=tuple((len(each.token_ids), each.max_tokens) for each in running.values()),
        )

    # ---- prefill --------------------------------------------------------------------------------

    def _new_rows(self) -> dict[int, Answer]:
        """The answers whose prompt has to run yet, or again."""
        return {row: each for row, each in self._slots.running.items() if not each.token_ids}

    def _prefill_new(self) -> None:
        """Run their prompts, first tokens included."""
        admitted = self._new_rows()
        prompts = {row: answer.prompt for row, answer in admitted.items()}

        def may_share(from_row: int, row: int) -> bool:
            return not admitted[row].scores_prompt and self._runner.may_share(from_row, row)

        rounds = plan_rounds(prompts, self._resident, may_share)
        for row in admitted:
            self._resident.pop(row, None)
        self._borrowers = {row for each in rounds for row, start in each.starts.items() if start}
        for each in rounds:
            for loan in each.loans:
                self._in_call = loan.rows
                self._runner.share_prefix(loan.from_row, loan.rows, loan.n_tokens)
            lengths = [(row, len(prompts[row])) for row in each.starts]
            for group in self._plan.groups(lengths, each.starts):
                self._prefill(group, admitted)
            self._progress.add(shared_prompt_tokens=sum(each.starts.values()))
            self._resident.update((row, prompts[row]) for row in each.starts)

    def _prefill(self, group: Group, admitted: dict[int, Answer]) -> None:
        began = self._progress.seconds()
        self._in_call = [piece.row for piece in group.pieces]
        tokens, logprobs, of_prompt = self._runner.prefill(
            prefill_rows(group, admitted), first_asked(group, admitted, self._runner.vocab_size)
        )
        self._progress.add(
            prefill_seconds=self._progress.seconds() - began,
            prefill_calls=1,
            prompt_tokens=sum(piece.n_tokens for piece in group.pieces),
        )
        for i, piece in enumerate(group.pieces):
            answer = admitted[piece.row]
            if of_prompt is not None:
                found = _part(of_prompt, (i, slice(piece.n_tokens)))
                if not answer.add_prompt_logprobs(piece.start, found):
                    answer.fail(no_logits(answer))
            if piece.last:
                self._accept(answer, tokens[i : i + 1], _part(logprobs, slice(i, i + 1)))

    # ---- decode ---------------------------------------------------------------------------------

    def _decode(self) -> None:
        """Run the compiled loop once and hand its tokens to the answers."""
        began = self._progress.seconds()
        self._in_call, self._borrowers = list(self._slots.running), set()
        running = self._slots.running
        rows = decode_rows(
            running, self._plan.n_rows, self._leave_at(), self._n_steps, self._runner.vocab_size
        )
        if self._history is None:
            tokens, counts, logprobs = self._runner.decode(rows)
            n_steps = int(counts.max())
        else:
            operands = self._history.operands(rows, running)
            tokens, counts, logprobs, tally = self._runner.speculate(operands)
            n_steps, n_proposed, n_kept = tally.tolist()
            self._progress.add(draft_tokens=n_proposed, accepted_draft_tokens=n_kept)
        seconds = self._progress.seconds() - began
        most = self._runner.steps_per_call
        self._n_steps = steps_for_next_call(self._n_steps, seconds / n_steps, most)
        self._progress.add(decode_seconds=seconds, decode_calls=1, decode_steps=n_steps)
        for row, answer in self._slots.running.items():
            new = (row, slice(counts[row]))
            self._accept(answer, tokens[new], _part(logprobs, new))

    def _leave_at(self) -> int:
        """How many rows must have finished for the loop to return before its last step.

        As many as the next prompt's prefill call has rows: a call with fewer prompts costs the
        same. Never, where no prompt waits.
        """
        waiting = self._slots.next_waiting
        if waiting is None:
            return self._plan.n_rows + 1
        first_piece = self._plan.pieces(0, len(waiting.prompt))[0]
        return self._plan.rows_per_call(self._plan.bucket_tokens(first_piece.n_tokens))

    def _accept(self, answer: Answer, tokens: np.ndarray, logprobs: Logprobs | None) -> None:
        """Give an answer its next tokens, up to the one with which it ends."""
        before = len(answer.token_ids)
        if logprobs is not None:
            answer.add_logprobs(logprobs)
        for token in tokens.tolist():
            if token < 0:
                answer.fail(no_logits(answer) if token == NOT_FINITE else nothing_allowed(answer))
            elif not answer.accept(token):
                continue
            break
        self._progress.add(generated_tokens=len(answer.token_ids) - before)

    # ---- failures -------------------------------------------------------------------------------

    @pinned_settings()
    def _attempt(self, step: Callable[[], None]) -> None:
        """Run a step. If the store fails, it costs the answers concerned; the rest is run again."""
        try:
            step()
        except ISOLATED as error:
            if not self._runner.recover():
                raise
            self._resident.clear()  # whoever begins anew depends on no other row
            if isinstance(error, StoreFullError):
                self._run_fewer_rows(error)
            else:
                self._isolate(error)
            warnings.warn(f"{error}; going on", RuntimeWarning, stacklevel=2)

    def _isolate(self, error: StoreError) -> None:
        self._n_failures += 1
        unreadable = self._runner.unreadable(self._in_call)
        verdict = judge(unreadable, len(self._in_call), self._borrowers)
        if verdict is None or self._n_failures > MOST_FAILURES:
            raise error
        for row, reason in verdict.failed.items():
            self._slots.running[row].fail(reason)
        for row in verdict.restarted:
            self._restart(self._slots.running[row])

    def _run_fewer_rows(self, error: StoreFullError) -> None:
        """The newest answer gives up its row, for good, and starts over when another is free."""
        if len(self._slots.running) == 1:
            raise error
        newest = list(self._slots.running)[-1]
        self._restart(self._slots.withdraw(newest))

    def _restart(self, answer: Answer) -> None:
        self._progress.add(generated_tokens=-len(answer.token_ids))
        answer.restart()


def _part(logprobs: Any, index: Any) -> Any:
    """Those of some tokens; None where there are none."""
    return jax.tree.map(lambda x: x[index], logprobs)


def no_logits(answer: Answer) -> NspjaxError:
    """Why there is no next token."""
    return NotFiniteError(
        f"the model's logits are not finite after a prompt of {len(answer.prompt)} tokens and "
        f"{_so_far(answer)} of the answer: some number on the way was too large for its type, or "
        "NaN. Try wider types of weights and KV cache, such as bfloat16 or float32 in the place of "
        "float16"
    )


def nothing_allowed(answer: Answer) -> NspjaxError:
    """Why there is no next token, where the request asked for it."""
    return RequestError(
        f"no token may come after {_so_far(answer)} of the answer: what the request allows and "
        "what it bars leave none"
    )


def _so_far(answer: Answer) -> str:
    done = len(answer.token_ids)
    return f"{done} token" if done == 1 else f"{done} tokens"


def steps_for_next_call(n_steps: int, seconds_per_step: float, most: int) -> int:
    """How many steps last about CALL_SECONDS, 1 to `most`; at most four times as many as before."""
    wanted = int(CALL_SECONDS / max(seconds_per_step, 1e-9))
    return max(1, min(wanted, 4 * n_steps, most))
