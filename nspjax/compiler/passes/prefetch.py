"""prefetch: what the next layers read is announced before this one's attention begins."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import ClassVar

from nspjax.compiler import mlir, nsp
from nspjax.compiler.nsp import handles
from nspjax.compiler.nsp.dependence import Dependence, members
from nspjax.compiler.nsp.layer_blocks import layer_blocks
from nspjax.compiler.passes.options import check_whole


class Order(enum.StrEnum):
    """In which order layers are announced."""

    FORWARD = "forward"
    BACKWARD = "backward"


@dataclasses.dataclass(frozen=True)
class Prefetch:
    """Announce what layer l + distance reads before the attention of layer l begins.

    A layer is what lies between two attentions of a block: its KV tiles get an nsp.prefetch, the
    weights on storage that it loads an nsp.load_ahead. After the last layer come the first ones
    again, as the next step will read them. The attention takes the announcement as an operand and
    the next announcement takes the attention, so that they are made in this order and no earlier.

    A layer is left out if its rows and lengths are not known so early, and its tiles where a part
    of V is read, which its queries decide. The engine no longer guesses what is read next.
    """

    name: ClassVar[str] = "prefetch"
    stage: ClassVar[nsp.Stage] = nsp.Stage.SCHEDULED
    after: ClassVar[tuple[str, ...]] = ("offload-weights", "sparsify")
    distance: int = 1
    """how many layers ahead"""
    bytes: int = 0
    """how much of a layer at most; 0: all that the engine has room for"""
    order: Order = Order.FORWARD
    """`forward`: before each attention, the one layer that is `distance` ahead; `backward`: before
    every distance-th attention, the next `distance` layers, the furthest first"""

    def __post_init__(self) -> None:
        check_whole(self, "distance", least=1)
        check_whole(self, "bytes", least=0, most=2**63 - 1)

    def run(self, module: mlir.Module) -> mlir.Module:
        for block in layer_blocks(module):
            _Layers(self, Dependence.of(block)).announce()
        return module

    def targets(self, read: int, n_reads: int) -> list[int]:
        """The layers to announce before a read, of a block's n_reads."""
        if self.order is Order.FORWARD:
            return [(read + self.distance) % n_reads]
        if read % self.distance:
            return []
        furthest = min(read + self.distance, n_reads)
        return [layer % n_reads for layer in range(furthest, read, -1)]


class _Layers:
    """The layers of one block."""

    def __init__(self, options: Prefetch, found: Dependence) -> None:
        self.options = options
        self.found = found
        self.reads = [i for i, op in enumerate(found.ops) if nsp.kind(op) in nsp.READS]
        self.loads = _loads_by_layer(found, self.reads)
        self.after: dict[int, list[mlir.Value]] = {}
        """operands that operations get at the end, when none is looked for any more"""

    def announce(self) -> None:
        ops = self.found.ops
        for number, read in enumerate(self.reads):
            # not before the last attention has begun, and one by one
            first = [ops[self.reads[number - 1]].results[0]] if number else []
            before = first
            for layer in self.options.targets(number, len(self.reads)):
                if not _reads_a_part(ops[self.reads[layer]]):
                    before = self._prefetch(read, self.reads[layer], before)
                for load in self.loads[layer]:
                    before = self._load_ahead(read, load, before)
            if before is not first:
                self.after.setdefault(read, []).extend(before)
            nsp.set_attribute(ops[read], "read_ahead", False)
        for at, values in self.after.items():
            mlir.add_operands(ops[at], values)

    def _prefetch(self, read: int, target: int, before: list[mlir.Value]) -> list[mlir.Value]:
        """Announce a cache in front of `read`; what must come before the next announcement."""
        anchor, source = self.found.ops[read], self.found.ops[target]
        rows = {name: nsp.operand(source, name) for name in ("rows", "length")}
        handle = handles.newest(source, anchor)
        if handle is None or not self._bring_before(read, list(rows.values())):
            return before
        prefetch = nsp.PREFETCH.build(
            mlir.Builder(anchor),
            handle=handle,
            **rows,
            most_bytes=self.options.bytes,
            **nsp.cache_attributes(source),
            after=before,
        )
        done = nsp.result(prefetch, "done")
        stales = handles.next_change(handle, anchor.block)
        if stales is not None:
            at = self.found.index[stales]
            if not self.found.ancestors[at] & 1 << read:
                self.after.setdefault(at, []).append(done)
        return [done]

    def _load_ahead(self, read: int, load: int, before: list[mlir.Value]) -> list[mlir.Value]:
        anchor, weight = self.found.ops[read], nsp.operand(self.found.ops[load], "weight")
        if not self._bring_before(read, [weight]):
            return before
        load_ahead = nsp.LOAD_AHEAD.build(mlir.Builder(anchor), weight=weight, after=before)
        done = nsp.result(load_ahead, "done")
        if load > read:  # not one of the next step
            self.after.setdefault(load, []).append(done)
        return [done]

    def _bring_before(self, read: int, values: Sequence[mlir.Value]) -> bool:
        """Have values made before a read; False if that cannot be."""
        makers = 0
        for value in values:
            at = self.found.maker(value)
            if at is not None:
                makers |= self.found.ancestors[at]
        if makers & sum(1 << later for later in self.reads if later >= read):
            return False
        n_ops, anchor = len(self.found.ops), self.found.ops[read]
        made = [self.found.ops[at] for at in members(makers & ((1 << n_ops) - 1))]
        late = [op for op in made if anchor.is_before_in_block(op)]
        if any(nsp.kind(op) is nsp.ATTEND_WAIT for op in late):
            return False  # the read would begin later
        for op in late:
            op.move_before(anchor)
        return True


def _reads_a_part(read: mlir.Operation) -> bool:
    return nsp.kind(read) is not nsp.HAUL and nsp.is_sparse(read)


def _loads_by_layer(found: Dependence, reads: Sequence[int]) -> list[list[int]]:
    """The loads between each read and the one before it; those after the last read come first."""
    layers: list[list[int]] = [[] for _ in reads]
    rest: list[int] = []
    for i, op in enumerate(found.ops):
        if nsp.kind(op) is nsp.LOAD and reads:
            layer = sum(read < i for read in reads)
            (rest if layer == len(reads) else layers[layer]).append(i)
    if reads:
        layers[0] = rest + layers[0]
    return layers
