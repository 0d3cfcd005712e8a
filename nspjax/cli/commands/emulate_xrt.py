"""`nspjax emulate-xrt`: its options."""

from __future__ import annotations

from typing import Annotated

import typer


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
