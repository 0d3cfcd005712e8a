"""What every bench has on its command line, and its report: Markdown, and JSON with all rounds."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Table:
    """A Markdown table; cells are text already."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bench_parser(doc: str | None, *, store: bool = True) -> argparse.ArgumentParser:
    """A parser with the options that all benches have; `doc` is the script's docstring."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    if store:
        parser.add_argument("--store", required=True, type=Path, help="a directory on the disk")
    parser.add_argument(
        "--rounds", default=5, type=int, help="rounds, each thing once a round (default 5)"
    )
    parser.add_argument("--json", type=Path, help="also write every round to this file")
    return parser


def publish(args: argparse.Namespace, tables: Sequence[Table], rounds: Any) -> None:
    """Print the tables; write settings, machine and `rounds` to --json.

    rounds: what was measured, before any median: mappings, sequences, dataclasses, numbers.
    """
    print("\n\n".join(table.markdown() for table in tables))
    if args.json is None:
        return
    report = {
        "command": sys.argv,
        "settings": vars(args),
        "machine": {"kernel": platform.release(), "cpu": cpu_name(), "python": sys.version},
        "rounds": rounds,
    }
    args.json.write_text(json.dumps(report, indent=1, default=_jsonable) + "\n")


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _jsonable(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else str(value)  # pyright: ignore
