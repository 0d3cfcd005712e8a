"""From prepared requests to their outputs: each is run as one answer or several, or as beams."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from nspjax.errors import InvalidArgumentError
from nspjax.generate.answer import Answer
from nspjax.generate.beams.records import BeamSearchOutput, BeamSearchParams
from nspjax.generate.beams.search import BeamSearch
from nspjax.generate.continuous_batch import ContinuousBatch
from nspjax.generate.jax_settings import check_settings, pinned_settings
from nspjax.generate.model_runner import ModelRunner
from nspjax.generate.outputs import RequestOutput
from nspjax.generate.prefill_plan import PrefillPlan
from nspjax.generate.prepared_request import PreparedRequest
from nspjax.generate.progress import Progress
from nspjax.generate.request_reader import RequestReader
from nspjax.generate.speculation.history import TokenHistory


class Serving:
    """Runs requests on a runner's rows, which have one use at a time. history: with one, decoding
    speculates."""

    def __init__(
        self,
        runner: ModelRunner,
        plan: PrefillPlan,
        reader: RequestReader,
        progress: Progress,
        history: TokenHistory | None,
    ) -> None:
        self._runner = runner
        self._plan = plan
        self._reader = reader
        self._progress = progress
        self._history = history
        self._busy = False

    def outputs(self, requests: Iterable[PreparedRequest]) -> Iterator[RequestOutput]:
        """Each request's output when the last of its answers has finished. They are taken from the
        iterable as their answers are read, see `Slots`.

        Raises:
          InvalidArgumentError: the rows are in use, or JAX's settings cannot be worked with.
        """
        with self._alone():
            check_settings()
            yield from self._outputs(requests)

    def beams(
        self, requests: Sequence[PreparedRequest], params: BeamSearchParams
    ) -> list[BeamSearchOutput]:
        """What a beam search finds after each request's prompt, see `LLM.beam_search`."""
        with self._alone():
            check_settings()
            return self._beams([each.token_ids for each in requests], params)

    def _outputs(self, requests: Iterable[PreparedRequest]) -> Iterator[RequestOutput]:
        pending: dict[Answer, tuple[PreparedRequest, list[Answer]]] = {}

        def answers() -> Iterator[Answer]:
            for prepared in requests:
                siblings = self._reader.answers(prepared)
                pending.update(dict.fromkeys(siblings, (prepared, siblings)))
                yield from siblings

        batch = ContinuousBatch(self._runner, self._plan, answers(), self._progress, self._history)
        with contextlib.closing(batch.run()) as finished:
            for answer in finished:
                prepared, siblings = pending.pop(answer)
                if not any(sibling in pending for sibling in siblings):
                    self._progress.add(requests_finished=1)
                    yield prepared.output(siblings, self._reader.token_texts)

    @pinned_settings()
    def _beams(
        self, prompts: Sequence[tuple[int, ...]], params: BeamSearchParams
    ) -> list[BeamSearchOutput]:
        reader = self._reader
        search = BeamSearch(self._runner, self._plan, params, reader.end_tokens, reader.tokenizer)
        return list(search.run(prompts))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if self._busy:
            raise InvalidArgumentError("this LLM is generating: finish or close that stream first")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
