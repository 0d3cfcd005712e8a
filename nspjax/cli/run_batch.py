"""`nspjax run-batch`: a file of requests in, a file of answers out."""

from __future__ import annotations

import contextlib
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nspjax.cli.answer_settings import answer_settings
from nspjax.cli.batch_options import RunBatch, check_options, served_name
from nspjax.cli.compilation_cache import compilation_cache
from nspjax.cli.exit_code import ExitCode
from nspjax.cli.interrupt import Interrupted, raise_on_signals
from nspjax.cli.progress import ProgressReporter, Sample
from nspjax.cli.speculative_option import speculation_of
from nspjax.cli.summary import requests, summary
from nspjax.errors import NspjaxError
from nspjax.message_text import shortened

if TYPE_CHECKING:
    from nspjax.generate import LLM
    from nspjax.generate.batch.job import BatchJob
    from nspjax.runtime import Store
    from nspjax.runtime.trace import Span

_MOST_MESSAGE = 4000


def execute(options: RunBatch) -> int:
    """Do the job and tell about it on stderr. Returns the exit code."""
    reporter = ProgressReporter(options.progress)
    run = _Run(options, reporter)
    try:
        with raise_on_signals(reporter.say), _warnings_said(reporter):
            return run()
    except Interrupted as stop:
        reporter.say(f"stopped by {stop}{_notes(stop)}{run.what_is_kept()}")
        return stop.exit_code
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        reporter.say(f"error: {_told(error)}{run.what_is_kept()}")
        expected = isinstance(error, NspjaxError) and not run.began
        return ExitCode.REFUSED if expected else ExitCode.FAILED


class _Run:
    """One run of a job. Checks come first, the cheapest first; then the model is loaded."""

    def __init__(self, options: RunBatch, reporter: ProgressReporter):
        self._options = options
        self._reporter = reporter
        self._job: BatchJob | None = None
        self._started = time.monotonic()
        self.began = False

    def __call__(self) -> ExitCode:
        options = self._options
        check_options(options)
        from nspjax.generate.batch.job import BatchJob

        with BatchJob(
            options.input,
            options.output,
            errors_path=options.errors,
            limit=options.limit,
            model=served_name(options.model),
            seed=options.seed,
            settings=answer_settings(options),
            resume=options.resume,
            overwrite=options.overwrite,
        ) as job:
            self._job = job
            before = job.progress()
            if before.finished == before.total:
                self._reporter.note(f"all {before.total} requests were finished: nothing to do")
            else:
                self._answer(job)
        end = job.progress()
        if end.refused:
            return ExitCode.SOME_REQUESTS_REFUSED
        return ExitCode.DONE

    def _answer(self, job: BatchJob) -> None:
        todo = job.progress().total - job.progress().finished
        self._reporter.note(f"{requests(todo)} to answer; loading {self._options.model}")
        from nspjax.generate.batch.lines import shown

        with load_engine(self._options) as (llm, store):
            self.began = True
            with (
                self._tracing(llm, store),
                self._reporter.watching(lambda: _sample(job, llm, store)),
            ):
                job.run(llm)
            stored = store.stats() if store is not None else None
            self._reporter.note(
                summary(
                    job.progress(),
                    llm.stats(),
                    stored,
                    seconds=time.monotonic() - self._started,
                    output=self._options.output,
                    errors=self._options.errors,
                )
            )
            if job.other_models:
                self._reporter.note(
                    f"note: {requests(job.other_models.total())} named another model, such as "
                    f"{shown(min(job.other_models))}; this one answered them"
                )

    @contextlib.contextmanager
    def _tracing(self, llm: LLM, store: Store | None) -> Iterator[None]:
        """Write the trace at the end, of a job that failed too; the answers matter more than it."""
        try:
            yield
        finally:
            if self._options.trace is not None and store is not None:
                try:
                    store.save_trace(self._options.trace, _row_spans(llm))
                except NspjaxError as error:
                    self._reporter.say(f"warning: there is no trace: {error}")

    def what_is_kept(self) -> str:
        """The end of an error message: what there is to resume."""
        if not self.began or self._job is None or self._job.output_disturbed:
            return ""
        progress = self._job.progress()
        kept_in = " and ".join(self._job.kept_in)
        finished = f"{progress.finished} of {requests(progress.total)} are finished"
        if self._options.output == "-":
            return f"\n{finished}, and on standard output"
        if progress.finished == progress.total:
            return f"\nall {requests(progress.total)} are finished in {kept_in}"
        resume = "--resume instead of --overwrite" if self._options.overwrite else "--resume"
        return f"\n{finished} in {kept_in}; the same command with {resume} answers the rest"


@contextlib.contextmanager
def load_engine(options: RunBatch) -> Iterator[tuple[LLM, Store | None]]:
    """The store and the model, closed at the end. The store first: it opens at once, or not."""
    import nspjax

    with contextlib.ExitStack() as opened:
        opened.enter_context(compilation_cache(options.compilation_cache))
        store = None
        if options.store:
            memory: dict[str, Any] = _given(host_memory=options.host_memory)
            store = opened.enter_context(nspjax.Store(*options.store, **memory))
        sizes: dict[str, Any] = _given(
            weights_resident=options.weights_resident,
            kv_dtype=options.kv_dtype,
            max_model_len=options.max_model_len,
            max_num_seqs=options.max_num_seqs,
            pipeline=options.pipeline,
            interval_tokens=options.interval_tokens,
            tool_call_parser=options.tool_call_parser,
            attention=options.attention,
        )
        llm = nspjax.LLM(
            options.model,
            store=store,
            dtype=options.dtype,
            share_prefixes=options.share_prefixes,
            speculative=speculation_of(options.speculative),
            **sizes,
        )
        yield opened.enter_context(llm), store


def _sample(job: BatchJob, llm: LLM, store: Store | None) -> Sample:
    stored = store.stats() if store is not None else None
    return Sample(
        time.monotonic(),
        job.progress(),
        llm.stats(),
        job.work(),
        stored and stored.kv_bytes_stored,
        stored and stored.bytes_read,
    )


def _row_spans(llm: LLM) -> list[Span]:
    """Which custom_id had which row, in lanes by row."""
    from nspjax.runtime.trace import Span

    return [
        Span(f"row {each.row}", each.request_id.rpartition("/")[0], each.begin_ns, each.end_ns)
        for each in sorted(llm.served(), key=lambda each: (each.row, each.begin_ns))
    ]


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _told(error: Exception) -> str:
    said = shortened(str(error), _MOST_MESSAGE)
    if isinstance(error, NspjaxError):
        return said + _notes(error)
    return f"{type(error).__name__}: {said}\nThis was not foreseen; --debug shows where it happened"


def _notes(error: BaseException) -> str:
    """What went wrong besides."""
    return "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))


@contextlib.contextmanager
def _warnings_said(reporter: ProgressReporter) -> Iterator[None]:
    """Warnings as lines of text, without a source line, above the progress."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: reporter.say(f"warning: {message}")
        yield
