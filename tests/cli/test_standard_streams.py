"""Commands that are started with closed streams, as some schedulers do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import HERE, request_line, results

CLOSED = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-"}


@pytest.mark.parametrize("closed", CLOSED.values(), ids=CLOSED)
def test_a_job_without_standard_streams(tmp_path: Path, closed: str):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(request_line(str(i), prompt="x") for i in range(3)))
    command = [sys.executable, str(HERE / "stub_main.py"), "run-batch"]
    command += ["-i", str(source), "-o", str(output), "--model", str(tmp_path)]
    ended = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *command],
        env=os.environ | {"PYTHONPATH": str(HERE.parent.parent)},
    )
    assert ended.returncode == 0
    assert list(results(output)) == ["0", "1", "2"]
