"""`nspjax` and its commands."""

from __future__ import annotations

from typing import Annotated

import typer

from nspjax import __version__
from nspjax.cli.commands.emulate_xrt import emulate_xrt
from nspjax.cli.commands.info import info
from nspjax.cli.commands.opt import opt
from nspjax.cli.commands.run_batch import run_batch
from nspjax.cli.standard_streams import open_missing_streams

app = typer.Typer(
    name="nspjax",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


app.command("run-batch", no_args_is_help=True)(run_batch)
app.command("opt", no_args_is_help=True)(opt)
app.command("info")(info)
app.command(
    "emulate-xrt",
    no_args_is_help=True,
    context_settings={"allow_interspersed_args": False},
)(emulate_xrt)
