"""When each operation of a module would run: a list schedule with four resources.

The compute device takes operations in the order of the module and waits only where one of them
does. The link, the devices together, and their writes take one transfer at a time each, in the
order in which they are asked. A time is what `costs` counts over a rate: there is no latency, what
a device computes is hidden behind what it reads, and host memory has room for what is read ahead.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import math

from nspjax.compiler import mlir, nsp
from nspjax.compiler.machine.costs import Cost, kv_bytes, step_costs
from nspjax.compiler.machine.rates import Rates
from nspjax.compiler.nsp.execution import Step, execution
from nspjax.errors import CompilerError

_USES = (nsp.APPEND, *nsp.READS)
"""The calls that make a layer of a cache."""


class Lane(enum.StrEnum):
    """What is busy."""

    compute = "compute"
    link = "link"
    device = "device"
    writes = "writes"


@dataclasses.dataclass(frozen=True)
class Span:
    """Something going on, in seconds from the begin of the execution."""

    lane: Lane
    label: str
    begin_s: float
    end_s: float


@dataclasses.dataclass(frozen=True)
class Timeline:
    """The spans of one execution, and when it begins with each cache, in the order of layers."""

    spans: tuple[Span, ...]
    layer_begins_s: tuple[float, ...]

    @property
    def end_s(self) -> float:
        return max((span.end_s for span in self.spans), default=0.0)


def timeline(module: mlir.Module, rates: Rates, context_tokens: int | None = None) -> Timeline:
    """The schedule of one execution of main, before or after lower-to-ffi.

    context_tokens: how many tokens each row has; None: its cache's capacity.

    Raises:
      CompilerError: an attention whose cache is not known.
    """
    steps = execution(module)
    costs = step_costs(module, steps, context_tokens)
    machine = _Machine(rates, _layers(steps), _reads(steps, costs), context_tokens)
    weights = {
        step.operands[0]: cost
        for step, cost in zip(steps, costs, strict=True)
        if step.kind is nsp.LOAD
    }
    for step, cost in zip(steps, costs, strict=True):
        if step.kind is nsp.LOAD_AHEAD:
            cost = weights.get(step.operands[0], Cost())
        machine.take(step, cost)
    return machine.timeline()


def _layers(steps: list[Step]) -> dict[int, int]:
    """The caches in the order in which they are appended to or attended: 0, 1, …"""
    used = [s.cache for s in steps if s.kind in _USES and s.cache is not None and s.x_of is None]
    return {cache: layer for layer, cache in enumerate(dict.fromkeys(used))}


def _reads(steps: list[Step], costs: list[Cost]) -> collections.deque[tuple[Step, int]]:
    """What the attentions read, in their order: what the engine, left alone, reads ahead."""
    pairs = zip(steps, costs, strict=True)
    return collections.deque((s, cost.read_bytes) for s, cost in pairs if s.kind in nsp.READS)


@dataclasses.dataclass
class _Ahead:
    """What is read, or being read, before it is asked for."""

    n_bytes: float
    end_s: float


class _Machine:
    """The four resources, and what is under way."""

    def __init__(
        self,
        rates: Rates,
        layers: dict[int, int],
        reads: collections.deque[tuple[Step, int]],
        context_tokens: int | None,
    ):
        self._rates = rates
        self._layers = layers
        self._reads = reads
        self._context_tokens = context_tokens
        self._now_s = 0.0
        self._free_s = dict.fromkeys(Lane, 0.0)
        self._spans: list[Span] = []
        self._begins_s: dict[int, float] = {}
        self._computing: collections.Counter[str] = collections.Counter()
        self._computing_since_s = 0.0
        self._tickets: dict[int, tuple[str, float]] = {}
        self._weights_s: dict[int, float] = {}
        self._ahead: dict[int, collections.deque[_Ahead]] = collections.defaultdict(
            collections.deque
        )
        self._announced: collections.deque[tuple[Step, float]] = collections.deque()
        """by nsp.prefetch: the device reads it behind its next scan"""
        self._held_bytes: collections.Counter[int] = collections.Counter()
        """by cache: what waits for a write-back"""

    def timeline(self) -> Timeline:
        self._end_computing()
        spans = sorted(self._spans, key=lambda span: span.begin_s)
        return Timeline(tuple(spans), tuple(self._begins_s.values()))

    def take(self, step: Step, cost: Cost) -> None:
        """The next operation of the module."""
        kind = step.kind
        if kind is None or kind is nsp.DOT:
            self._compute(step, cost)
            return
        self._end_computing()
        if kind in _USES and step.cache in self._layers:
            self._begins_s.setdefault(step.cache, self._now_s)
        if kind.name not in _CALLS:
            raise CompilerError(
                f"{kind.name} at {mlir.source_line(step.op)} has no place in a timeline: say in "
                "machine/timeline.py what it keeps busy"
            )
        _CALLS[kind.name](self, step, cost)
        self._computing_since_s = self._now_s

    # ---- computation ----------------------------------------------------------------------------

    def _compute(self, step: Step, cost: Cost) -> None:
        if cost.flops:
            mark = mlir.composite_name(step.op)
            self._computing["matmul" if mark is None else mark.removeprefix("nspjax.")] += 1
            self._now_s += cost.flops / self._rates.compute_flops

    def _end_computing(self) -> None:
        """One span of all that was computed since the last call."""
        if self._computing:
            counts = self._computing.items()
            names = [f"{n} {name}s" if n > 1 else name for name, n in counts]
            self._busy(Lane.compute, " + ".join(names), self._computing_since_s, self._now_s)
        self._computing.clear()

    # ---- the engine's calls ---------------------------------------------------------------------

    def _append(self, step: Step, cost: Cost) -> None:
        if step.number("hold"):
            self._held_bytes[_cache(step)] += cost.written_bytes
        else:
            self._write(f"append {self._layer(step)}", cost.written_bytes, exclusive=False)

    def _write_back(self, step: Step, cost: Cost) -> None:
        n_bytes = self._held_bytes.pop(_cache(step), 0)
        label = f"write back {self._layer(step)}"
        self._write(label, n_bytes, exclusive=bool(step.number("exclusive")))

    def _prefetch(self, step: Step, cost: Cost) -> None:
        most = int(step.number("most_bytes")) or math.inf
        self._announced.append((step, min(kv_bytes(step, self._context_tokens), most)))

    def _attend_start(self, step: Step, cost: Cost) -> None:
        label = f"attend {self._layer(step)}"
        query_bytes = mlir.tensor_bytes(step.operand("q"))
        asked_s = self._transfer(f"q {self._layer(step)}", query_bytes, self._now_s)
        ready_s = self._scan(label, step, cost.read_bytes, asked_s)
        if step.kind is nsp.ATTEND_START:
            self._tickets[step.results[0]] = (self._layer(step), ready_s)
        else:
            self._answer(self._layer(step), ready_s, cost.link_bytes - query_bytes)

    def _attend_wait(self, step: Step, cost: Cost) -> None:
        layer, ready_s = self._tickets.pop(step.operands[0])
        self._answer(layer, ready_s, cost.link_bytes)

    def _answer(self, layer: str, ready_s: float, n_bytes: float) -> None:
        self._now_s = max(self._now_s, self._transfer(f"out {layer}", n_bytes, ready_s))

    def _haul(self, step: Step, cost: Cost) -> None:
        """Chunk by chunk: reading, hauling and computing go on together."""
        label = f"{'fetch' if step.kind is nsp.FETCH else 'haul'} {self._layer(step)}"
        begin_s = max(self._now_s, self._free_s[Lane.device])
        ready_s = self._scan(label, step, cost.read_bytes, self._now_s)
        ready_s = max(ready_s, self._transfer(label, cost.link_bytes, begin_s))
        seconds = cost.flops / self._rates.compute_flops
        self._now_s = max(ready_s, self._now_s + seconds)
        self._busy(Lane.compute, f"attend {self._layer(step)}", self._now_s - seconds, self._now_s)

    def _nothing(self, step: Step, cost: Cost) -> None:
        """It takes no time."""

    def _load(self, step: Step, cost: Cost) -> None:
        weight = step.operands[0]
        if weight not in self._weights_s:
            self._load_ahead(step, cost)
        self._now_s = max(self._now_s, self._weights_s.pop(weight))

    def _load_ahead(self, step: Step, cost: Cost) -> None:
        read_s = self._read("weight", cost.read_bytes, self._now_s)
        self._weights_s[step.operands[0]] = self._transfer("weight", cost.link_bytes, read_s)

    # ---- transfers: each returns when it ends ---------------------------------------------------

    def _scan(self, label: str, step: Step, n_bytes: float, asked_s: float) -> float:
        """A read of a cache, less what was read ahead of it; then what was announced, or the next
        one where the engine is left to guess."""
        ready_s = asked_s
        ahead = self._ahead[_cache(step)]
        while n_bytes and ahead:
            used = min(n_bytes, ahead[0].n_bytes)
            n_bytes -= used
            ahead[0].n_bytes -= used
            ready_s = max(ready_s, ahead[0].end_s)
            if not ahead[0].n_bytes:
                ahead.popleft()
        ready_s = max(ready_s, self._read(label, n_bytes, asked_s))
        if step.kind in nsp.READS:
            self._reads.popleft()
            if step.number("read_ahead") and self._reads:
                self._read_ahead("read ahead", *self._reads[0])
        while self._announced:
            self._read_ahead("prefetch", *self._announced.popleft())
        return ready_s

    def _read_ahead(self, why: str, step: Step, n_bytes: float) -> None:
        end_s = self._read(f"{why} {self._layer(step)}", n_bytes, self._now_s)
        self._ahead[_cache(step)].append(_Ahead(n_bytes, end_s))

    def _read(self, label: str, n_bytes: float, asked_s: float) -> float:
        return self._queued(Lane.device, label, n_bytes / self._rates.device_bytes_per_s, asked_s)

    def _transfer(self, label: str, n_bytes: float, asked_s: float) -> float:
        return self._queued(Lane.link, label, n_bytes / self._rates.link_bytes_per_s, asked_s)

    def _write(self, label: str, n_bytes: float, *, exclusive: bool) -> None:
        sent_s = self._transfer(label, n_bytes, self._now_s)
        seconds = n_bytes / self._rates.device_bytes_per_s
        if exclusive:  # behind the scans before it, and before those behind it
            sent_s = max(sent_s, self._free_s[Lane.device])
        end_s = self._queued(Lane.writes, label, seconds, sent_s)
        if exclusive and n_bytes:
            self._free_s[Lane.device] = end_s

    def _queued(self, lane: Lane, label: str, seconds: float, asked_s: float) -> float:
        if seconds <= 0:
            return asked_s
        begin_s = max(asked_s, self._free_s[lane])
        self._free_s[lane] = begin_s + seconds
        self._busy(lane, label, begin_s, begin_s + seconds)
        return begin_s + seconds

    def _busy(self, lane: Lane, label: str, begin_s: float, end_s: float) -> None:
        if end_s > begin_s:
            self._spans.append(Span(lane, label, begin_s, end_s))

    def _layer(self, step: Step) -> str:
        """As labels have it: L0 for a layer's cache, X0 for its companion of X."""
        if step.x_of is not None:
            return f"X{self._layers.get(step.x_of, 0)}"
        return f"L{self._layers.get(_cache(step), 0)}"


_CALLS = {
    nsp.APPEND.name: _Machine._append,
    nsp.WRITEBACK.name: _Machine._write_back,
    nsp.PREFETCH.name: _Machine._prefetch,
    nsp.ATTEND.name: _Machine._attend_start,
    nsp.ATTEND_START.name: _Machine._attend_start,
    nsp.ATTEND_WAIT.name: _Machine._attend_wait,
    nsp.HAUL.name: _Machine._haul,
    nsp.FETCH.name: _Machine._haul,
    nsp.X_CACHE.name: _Machine._nothing,
    nsp.LOAD.name: _Machine._load,
    nsp.LOAD_AHEAD.name: _Machine._load_ahead,
}


def _cache(step: Step) -> int:
    assert step.cache is not None, "a call that takes handles"
    return step.cache
