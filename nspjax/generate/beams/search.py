"""The host's part of a beam search: which rows prompts get, calls, and sequences followed back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from nspjax.errors import InvalidArgumentError, NotFiniteError, RequestError
from nspjax.generate.answer import Answer
from nspjax.generate.beams.records import BeamSearchOutput, BeamSearchParams, BeamSearchSequence
from nspjax.generate.beams.steps import Beams, BeamSettings, first_beams
from nspjax.generate.model_runner import ModelRunner
from nspjax.generate.operands import first_asked, prefill_rows
from nspjax.generate.prefill_plan import PrefillPlan
from nspjax.generate.sampling_params import SamplingParams
from nspjax.generate.text.tokenization import decode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def groups_of_rows(n_rows: int, width: int, alike: Callable[[int, int], bool]) -> list[list[int]]:
    """Rows for as many prompts as there is room for: `width` each, to be taken for each other.

    Raises:
      InvalidArgumentError: there is room for none.
    """
    kinds: list[list[int]] = []
    for row in range(n_rows):
        kind = next((rows for rows in kinds if alike(rows[0], row)), None)
        if kind is None:
            kinds.append([row])
        else:
            kind.append(row)
    groups = [rows[i : i + width] for rows in kinds for i in range(0, len(rows) - width + 1, width)]
    if not groups:
        most = max(map(len, kinds))
        raise InvalidArgumentError(
            f"beam_width {width} needs as many rows, whose heads lie on the same devices, and this "
            f"LLM has {most} such rows: raise max_num_seqs, now {n_rows}"
        )
    return groups


class BeamSearch:
    """Searches of one width for prompts, as many at a time as there are rows."""

    def __init__(
        self,
        runner: ModelRunner,
        plan: PrefillPlan,
        params: BeamSearchParams,
        end_tokens: Sequence[int],
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        self._runner, self._plan, self._params = runner, plan, params
        self._tokenizer = tokenizer
        self._end_tokens = [] if params.ignore_eos else list(end_tokens)
        self._groups = groups_of_rows(plan.n_rows, params.beam_width, runner.are_alike)

    def run(self, prompts: Sequence[tuple[int, ...]]) -> Iterator[BeamSearchOutput]:
        """What was found for each prompt, in their order."""
        for begin in range(0, len(prompts), len(self._groups)):
            yield from self._together(prompts[begin : begin + len(self._groups)])

    def _together(self, prompts: Sequence[tuple[int, ...]]) -> Iterator[BeamSearchOutput]:
        n_groups, room = len(self._groups), self._plan.capacity_tokens
        rows = jnp.asarray(self._groups, jnp.int32)
        self._prefill({self._groups[i][0]: prompt[:-1] for i, prompt in enumerate(prompts)})
        lengths = np.zeros(n_groups, np.int32)
        lasts, used = np.zeros(n_groups, np.int32), np.arange(n_groups) < len(prompts)
        for i, prompt in enumerate(prompts):
            lengths[i], lasts[i] = len(prompt) - 1, prompt[-1]
        settings = BeamSettings(
            rows=rows,
            begin=jnp.asarray(lengths),
            end_tokens=jnp.asarray(self._end_tokens, jnp.int32),
            max_tokens=jnp.asarray(
                np.minimum(self._params.max_tokens, room - 1 - lengths), jnp.int32
            ),
            length_penalty=jnp.float32(self._params.length_penalty),
            temperature=jnp.float32(self._params.temperature),
            most_steps=jnp.int32(self._runner.steps_per_call),
        )
        beams = first_beams(rows, jnp.asarray(lasts), jnp.asarray(used), self._plan.n_rows, room)
        try:
            while bool(beams.going.any()):
                beams = self._runner.search(settings, beams)
        finally:
            self._runner.empty([row for group in self._groups for row in group])
        ended: Beams = jax.tree.map(np.asarray, beams)
        for i, prompt in enumerate(prompts):
            try:
                yield BeamSearchOutput(self._sequences(prompt, ended, i))
            except (NotFiniteError, RequestError) as error:
                yield BeamSearchOutput((), error)

    def _prefill(self, prompts: dict[int, Sequence[int]]) -> None:
        asked = SamplingParams(temperature=0)
        answers = {
            row: Answer(prompt, asked, index=0, seed=0, max_tokens=1, end_tokens=(), tokenizer=None)
            for row, prompt in prompts.items()
        }
        lengths = [(row, len(prompt)) for row, prompt in prompts.items() if prompt]
        for group in self._plan.groups(lengths):
            self._runner.prefill(
                prefill_rows(group, answers),
                first_asked(group, answers, self._runner.vocab_size),
            )

    def _sequences(
        self, prompt: tuple[int, ...], beams: Beams, group: int
    ) -> tuple[BeamSearchSequence, ...]:
        if not beams.finite[group]:
            raise NotFiniteError(
                "the model's logits are not finite in a beam search: try wider types of weights "
                "and KV cache, such as bfloat16 or float32 in the place of float16"
            )
        places = np.flatnonzero(beams.found[group])
        return tuple(self._sequence(prompt, beams, group, place) for place in places.tolist())

    def _sequence(
        self, prompt: tuple[int, ...], beams: Beams, group: int, place: int
    ) -> BeamSearchSequence:
        generated = self._followed(beams, group, place)
        ended = generated[-1] in self._end_tokens
        if ended and not self._params.include_stop_str_in_output:
            generated.pop()
        tokens = (*prompt, *generated)
        return BeamSearchSequence(
            tokens,
            float(beams.found_sums[group, place]),
            "" if self._tokenizer is None else decode(self._tokenizer, tokens),
            "stop" if ended else "length",
        )

    def _followed(self, beams: Beams, group: int, place: int) -> list[int]:
        """The tokens of a sequence that was found, its end token included."""
        token, beam = (int(of[group, place]) for of in (beams.found_token, beams.found_parent))
        tokens = [token]
        for step in range(int(beams.found_step[group, place]) - 1, -1, -1):
            tokens.append(int(beams.tokens[step, group, beam]))
            beam = int(beams.parents[step, group, beam])
        return tokens[::-1]
