"""verify-schedule: a schedule that could give wrong results is refused."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from nspjax.compiler import mlir
from nspjax.compiler.nsp.hazards import check_schedule


@dataclasses.dataclass(frozen=True)
class VerifySchedule:
    """Refuse a module with a hazard; change nothing. Before lower-to-ffi it is done by itself.

    Hazards, each named with the operation and its source line:

    - a handle that two operations use up, or one in a loop that does not carry it;
    - a ticket that is not waited for exactly once, in the block of its start or where it is carried
      to;
    - a read of what an earlier append adds with the handle from before it, or of what a later
      append adds;
    - an nsp.prefetch or nsp.writeback that may come when its handle is stale, since the append that
      makes it so does not wait for it;
    - tokens held back in a block that never writes them.
    """

    name: ClassVar[str] = "verify-schedule"
    after: ClassVar[tuple[str, ...]] = ("offload-weights",)

    def run(self, module: mlir.Module) -> mlir.Module:
        check_schedule(module)
        return module
