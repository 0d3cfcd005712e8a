"""`nspjax run-batch`: its options."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from nspjax.cli.progress import ProgressStyle
from nspjax.dtypes import APPENDED, STORED_ONLY


class WeightDtype(enum.StrEnum):
    """Element types of weights; auto is the checkpoint's own."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class ToolCallParser(enum.StrEnum):
    """Formats of tool calls, by vLLM's names for their parsers."""

    hermes = "hermes"
    llama3_json = "llama3_json"
    mistral = "mistral"


def _checked_kv_dtype(name: str | None) -> str | None:
    if name is None or name in APPENDED + STORED_ONLY:
        return name
    choices = ", ".join(map(repr, APPENDED + STORED_ONLY))
    raise typer.BadParameter(f"{name!r} is not one of {choices}.")


def run_batch(
    input: Annotated[
        str,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="Requests: lines of JSON, also compressed (gzip, zstd), or a Parquet table; - is "
            "standard input.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Results, in the order they finish: lines of JSON, or what .gz, .zst or .parquet "
            "says; - is standard output.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="DIR|FILE|ID",
            help="A Hugging Face checkpoint directory, a GGUF file, or a hub id.",
        ),
    ],
    errors: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Results of requests that got no answer; in the output if not given.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Answer the first N requests only."),
    ] = None,
    store: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR",
            help="Keep the KV cache in this directory; give it again for more devices. "
            '"memory:" is a store in memory. Without it JAX keeps the cache.',
        ),
    ] = None,
    host_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory for the store; 4GiB if not given."),
    ] = None,
    dtype: Annotated[
        WeightDtype, typer.Option(metavar="TYPE", help="Weights: auto, float32, bfloat16, float16.")
    ] = WeightDtype.auto,
    weights_resident: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="With --store: how much of the weights stays in memory; the rest is read from the "
            "store layer by layer. All stay if not given.",
        ),
    ] = None,
    kv_dtype: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            callback=_checked_kv_dtype,
            help=f"KV cache: {', '.join(APPENDED)} or, in a store, {', '.join(STORED_ONLY)}; as "
            "the weights if not given.",
        ),
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Most tokens of a prompt with its answer; the model's context if not given.",
        ),
    ] = None,
    max_num_seqs: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Answers generated at the same time; 16 if not given."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="For requests without a seed of their own.")
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", metavar="", help="Answer what the output does not have yet.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", metavar="", help="Throw the output's content away.")
    ] = False,
    progress: Annotated[
        ProgressStyle, typer.Option(metavar="HOW", help="On stderr: auto, plain or none.")
    ] = ProgressStyle.auto,
    share_prefixes: Annotated[
        bool,
        typer.Option(
            "--share-prefixes",
            metavar="",
            help="With --store: compute and keep once what prompts have in common at the start.",
        ),
    ] = False,
    pipeline: Annotated[
        str | None,
        typer.Option(
            metavar="PASSES",
            help="With --store: a preset (baseline, ans, ans+writeback, hilos, auto) or passes as "
            "nspjax opt takes them.",
        ),
    ] = None,
    interval_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="With --store: tokens a row gains between two writes, a power of two; chosen by "
            "the model's shape if not given.",
        ),
    ] = None,
    tool_call_parser: Annotated[
        ToolCallParser | None,
        typer.Option(
            metavar="FORMAT",
            help="How the model writes tool calls: hermes, llama3_json, mistral; told by its chat "
            "template if not given.",
        ),
    ] = None,
    speculative: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Verify several tokens at a time where answers repeat what stands before: "
            '{"method": "ngram", "num_speculative_tokens": 8, "prompt_lookup_max": 4}.',
        ),
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option(
            metavar="OPTIONS",
            help="With --store: read a part of V, such as mass=0.95 or mass=0.95,budget=0.2: the "
            "options of the pass sparsify (docs/sparse.md). All is read if not given.",
        ),
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write what the store read, wrote and computed at the end, for ui.perfetto.dev.",
        ),
    ] = None,
    compilation_cache: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|none",
            help="Keep compiled programs here for the next job; in the user's cache directory if "
            "not given.",
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", metavar="", help="Show the traceback of an error.")
    ] = False,
) -> None:
    """Answer a file of requests: OpenAI's batch lines in, result lines out.

    \b
    A request is one line of JSON:
      {"custom_id": "1", "method": "POST", "url": "/v1/completions",
       "body": {"prompt": "def main():", "max_tokens": 64}}
    or, with the url /v1/chat/completions, a body of {"messages": [...]}.
    A request that cannot be served gets an error line, and the job goes on.
    A job that was stopped or killed goes on with --resume.

    \b
    Exit codes:
      0    every request is answered
      1    the job failed on the way; what had finished is in the output
      2    bad usage or bad input; nothing was begun
      3    the job ended, and some results are error lines
      130  stopped by Ctrl-C, 143 by SIGTERM; what had finished is in the output
    """
    from nspjax.cli.batch_options import RunBatch
    from nspjax.cli.run_batch import execute

    code = execute(
        RunBatch(
            input,
            output,
            model,
            tuple(store or ()),
            host_memory,
            dtype.value,
            kv_dtype,
            max_model_len,
            max_num_seqs,
            resume,
            overwrite,
            seed,
            progress,
            debug,
            trace,
            share_prefixes,
            pipeline,
            weights_resident,
            interval_tokens,
            errors,
            limit,
            compilation_cache,
            None if tool_call_parser is None else tool_call_parser.value,
            speculative,
            attention,
        )
    )
    raise typer.Exit(code)
