"""Programs of this folder on emulated cards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def emulated(command, *, cards=2, options=()) -> list[str]:
    """`command` on so many cards."""
    emulate = [sys.executable, "-m", "nspjax", "emulate-xrt", "--cards", str(cards), *options]
    return [*emulate, "--", *map(str, command)]


def run_on_cards(program, *, directory, cards=2, options=(), stdin="", timeout_s=300) -> str:
    """What a program of this folder, with its arguments, says on so many cards. It must end well.

    directory: for the cards' drives, on a file system with O_DIRECT.
    """
    command = [sys.executable, HERE / program[0], *program[1:]]
    ended = subprocess.run(
        emulated(command, cards=cards, options=[*options, "--dir", str(directory)]),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=os.environ | {"PYTHONWARNINGS": "error"},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout
