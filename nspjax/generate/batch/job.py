"""A batch job: the requests of a file, answered by an engine, into another file."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol

from nspjax.errors import BatchFileError, NspjaxError, RequestError
from nspjax.generate.batch.calls import read_calls, with_required_call
from nspjax.generate.batch.field_error import FieldError
from nspjax.generate.batch.fields import BatchRequest, parse_request
from nspjax.generate.batch.fingerprint import fingerprint
from nspjax.generate.batch.input import BatchInput, scan_input
from nspjax.generate.batch.lines import BatchLine
from nspjax.generate.batch.output import BatchOutput, finished_ids, open_output
from nspjax.generate.batch.results import answer_line, error_line
from nspjax.generate.outputs import Prompt, Request, RequestOutput
from nspjax.generate.structured.library import GrammarError
from nspjax.generate.tools.model_tools import ModelTools


class Engine(Protocol):
    """What a job needs of an `LLM`."""

    tools: ModelTools | None

    def validate(self, request: Request) -> object: ...
    def stream(self, requests: Iterable[Request]) -> Iterator[RequestOutput]: ...
    def chat_prompt(self, messages: list[dict[str, Any]]) -> Prompt: ...


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
      input_path: OpenAI batch lines.
      output_path: result lines, in the order in which requests finish.
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
        model: str,
        seed: int = 0,
        settings: Mapping[str, object] | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ):
        if resume and overwrite:
            raise BatchFileError("resume and overwrite exclude each other")
        if _same_file(input_path, output_path):
            raise BatchFileError(f"the input and the output are the same file: {input_path}")
        self._input: BatchInput = scan_input(input_path)
        self._output: BatchOutput = open_output(output_path, keep=resume, replace=overwrite)
        try:
            made_with = fingerprint({"seed": seed, **(settings or {})})
            done = finished_ids(self._output, self._input, model, made_with) if resume else {}
        except BaseException:
            self._output.close()
            raise
        self._model, self._seed, self._fingerprint = model, seed, made_with
        self._finished_before = done.keys()
        answered, total = sum(done.values()), len(self._input.by_id)
        self._progress = BatchProgress(total, answered, len(done) - answered, len(done))
        self._in_flight: dict[str, _InFlight] = {}
        self.other_models: Counter[str] = Counter()
        """models that requests named, other than the one that answers: they are ignored"""

    def progress(self) -> BatchProgress:
        """How far the job is; may be called from another thread."""
        return self._progress

    @property
    def output_disturbed(self) -> bool:
        """Whether others removed, replaced or changed the output while the job ran."""
        return self._output.disturbed

    def run(self, engine: Engine) -> BatchProgress:
        """Answer every request that has no result yet.

        Raises:
          BatchFileError: the output cannot be written, or the input changed meanwhile.
          NspjaxError: the engine failed. What had finished is in the output.
        """
        if not self._finished_before:
            self._output.truncate()
        for output in engine.stream(self._requests(engine)):
            finished = self._collect(output)
            if finished is not None:
                self._answer(finished, engine.tools)
        return self.progress()

    def close(self) -> None:
        """Sync the output and give up its lock."""
        self._output.close()

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

    def _requests(self, engine: Engine) -> Iterator[Request]:
        """What the engine is to answer, one by one; requests that it cannot serve end here."""
        entries = self._input.by_id.values()
        waiting = (entry for entry in entries if entry.custom_id not in self._finished_before)
        for line in self._input.read(waiting):
            try:
                asked = parse_request(line, engine.chat_prompt, self._seed)
                asked = with_required_call(asked, engine.tools)
                requests = [
                    Request(
                        f"{line.custom_id}/{i}",
                        prompt,
                        asked.params,
                        clip_max_tokens=asked.clip_max_tokens,
                        with_text=asked.echo,
                    )
                    for i, prompt in enumerate(asked.prompts)
                ]
                _validate(engine, requests, "tools" if asked.form is None else asked.form.field)
            except RequestError as error:
                self._refuse(line, error)
                continue
            if asked.model not in (None, self._model):
                self.other_models[asked.model] += 1
            self._in_flight[line.custom_id] = _InFlight(line, asked)
            yield from requests

    def _collect(self, output: RequestOutput) -> _InFlight | None:
        """Add an engine's output to its request; the request, if that was the last one."""
        custom_id, _, index = output.request_id.rpartition("/")
        found = self._in_flight[custom_id]
        found.outputs[int(index)] = output
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
        self._output.append(
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
        self._output.append(error_line(line, error))
        self._count(refused=self._progress.refused + 1)

    def _count(self, **counts: int) -> None:
        self._progress = dataclasses.replace(self._progress, **counts)


def _validate(engine: Engine, requests: Iterable[Request], form_field: str) -> None:
    """form_field: what gives the answers their form.

    Raises:
      RequestError: one of the requests cannot be served.
    """
    for request in requests:
        try:
            engine.validate(request)
        except GrammarError as error:
            raise FieldError(f"{form_field}: {error}", param=form_field) from error


def _same_file(one: str, other: str) -> bool:
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)
