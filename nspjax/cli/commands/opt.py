"""`nspjax opt`: its options."""

from __future__ import annotations

from typing import Annotated

import typer


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
