"""The peers' side of the pipe: a JSON line with a number of steps comes in, their time goes out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def read_job() -> dict[str, Any]:
    """What to run: the first line of standard input."""
    return json.loads(sys.stdin.readline())


def serve_steps(about: dict[str, Any], step: Callable[[], None]) -> None:
    """Say `about`, then run as many steps as each further line asks for, until there is none."""
    # the libraries may print: what we say goes to the pipe, all else to standard error
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(about), file=pipe, flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(json.loads(line)):
            begin = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - begin)
        print(json.dumps(seconds), file=pipe, flush=True)
