"""The commands of docs/opt.md run as they stand."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nspjax.cli import app

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```\n(.*?)```", (ROOT / "docs/opt.md").read_text(), re.S)
COMMANDS = [
    line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.strip()
]


@pytest.mark.parametrize("command", COMMANDS)
def test_it_runs(command, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "docs").mkdir()
    (tmp_path / "build").mkdir()
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(command, comments=True)
    assert program == "nspjax"
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0, ended.output
    drawn = tmp_path / "docs/schedule.svg"
    assert drawn.exists() == ("--graph" in arguments)
    if drawn.exists():
        assert drawn.read_text() == (ROOT / "docs/schedule.svg").read_text()


def test_there_are_commands():
    assert len(COMMANDS) > 4
