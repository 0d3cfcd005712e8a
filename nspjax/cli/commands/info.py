"""`nspjax info`: its options."""

from __future__ import annotations

from typing import Annotated

import typer


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
