"""When each operation of a module would run, `Schedule.of(module).on(rates)`: a list schedule of
its calls over a machine's lanes.

The compute device takes operations in the order of the module and waits only where one of them
does. The link, the devices together, and their writes take one transfer at a time each, in the
order in which they are asked. A time is what `costs` counts over a rate: there is no latency. What
a device computes is hidden behind what it reads, unless its processor is the compute device's own:
then attention takes that one's time, a pass over the keys and values in its memory.
"""

from __future__ import annotations

import collections
import dataclasses
import math

from nspjax.compiler import mlir, nsp
from nspjax.compiler.machine.costs import Cost, kv_bytes, step_costs
from nspjax.compiler.machine.lanes import Lane, Lanes, Span, lane_seconds
from nspjax.compiler.machine.rates import Rates
from nspjax.compiler.machine.read_ahead import ReadAhead, Scanned
from nspjax.compiler.nsp.execution import Step, execution
from nspjax.errors import CompilerError

_USES = (nsp.APPEND, *nsp.READS)
"""The calls that make a layer of a cache."""


@dataclasses.dataclass(frozen=True)
class Timeline:
    """The spans of one execution, and when it begins with each cache, in the order of layers."""

    spans: tuple[Span, ...]
    layer_begins_s: tuple[float, ...]

    @property
    def end_s(self) -> float:
        return max((span.end_s for span in self.spans), default=0.0)

    @property
    def busiest_s(self) -> float:
        """How long the busiest lane is busy: in no other order is the same work done sooner."""
        busy: collections.Counter[Lane] = collections.Counter()
        for span in self.spans:
            busy[span.lane] += span.end_s - span.begin_s  # pyright: ignore[reportArgumentType]
        return max(busy.values(), default=0.0)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """One execution of a module, to be timed on any machine."""

    module: mlir.Module
    """which the operations of the steps are in, and end with"""
    steps: list[Step]
    costs: list[Cost]
    context_tokens: int | None

    @classmethod
    def of(cls, module: mlir.Module, context_tokens: int | None = None) -> Schedule:
        """That of main, before or after lower-to-ffi.

        context_tokens: how many tokens each row has; None: its cache's capacity.

        Raises:
          CompilerError: an attention whose cache is not known.
        """
        steps = execution(module)
        return cls(module, steps, step_costs(module, steps, context_tokens), context_tokens)

    def on(self, rates: Rates) -> Timeline:
        """When each operation would run."""
        layers, reads = _layers(self.steps), _reads(self.steps, self.costs)
        calls = _Calls(rates, layers, reads, self.context_tokens)
        weights = {
            step.operands[0]: cost
            for step, cost in zip(self.steps, self.costs, strict=True)
            if step.kind is nsp.LOAD
        }
        for step, cost in zip(self.steps, self.costs, strict=True):
            if step.kind is nsp.LOAD_AHEAD:
                cost = weights.get(step.operands[0], Cost())
            calls.take(step, cost)
        return calls.timeline()


def _layers(steps: list[Step]) -> dict[int, int]:
    """The caches in the order in which they are appended to or attended: 0, 1, …"""
    used = [s.cache for s in steps if s.kind in _USES and s.cache is not None and s.x_of is None]
    return {cache: layer for layer, cache in enumerate(dict.fromkeys(used))}


def _reads(steps: list[Step], costs: list[Cost]) -> collections.deque[tuple[Step, int]]:
    """What the attentions read, in their order: what the engine, left alone, reads ahead."""
    pairs = zip(steps, costs, strict=True)
    return collections.deque((s, cost.read_bytes) for s, cost in pairs if s.kind in nsp.READS)


@dataclasses.dataclass(frozen=True)
class _Ticket:
    """An attention that has begun."""

    layer: str
    ready_s: float
    own_s: float
    """of the compute device's time, where the devices have no processors of their own"""


