"""What each pass changed, as a table on stderr."""

from __future__ import annotations

import dataclasses
import sys

from nspjax.byte_size import format_bytes
from nspjax.compiler import mlir
from nspjax.compiler.driver.pipeline import PassReport
from nspjax.compiler.machine.costs import ModuleCosts, module_costs
from nspjax.errors import CompilerError

PIPED_COLUMNS = 10_000


@dataclasses.dataclass(frozen=True)
class _Row:
    name: str
    costs: ModuleCosts | None
    """None: the module does not say what its caches are"""
    run_us: float | None


class PassTable:
    """Observes a pipeline. context_tokens: what each row is taken to have; None: it is not known,
    and no cache is."""

    def __init__(self, context_tokens: int | None):
        self._context_tokens = context_tokens
        self._rows: list[_Row] = []
        self._notes: dict[str, None] = {}

    def begin(self, module: mlir.Module) -> None:
        """The module that no pass has seen yet."""
        self._rows.append(_Row("(input)", self._costs(module), None))

    def observe(self, report: PassReport) -> None:
        self._rows.append(_Row(report.name, self._costs(report.module), report.run_us))

    def _costs(self, module: mlir.Module) -> ModuleCosts | None:
        try:
            return module_costs(module, self._context_tokens)
        except CompilerError as error:
            self._notes[f"not counted: {error}"] = None
            return None

    def print(self) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        title = "one execution"
        if self._context_tokens is not None:
            title += f", {self._context_tokens} tokens a row"
        table = Table(title=Text(title, style="bold"), title_justify="left", box=None)
        table.add_column("pass", no_wrap=True)
        table.add_column("ops", justify="right", no_wrap=True)
        table.add_column("the engine's, and what changed")
        for name in ("link", "read", "written", "ms"):
            table.add_column(name, justify="right", no_wrap=True)
        before = None
        for row in self._rows:
            table.add_row(*map(Text, _cells(row, before)))
            before = row.costs
        # a file or a program gets each row on a line, however long
        width = None if sys.stderr.isatty() else PIPED_COLUMNS
        console = Console(file=sys.stderr, highlight=False, width=width)
        for shown in (table, *map(Text, self._notes)):
            console.print(shown)


def _cells(row: _Row, before: ModuleCosts | None) -> list[str]:
    run_ms = "" if row.run_us is None else f"{row.run_us / 1000:.1f}"
    if row.costs is None:
        return [row.name, *[""] * 5, run_ms]
    total = row.costs.total
    moved = (total.link_bytes, total.read_bytes, total.written_bytes)
    return [
        row.name,
        str(sum(row.costs.operations.values())),
        _operations(row.costs, before),
        *(format_bytes(n) if n else "" for n in moved),
        run_ms,
    ]


def _operations(costs: ModuleCosts, before: ModuleCosts | None) -> str:
    """The marks and the engine's calls, and how many more or fewer of the rest there are."""
    ours = {name: n for name, n in costs.operations.items() if _is_ours(name)}
    texts = [f"{n} {name.partition('.')[2]}" for name, n in ours.items()]
    if before is not None:
        names = {*costs.operations, *before.operations}
        changes = {
            name: costs.operations.get(name, 0) - before.operations.get(name, 0) for name in names
        }
        more = sum(n for name, n in changes.items() if n > 0 and not _is_ours(name))
        fewer = -sum(n for name, n in changes.items() if n < 0 and not _is_ours(name))
        texts += [f"+{more} others"] * bool(more) + [f"-{fewer} others"] * bool(fewer)
    return ", ".join(texts)


def _is_ours(name: str) -> bool:
    return name.startswith(("nsp.", "nspjax."))
