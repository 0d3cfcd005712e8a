"""Jobs in processes of their own, to be stopped and killed."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent


def request_line(custom_id: str, **body: object) -> str:
    """An input line."""
    url = "/v1/completions"
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}) + "\n"


def results(output: Path) -> dict[str, dict]:
    """Those in a file, as `results_in` has them."""
    content = output.read_bytes()
    return results_in(gzip.decompress(content) if output.suffix == ".gz" else content)


def results_in(content: bytes) -> dict[str, dict]:
    """custom_id -> its result, without the time. Every id must be there once."""
    found = {}
    for text in content.splitlines():
        result = json.loads(text)
        assert result["custom_id"] not in found
        result["response"]["body"].pop("created", None)
        found[result["custom_id"]] = result
    return found


def n_bytes_in(path: Path) -> int:
    """-1 where there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


class Job:
    """`python PROGRAM run-batch -i .. -o ..` with stderr in a file beside the output."""

    def __init__(
        self,
        program: Sequence[str],
        source: Path,
        output: Path,
        *options: str,
        env: Mapping[str, str] | None = None,
    ):
        self.output = output
        self.lines = output if output.suffix == ".jsonl" else Path(f"{output}.partial.jsonl")
        """the file that results are appended to"""
        self._log = output.with_suffix(".log")
        files = ["-i", str(source), "-o", str(output)]
        paths = [str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, "run-batch", *files, *options],
                stderr=log,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | (env or {}),
            )

    def wait_for_bytes(self, n_bytes: int, seconds: float = 240) -> bool:
        """Until the results have grown to n_bytes. False: the process ended before."""
        deadline = time.monotonic() + seconds
        while n_bytes_in(self.lines) < n_bytes:
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.002)
        return True

    def kill(self) -> None:
        """kill -9, if it still runs."""
        self.process.kill()
        self.process.wait()

    def end(self, seconds: float = 240) -> int:
        """The exit code, once it ended."""
        return self.process.wait(seconds)

    def log(self) -> str:
        """What it said on stderr."""
        return self._log.read_text()
