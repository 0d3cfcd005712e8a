"""The commands and their options. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from nspjax import __version__
from nspjax.cli.progress import ProgressStyle
from nspjax.cli.standard_streams import open_missing_streams

app = typer.Typer(
    name="nspjax",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class KVDtype(enum.StrEnum):
    """Element types of KV caches; the integers are a store's."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    int8 = "int8"
    int4 = "int4"


class WeightDtype(enum.StrEnum):
    """Element types of weights; auto is the checkpoint's own."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def main() -> None:
    """The entry point of `nspjax` and `python -m nspjax`."""
    open_missing_streams()
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"nspjax {__version__}")
        raise typer.Exit


@app.callback()
def nspjax(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar="",
            help="Print the version.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """LLM inference in JAX with the KV cache on storage and the attention next to it."""


@app.command(name="run-batch", no_args_is_help=True)
def run_batch(
    input: Annotated[
        str,
        typer.Option("--input", "-i", metavar="FILE", help="Requests, one JSON object a line."),
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="Results, in the order they finish."),
    ],
    model: Annotated[
        str,
        typer.Option(metavar="DIR|ID", help="A Hugging Face checkpoint directory, or a hub id."),
    ],
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
        KVDtype | None,
        typer.Option(
            metavar="TYPE",
            help="KV cache: float32, bfloat16, float16 or, in a store, int8, int4; as the weights "
            "if not given.",
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
            help="With --store: compute and keep once what prompts have in common at their begin.",
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
    trace: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write what the store read, wrote and computed at the end, for ui.perfetto.dev.",
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
    from nspjax.cli.run_batch import RunBatch, execute

    code = execute(
        RunBatch(
            input,
            output,
            model,
            tuple(store or ()),
            host_memory,
            dtype.value,
            kv_dtype.value if kv_dtype else None,
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
        )
    )
    raise typer.Exit(code)


@app.command(no_args_is_help=True)
def opt(
    input: Annotated[
        str,
        typer.Argument(
            metavar="FILE.mlir|-|MODULE:FUNCTION|FILE.py:FUNCTION",
            help="A module, or a Python function that returns (fn, args).",
            show_default=False,
        ),
    ],
    pipeline: Annotated[
        str | None,
        typer.Option(
            "--pipeline",
            "-p",
            metavar="PASSES",
            help="pass,pass{option=value}; near_storage's default if not given.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="The module; stdout if not given."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="PASS", help="Run the passes up to this one, and it.")
    ] = None,
    print_ir_after: Annotated[
        str,
        typer.Option(metavar="PASSES", help="On stderr, the module after these: a,b or all."),
    ] = "",
    dump_dir: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Write the module after every pass to numbered files."),
    ] = None,
    table: Annotated[
        bool,
        typer.Option(
            "--table",
            metavar="",
            help="On stderr, pass by pass: operations, bytes over the link and from storage, time.",
        ),
    ] = False,
    graph: Annotated[
        str | None,
        typer.Option(metavar="FILE.svg", help="Draw the schedule of two layers."),
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option(
            metavar="RATES",
            help="Plan and draw with these: device=3GB/s,link=16GB/s,compute=10TFLOP/s.",
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="TOKENS",
            help="For --table and --graph: what each row has; the caches' capacity if not given.",
        ),
    ] = None,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE|FILE.py",
            help="Run this first, for the passes that it registers; may be given again.",
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", metavar="", help="Show the traceback of an error.")
    ] = False,
) -> None:
    """Run passes on a module and see what each makes of it. Nothing is executed.

    \b
    A function is named step:decode or step.py:decode, where step.py has
      def decode():
          return fn, (weights, tokens, caches)
    with a ShapeDtypeStruct wherever there could be an array.

    \b
    Exit codes:
      0  all passes ran
      1  a pass refused the module or broke it
      2  bad usage or bad input; no pass was run
    """
    from nspjax.cli.opt import Opt, execute

    raise typer.Exit(
        execute(
            Opt(
                input,
                pipeline,
                output,
                until,
                print_ir_after,
                dump_dir,
                table,
                graph,
                rates,
                context,
                tuple(imports or ()),
                debug,
            )
        )
    )


@app.command()
def info(
    store: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="Also tell about this store; may be given again."),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option("--probe", metavar="", help="Measure the stores' drives, half a second each."),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", metavar="", help="As JSON, for programs.")
    ] = False,
) -> None:
    """Show versions, the engine's build and kernels, the machine, and what stores lie on.

    \b
    Exit codes:
      0  shown
      2  bad usage, or a store that is no directory
    """
    from nspjax.cli.info import ShowInfo, execute

    raise typer.Exit(execute(ShowInfo(tuple(store or ()), probe, json)))


@app.command(
    name="emulate-xrt",
    no_args_is_help=True,
    context_settings={"allow_interspersed_args": False},
)
def emulate_xrt(
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND…", help="What to run.", show_default=False),
    ],
    cards: Annotated[int, typer.Option(metavar="N", help="How many cards there are.")] = 1,
    compute_units: Annotated[
        int, typer.Option(metavar="N", help="How many attention kernels each card has.")
    ] = 1,
    strict_sync: Annotated[
        bool,
        typer.Option(
            "--strict-sync",
            metavar="",
            help="A buffer has a copy in the host and one on the card, as on hardware: a sync that "
            "was forgotten gives wrong results.",
        ),
    ] = False,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FAULT",
            help="Let something go wrong; may be given again. die, die-in-run or hang, with "
            ":after=N (its N-th run) and :card=K (else every card); no-p2p; xclbin=truncated, "
            "xclbin=kernel-name or xclbin=arguments.",
        ),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Append what happens on the cards, a line of JSON an event."
        ),
    ] = None,
    dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Where the run's directory is made, the cards' drives in it; a temporary one if "
            "not given.",
        ),
    ] = None,
) -> None:
    """Run a command on a machine that seems to have SmartSSDs.

    \b
    The real XRT runs, on cards whose kernel is the C simulation of the HLS sources:
      nspjax emulate-xrt --cards 2 -- nspjax run-batch … --store xrt:0,1
    NSPJAX_XCLBIN and NSPJAX_XRT_PATH are set for the command; no number that it
    measures says anything about a card's speed.

    \b
    Exit codes: the command's own, 128 + n where signal n ended it, and
      2  bad usage, or something is not installed; the command was not run
    """
    from nspjax.cli.emulate_xrt import EmulateXrt, execute

    raise typer.Exit(
        execute(
            EmulateXrt(
                tuple(command),
                cards,
                compute_units,
                strict_sync,
                tuple(fault or ()),
                log,
                dir,
            )
        )
    )
