"""For how many rows X is kept in place of K and V."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from nspjax.compiler import mlir, nsp
from nspjax.compiler.machine.costs import Cost
from nspjax.compiler.machine.lanes import side_by_side_s
from nspjax.compiler.machine.rates import Rates, rates_of
from nspjax.errors import PipelineError
from nspjax.ops.projection import PROJECT_KV

AUTO = "auto"
LEAST_GAIN = 0.1
"""Of the time without X: less is not worth what a loop over chunks costs."""


def checked_fraction(value: str | float) -> str:
    """An option's value as text: AUTO, or a number from 0 to 1.

    Raises:
      PipelineError: it is neither.
    """
    text = str(value)
    try:
        good = text == AUTO or 0 <= float(text) <= 1
    except ValueError:
        good = False
    if not good:
        raise PipelineError(f"x-cache: fraction must be auto or a number from 0 to 1, got {text!r}")
    return text


def rows_with_x(share: float | Fraction, n_rows: int) -> int:
    """Of a cache's rows. A share that was chosen is one of rows; one that was given is rounded."""
    return int(share * n_rows) if isinstance(share, Fraction) else round(share * n_rows)


def auto_share(module: mlir.Module) -> Fraction:
    """What pays in all layers on the machine that the module has the rates of; 0 without rates.

    It depends on the caches and on X's size alone, since prefill, decode and whatever else shares
    the caches must come to the same.
    """
    rates, marks = rates_of(module), mlir.composites(module, PROJECT_KV)
    appends = [op for op in mlir.operations(module) if nsp.kind(op) is nsp.APPEND]
    if rates is None or not marks or not appends:
        return Fraction(0)
    hidden_size = max(mlir.tensor(mark.operands[0])[0][-1] for mark in marks)
    layers = set()
    for append in appends:
        n_rows, _, n_kv_heads, head_dim = nsp.cache_shape(append)
        element_bytes = mlir.element_bytes(nsp.cache_dtype(append))
        layers.add(LayerSizes(n_rows, hidden_size, n_kv_heads, head_dim, element_bytes))
    return min(Fraction(best_rows(layer, rates), layer.n_rows) for layer in layers)


@dataclasses.dataclass(frozen=True)
class LayerSizes:
    """A cache, and the X that its keys and values are made of."""

    n_rows: int
    hidden_size: int
    n_kv_heads: int
    head_dim: int
    element_bytes: float


def best_rows(layer: LayerSizes, rates: Rates) -> int:
    """For how many rows X makes a decode step's attention shortest.

    The devices' reads, the link, and what the compute device makes again and attends over go on
    side by side, chunk by chunk. With multi-head attention and a compute device without limit the
    share is HILOS's, 2 B_link / (B_device + B_link) (arXiv 2502.09921). 0 where the devices attend
    with the compute device's own processor, and where it would save less than LEAST_GAIN.
    """
    if not rates.processors_apart:
        return 0
    seconds = [
        side_by_side_s(attention_cost(layer, n_x_rows), rates)
        for n_x_rows in range(layer.n_rows + 1)
    ]
    best_s = min(seconds)
    return seconds.index(best_s) if best_s <= (1 - LEAST_GAIN) * seconds[0] else 0


def attention_cost(layer: LayerSizes, n_x_rows: int) -> Cost:
    """Of one token of every row that a decode step attends over, where X is kept for some rows.

    Their X is read and crosses the link, and of it all elements of K and V are made.
    """
    n_elements = 2 * layer.n_kv_heads * layer.head_dim
    kv_bytes, x_bytes = (round(n * layer.element_bytes) for n in (n_elements, layer.hidden_size))
    return Cost(
        flops=n_x_rows * n_elements * 2 * layer.hidden_size,
        link_bytes=n_x_rows * x_bytes,
        read_bytes=(layer.n_rows - n_x_rows) * kv_bytes + n_x_rows * x_bytes,
        attended_bytes=n_x_rows * kv_bytes,
    )
