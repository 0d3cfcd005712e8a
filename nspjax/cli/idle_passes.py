"""Which passes found nothing to do: one that was expected to may stand in the wrong place."""

from __future__ import annotations

from nspjax.compiler import mlir
from nspjax.compiler.driver.pipeline import PassReport


class IdlePasses:
    """Observes a pipeline. names: of the passes that left the module as it was, in their order."""

    def __init__(self, module: mlir.Module):
        self.names: list[str] = []
        self._text = str(module)

    def observe(self, report: PassReport) -> None:
        text = str(report.module)
        if text == self._text:
            self.names.append(report.name)
        self._text = text
