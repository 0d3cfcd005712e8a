"""A batch job: the requests of a file, answered by an engine, into another file."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from nspjax.errors import BatchFileError, NspjaxError, RequestError
from nspjax.generate.batch.calls import read_calls
from nspjax.generate.batch.fields import BatchRequest, as_asked
from nspjax.generate.batch.fingerprint import fingerprint
from nspjax.generate.batch.finished import finished_ids
from nspjax.generate.batch.input import BatchInput, InputEntry, scan_input
from nspjax.generate.batch.lines import BatchLine
from nspjax.generate.batch.output import STANDARD_OUTPUT, Output, check_kind, open_output
from nspjax.generate.batch.preparation import Engine, prepared_line
from nspjax.generate.batch.results import answer_line, error_line
from nspjax.generate.batch.work import Work, WorkCounter
from nspjax.generate.outputs import RequestOutput
from nspjax.generate.tools.model_tools import ModelTools

if TYPE_CHECKING:
    from nspjax.generate.prepared_request import PreparedRequest


@dataclasses.dataclass(frozen=True)
class BatchProgress:
    """How far a job is, in requests. answered, refused: those of earlier runs included."""

    total: int
    answered: int
    refused: int
    before: int
    """finished by the runs that this one resumes"""

    @property
    def finished(self) -> int:
        return self.answered + self.refused


@dataclasses.dataclass
class _InFlight:
    """A request in the engine, and the outputs it has so far, by prompt."""

    line: BatchLine
    request: BatchRequest
    outputs: dict[int, RequestOutput] = dataclasses.field(default_factory=dict)


class BatchJob:
    """A checked input and a locked output; `run` answers what is missing. Close it after use.

    Args:
      input_path: OpenAI batch lines, or a table of them; "-" is standard input.
      output_path: result lines, in the order in which requests finish, or what its suffix says;
        "-" is standard output.
      errors_path: the results of requests that got no answer; None: in the output, too.
      limit: how many of the input's requests are the job, the first ones; None: all.
      resume: keep the output's results and skip their requests.
      overwrite: throw the output's content away, once `run` begins.
      model: the name under which answers are given; a resumed output must be of the same.
      seed: requests without a seed of their own draw from this and their custom_id.
      settings: what else answers depend on; a resumed output must be of the same.

    Raises:
      BatchFileError: one of the files cannot be used as it is.
    """

    def __init__(
        self,
        input_path: str,
        output_path: str,
        *,
        errors_path: str | None = None,
        limit: int | None = None,
        model: str,
        seed: int = 0,
        settings: Mapping[str, object] | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ):
        if resume and overwrite:
            raise BatchFileError("resume and overwrite exclude each other")
        paths = [output_path] if errors_path is None else [output_path, errors_path]
        _check_distinct(input_path, output_path, errors_path)
        for path in paths:
            check_kind(path, keep=resume)
        self._input: BatchInput = scan_input(input_path, limit)
        self._outputs: list[Output] = []
        """of answers and, if they are apart, of errors"""
        try:
            for path in paths:
                self._outputs.append(open_output(path, keep=resume, replace=overwrite))
            made_with = fingerprint({"seed": seed, **(settings or {})})
            earlier = itertools.chain.from_iterable(each.earlier() for each in self._outputs)
            done = finished_ids(earlier, self._input, model, made_with) if resume else {}
        except BaseException:
            self._input.close()
            for each in self._outputs:
                each.close()
            raise
        self._model, self._seed, self._fingerprint = model, seed, made_with
        self._finished_before = done.keys()
        answered, total = sum(done.values()), len(self._input.by_id)
        self._progress = BatchProgress(total, answered, len(done) - answered, len(done))
        self._in_flight: dict[str, _InFlight] = {}
        self._work = WorkCounter()
        for entry in self._waiting():
            self._work.expect(entry.asked, entry.n_bytes)
        self.other_models: Counter[str] = Counter()
        """models that requests named, other than the one that answers: they are ignored"""

    def progress(self) -> BatchProgress:
        """How far the job is; may be called from another thread."""
        return self._progress

    def work(self) -> Work:
        """What there is to do; may be called from another thread."""
        asked = [self._input.by_id[name].asked for name in list(self._in_flight)]
        return self._work.seen([each.most_tokens for each in asked for _ in range(each.n_answers)])

    @property
    def output_disturbed(self) -> bool:
        """Whether others removed, replaced or changed an output while the job ran."""
        return any(each.disturbed for each in self._outputs)

    @property
    def kept_in(self) -> list[str]:
        """The files that have the results of a job that is not complete."""
        return [each.kept_in for each in self._outputs if each.kept_in is not None]

    def run(self, engine: Engine) -> BatchProgress:
        """Answer every request that has no result yet.

        Raises:
          BatchFileError: the output cannot be written, or the input changed meanwhile.
          NspjaxError: the engine failed. What had finished is in the output.
        """
        for each in self._outputs:
            each.begin(keep=bool(self._finished_before))
        for output in engine.stream(self._requests(engine)):
            finished = self._collect(output)
            if finished is not None:
                self._answer(finished, engine.tools)
        return self.progress()

    def close(self) -> None:
        """Sync the outputs and give up their locks; if the job is complete, write those that are
        written as a whole.

        Raises:
          BatchFileError: one of them cannot be written, or is not what was written.
        """
        complete = self._progress.finished == self._progress.total
        self._input.close()
        with contextlib.ExitStack() as closing:
            for each in self._outputs:
                closing.callback(each.close, complete=complete)

    def __enter__(self) -> BatchJob:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:  # the error that ended the job is the one to raise
            try:
                self.close()
            except BatchFileError as also:
                error.add_note(str(also))

    def _requests(self, engine: Engine) -> Iterator[PreparedRequest]:
        """What the engine is to answer, one by one; requests that it cannot serve end here."""
        for line in self._input.read(self._waiting()):
            entry = self._input.by_id[line.custom_id]
            prompt_tokens = 0
            try:
                asked, requests = prepared_line(line, engine, self._seed)
                n_tokens = sum(len(each.token_ids) for each in requests)
                prompt_tokens = asked.params.n_runs * n_tokens
            except RequestError as error:
                self._refuse(line, as_asked(error, line))
                continue
            finally:
                self._work.read(entry.asked, entry.n_bytes, prompt_tokens)
            if asked.model not in (None, self._model):
                self.other_models[asked.model] += 1
            self._in_flight[line.custom_id] = _InFlight(line, asked)
            yield from requests

    def _waiting(self) -> Iterator[InputEntry]:
        """The requests that earlier runs left."""
        entries = self._input.by_id.values()
        return (entry for entry in entries if entry.custom_id not in self._finished_before)

    def _collect(self, output: RequestOutput) -> _InFlight | None:
        """Add an engine's output to its request; the request, if that was the last one."""
        custom_id, _, index = output.request_id.rpartition("/")
        found = self._in_flight[custom_id]
        found.outputs[int(index)] = output
        asked = self._input.by_id[custom_id].asked
        for answer in output.outputs:
            by_itself = answer.finish_reason != "length"
            self._work.finish(asked, len(answer.token_ids), by_itself=by_itself)
        if len(found.outputs) < len(found.request.prompts):
            return None
        return self._in_flight.pop(custom_id)

    def _answer(self, finished: _InFlight, tools: ModelTools | None) -> None:
        request = finished.request
        outputs = [finished.outputs[i] for i in range(len(request.prompts))]
        error = next((output.error for output in outputs if output.error), None)
        if error is not None:
            self._refuse(finished.line, error)
            return
        try:
            calls = read_calls(request.tools, tools, outputs)
        except RequestError as error:  # the tokenizer's
            self._refuse(finished.line, error)
            return
        self._outputs[0].append(
            answer_line(
                finished.line,
                request,
                outputs,
                calls,
                model=self._model,
                created=int(time.time()),
                fingerprint=str(self._fingerprint),
            )
        )
        self._count(answered=self._progress.answered + 1)

    def _refuse(self, line: BatchLine, error: NspjaxError) -> None:
        self._outputs[-1].append(error_line(line, error))
        self._count(refused=self._progress.refused + 1)

    def _count(self, **counts: int) -> None:
        self._progress = dataclasses.replace(self._progress, **counts)


def _check_distinct(input_path: str, output_path: str, errors_path: str | None) -> None:
    if errors_path == STANDARD_OUTPUT:
        raise BatchFileError("errors go to a file of their own, or to the output: give its name")
    named = [("the input", input_path), ("the output", output_path), ("the errors", errors_path)]
    files = [(what, path) for what, path in named if path is not None and path != STANDARD_OUTPUT]
    for (what, path), (other_what, other) in itertools.combinations(files, 2):
        if _same_file(path, other):
            raise BatchFileError(f"{what} and {other_what} are the same file: {path}")


def _same_file(one: str, other: str) -> bool:
    if os.path.exists(one) and os.path.exists(other):
        return os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)
