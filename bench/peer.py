"""Other inference engines, each in a process and an environment of its own (bench/peers/)."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

from nspjax.models import ModelConfig

SCRIPTS = Path(__file__).parent / "peers"


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a peer may be run; the bench keeps the fastest of its settings."""

    peer: str
    label: str
    script: str
    options: dict[str, Any]


SETTINGS = (
    *(
        Setting(
            "llama.cpp",
            f"{weights} weights, flash attention {'on' if flash else 'off'}",
            "llama_cpp_decode.py",
            {"weights": weights, "flash_attention": flash},
        )
        for weights in ("bf16", "f16")
        for flash in (True, False)
    ),
    *(
        Setting("transformers", attention, "transformers_decode.py", {"attention": attention})
        for attention in ("sdpa", "eager")
    ),
)


def shape_of(config: ModelConfig) -> dict[str, Any]:
    """What the peers need to know of a model."""
    fields = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "n_layers",
        "n_heads",
        "n_kv_heads",
        "head_dim",
    )
    shape = {field: getattr(config, field) for field in fields}
    return {**shape, "context_tokens": config.max_position_tokens}


class Peer:
    """A running peer, its model loaded and its KV filled; it sleeps between its turns."""

    def __init__(self, python: Path, setting: Setting, job: dict[str, Any]):
        self.setting = setting
        self._process = subprocess.Popen(
            [python, SCRIPTS / setting.script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.version: str = self._ask({**job, **setting.options})["version"]

    def step_seconds(self, n_steps: int) -> float:
        """The median time of the next n_steps decode steps."""
        return median(self._ask(n_steps))

    def close(self) -> None:
        self._process.communicate()

    def _ask(self, question: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(
                f"{self.setting.peer} died with code {self._process.wait()}: run "
                f"{SCRIPTS / self.setting.script} by hand with {json.dumps(question)} as input"
            )
        return json.loads(answer)
