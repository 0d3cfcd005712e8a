"""docs/writing-a-pass.md does what it says, for somebody who copies its files and commands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "writing-a-pass.md").read_text()
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", PAGE, re.S))
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.S | re.M)
COMMANDS = [
    line
    for language, block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if not language and line.startswith(("nspjax ", "python "))
]
SMALL = "--devices 1 --context 64 --rounds 1 --steps 1 --layers 2 --batch 2 --plot schedule.svg"


@pytest.fixture
def folder(tmp_path):
    """The repository, with the page's files beside it."""
    for name in ("examples", "bench"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(command, folder):
    program, *arguments = shlex.split(command)
    beside = Path(sys.executable).parent
    return subprocess.run(
        [beside / program, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "40"},
    )


def test_what_the_page_has():
    assert list(FILES) == ["deepest_first.py", "compare.py"]
    assert len(FILES["deepest_first.py"].splitlines()) < 60
    assert [command.split()[:2] for command in COMMANDS] == [
        ["nspjax", "opt"],
        ["nspjax", "opt"],
        ["python", "bench/schedule.py"],
    ]


def test_the_comparison(folder):
    ended = run("python compare.py", folder)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ans+writeback", "deepest-first"]


def test_the_module_before_the_pass(folder):
    ended = run(COMMANDS[0], folder)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r'= "nsp.prefetch"\(.*most_bytes = 0', ended.stdout)


def test_the_pass_in_a_pipeline(folder):
    ended = run(COMMANDS[1], folder)
    assert ended.returncode == 0, ended.stderr
    (row,) = (line for line in ended.stderr.splitlines() if line.split()[:1] == ["deepest-first"])
    assert re.search(r"\+\d+ others", row)


@pytest.mark.slow
def test_the_bench(folder):
    ended = run(f"{COMMANDS[2]} {SMALL}", folder)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("deepest-first") == 2
