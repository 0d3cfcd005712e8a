"""delay-writeback: new tokens stay in host memory for a while, and go out where it costs least."""

from __future__ import annotations

import dataclasses
import enum
from typing import ClassVar

from nspjax.compiler import mlir, nsp
from nspjax.compiler.nsp import handles
from nspjax.compiler.nsp.layer_blocks import layer_blocks, operations_of, reads_of, wait_of
from nspjax.compiler.passes.options import check_whole

After = dict[mlir.Operation, list[mlir.Value]]
"""operands that operations get at the end, when none is looked for any more"""


class Placement(enum.StrEnum):
    """Where in a step the held tokens are written."""

    ANYWHERE = "anywhere"
    OUTSIDE_SCAN = "outside-scan"
    STEP_END = "step-end"


@dataclasses.dataclass(frozen=True)
class DelayWriteback:
    """Hold the tokens of decode steps back, and write those of a row when `interval` have come.

    The store attends over what it holds as over the rest, so results do not change. This is the
    delayed KV writeback of HILOS (arXiv 2502.09921). Prefill's appends are as before.
    """

    name: ClassVar[str] = "delay-writeback"
    stage: ClassVar[nsp.Stage] = nsp.Stage.SCHEDULED
    interval: int = 16
    """tokens; 1 writes every token when it comes, a page for each, as a store without the delay
    does; 16 is the paper's best"""
    placement: Placement = Placement.ANYWHERE
    """`anywhere`: right after the append, beside whatever is being read; `outside-scan`: after
    the attention of its layer, and no scan begins before the bytes are on the medium, since a
    drive that writes reads much slower; `step-end`: the same, for all layers at once after the
    last attention of the block"""

    def __post_init__(self) -> None:
        check_whole(self, "interval", least=1)

    @property
    def interval_tokens(self) -> int | None:
        """One that writes every token needs no small tiles."""
        return self.interval if self.interval > 1 else None

    def run(self, module: mlir.Module) -> mlir.Module:
        for block in layer_blocks(module):
            appends = [op for op in operations_of(block) if _is_decode_append(op)]
            for append in appends:
                nsp.set_attribute(append, "hold", True)
            after: After = {}
            if self.placement is Placement.STEP_END:
                self._at_step_end(block, appends, after)
            else:
                reads = reads_of(block)
                for append in appends:
                    self._in_layer(append, reads, after)
            for op, written in after.items():
                mlir.add_operands(op, written)
        return module

    def _in_layer(self, append: mlir.Operation, reads: list[mlir.Operation], after: After) -> None:
        read = handles.taker(nsp.next_handle(append), append.block)
        if read is None or nsp.kind(read) not in nsp.READS or self.placement is Placement.ANYWHERE:
            self._write(append, append, after)
            return
        anchor = wait_of(read)
        done = self._write(append, anchor, after)
        following = next((read for read in reads if anchor.is_before_in_block(read)), None)
        if following is not None:
            after.setdefault(following, []).append(done)

    def _at_step_end(self, block: mlir.Block, appends: list[mlir.Operation], after: After) -> None:
        last_of_cache = {handles.root(append): append for append in appends}
        anchor = None
        for op in [*appends, *map(wait_of, reads_of(block))]:
            anchor = op if anchor is None or anchor.is_before_in_block(op) else anchor
        for append in last_of_cache.values():
            assert anchor is not None
            self._write(append, anchor, after)

    def _write(self, append: mlir.Operation, anchor: mlir.Operation, after: After) -> mlir.Value:
        """Write the cache of `append` right after `anchor`, and before it gets a newer version."""
        current = _newest_behind(append, anchor)
        order = () if handles.maker(current) == anchor else anchor.results[:1]
        writeback = nsp.WRITEBACK.build(
            mlir.Builder(anchor, behind=True),
            handle=current,
            interval_tokens=self.interval,
            exclusive=self.placement is not Placement.ANYWHERE,
            **nsp.cache_attributes(append),
            after=order,
        )
        done = nsp.result(writeback, "done")
        stales = handles.next_change(current, append.block)
        if stales is not None:
            after.setdefault(stales, []).append(done)
        return done


def _is_decode_append(op: mlir.Operation) -> bool:
    return nsp.kind(op) is nsp.APPEND and mlir.tensor(nsp.operand(op, "k"))[0][1] == 1


def _newest_behind(append: mlir.Operation, anchor: mlir.Operation) -> nsp.Handle:
    """The newest handle of the cache, right after `anchor`, which is `append` or follows it."""
    current = nsp.next_handle(append)
    user = handles.taker(current, append.block)
    while user is not None and (user == anchor or user.is_before_in_block(anchor)):
        current = nsp.next_handle(user)
        user = handles.taker(current, append.block)
    return current