class _Calls:
    """What the calls of a module ask of the lanes, and what is under way."""

    def __init__(
        self,
        rates: Rates,
        layers: dict[int, int],
        reads: collections.deque[tuple[Step, int]],
        context_tokens: int | None,
    ):
        self._rates = rates
        self._lanes = Lanes(rates)
        self._ahead = ReadAhead(self._lanes)
        self._layers = layers
        self._reads = reads
        self._context_tokens = context_tokens
        self._now_s = 0.0
        self._begins_s: dict[int, float] = {}
        self._computing: collections.Counter[str] = collections.Counter()
        self._computing_since_s = 0.0
        self._tickets: dict[int, _Ticket] = {}
        self._weights_s: dict[int, float] = {}
        self._held_bytes: collections.Counter[int] = collections.Counter()
        """by cache: what waits for a write-back"""

    def timeline(self) -> Timeline:
        self._end_computing()
        spans = sorted(self._lanes.spans, key=lambda span: span.begin_s)
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
            self._now_s += lane_seconds(cost, self._rates)[Lane.compute]

    def _end_computing(self) -> None:
        """One span of all that was computed since the last call."""
        if self._computing:
            counts = self._computing.items()
            names = [f"{n} {name}s" if n > 1 else name for name, n in counts]
            self._lanes.compute(" + ".join(names), self._computing_since_s, self._now_s)
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
        n_bytes = min(kv_bytes(step, self._context_tokens), most)
        self._ahead.announce(_scanned(step), f"prefetch {self._layer(step)}", n_bytes)

    def _attend_start(self, step: Step, cost: Cost) -> None:
        layer = self._layer(step)
        query_bytes = mlir.tensor_bytes(step.operand("q"))
        asked_s = self._lanes.send(f"q {layer}", query_bytes, self._now_s)
        ready_s = self._scan(f"attend {layer}", step, cost.read_bytes, asked_s)
        shared = not self._rates.processors_apart
        own_s = cost.read_bytes / self._rates.memory_bytes_per_s if shared else 0.0
        ticket = _Ticket(layer, ready_s, own_s)
        if step.kind is nsp.ATTEND_START:
            self._tickets[step.results[0]] = ticket
        else:
            self._answer(ticket, cost.link_bytes - query_bytes)

    def _attend_wait(self, step: Step, cost: Cost) -> None:
        self._answer(self._tickets.pop(step.operands[0]), cost.link_bytes)

    def _answer(self, ticket: _Ticket, n_bytes: float) -> None:
        ready_s = self._compute_beside(f"attend {ticket.layer}", ticket.own_s, ticket.ready_s)
        self._now_s = self._lanes.send(f"out {ticket.layer}", n_bytes, ready_s)

    def _haul(self, step: Step, cost: Cost) -> None:
        """Chunk by chunk: reading, hauling and computing go on together."""
        layer = self._layer(step)
        label = f"{'fetch' if step.kind is nsp.FETCH else 'haul'} {layer}"
        begin_s = max(self._now_s, self._lanes.free_s(Lane.device))
        ready_s = self._scan(label, step, cost.read_bytes, self._now_s)
        ready_s = max(ready_s, self._lanes.send(label, cost.link_bytes, begin_s))
        seconds = lane_seconds(cost, self._rates)[Lane.compute]
        self._now_s = self._compute_beside(f"attend {layer}", seconds, ready_s)

    def _compute_beside(self, label: str, seconds: float, ready_s: float) -> float:
        """When something is ready that is computed as it arrives, and has arrived at `ready_s`."""
        end_s = max(ready_s, self._now_s + seconds)
        self._lanes.compute(label, end_s - seconds, end_s)
        return end_s

    def _nothing(self, step: Step, cost: Cost) -> None:
        """It takes no time."""

    def _load(self, step: Step, cost: Cost) -> None:
        weight = step.operands[0]
        if weight not in self._weights_s:
            self._load_ahead(step, cost)
        self._now_s = max(self._now_s, self._weights_s.pop(weight))

    def _load_ahead(self, step: Step, cost: Cost) -> None:
        read_s = self._lanes.read("weight", cost.read_bytes, self._now_s)
        self._weights_s[step.operands[0]] = self._lanes.send("weight", cost.link_bytes, read_s)

    # ---- reads and writes -----------------------------------------------------------------------

    def _scan(self, label: str, step: Step, n_bytes: float, asked_s: float) -> float:
        """When a cache has been read; then the device reads ahead what was announced, and what the
        engine guesses where it is left to."""
        ready_s = self._ahead.scan(_scanned(step), label, n_bytes, asked_s)
        if step.kind in nsp.READS:
            self._reads.popleft()
            if step.number("read_ahead") and self._reads:
                following, following_bytes = self._reads[0]
                label = f"read ahead {self._layer(following)}"
                self._ahead.announce(_scanned(following), label, following_bytes)
        self._ahead.go_on(self._now_s)
        return ready_s

    def _write(self, label: str, n_bytes: float, *, exclusive: bool) -> None:
        sent_s = self._lanes.send(label, n_bytes, self._now_s)
        self._lanes.write(label, n_bytes, sent_s, exclusive=exclusive)

    def _layer(self, step: Step) -> str:
        """As labels have it: L0 for a layer's cache, X0 for its companion of X."""
        if step.x_of is not None:
            return f"X{self._layers.get(step.x_of, 0)}"
        return f"L{self._layers.get(_cache(step), 0)}"


_CALLS = {
    nsp.APPEND.name: _Calls._append,
    nsp.TAKE_ROWS.name: _Calls._nothing,
    nsp.WRITEBACK.name: _Calls._write_back,
    nsp.PREFETCH.name: _Calls._prefetch,
    nsp.ATTEND.name: _Calls._attend_start,
    nsp.ATTEND_START.name: _Calls._attend_start,
    nsp.ATTEND_WAIT.name: _Calls._attend_wait,
    nsp.HAUL.name: _Calls._haul,
    nsp.FETCH.name: _Calls._haul,
    nsp.X_CACHE.name: _Calls._nothing,
    nsp.LOAD.name: _Calls._load,
    nsp.LOAD_AHEAD.name: _Calls._load_ahead,
}


def _cache(step: Step) -> int:
    assert step.cache is not None, "a call that takes handles"
    return step.cache


def _scanned(step: Step) -> Scanned:
    assert step.kind is not None
    return _cache(step), step.operands[step.kind.operand_index("rows")]
