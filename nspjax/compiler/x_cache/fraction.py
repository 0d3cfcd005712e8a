"""For how many rows X is kept in place of K and V."""

from __future__ import annotations

from nspjax.compiler.machine.rates import Rates
from nspjax.errors import PipelineError

LEAST_GAIN = 0.1
"""Of the time that reading takes: less is not worth what a loop over chunks costs."""


AUTO = "auto"


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


def best_fraction(
    rates: Rates, *, hidden_size: int, n_kv_heads: int, head_dim: int, element_bytes: int
) -> float:
    """The fraction of rows that makes a decode step's attention shortest.

    Devices read S (1 - a (1 - rho)) bytes of K, V and X where S is all of K and V, rho the size of
    X over that of K and V; the link carries a rho S; and a S bytes of K and V are recomputed, with
    2 * hidden_size operations an element, and attended over at the compute device. These go on side
    by side; reading takes as long as the slower one of the others at

        a = 1 / [(1 - rho) + B_device * max(rho / B_link, operations a byte / F + 1 / B_attend)]

    which is HILOS's 2 B_link / (B_device + B_link) (arXiv 2502.09921) for rho = 1/2 and F and
    B_attend without limit. 0 where X is no smaller than K and V (grouped-query attention), where
    the devices attend with the compute device's own processor, and where it would save less than
    LEAST_GAIN.
    """
    rho = hidden_size / (2 * n_kv_heads * head_dim)
    if rho >= 1 or not rates.processors_apart:
        return 0.0
    flops_a_byte = 2 * hidden_size / element_bytes
    compute = flops_a_byte / rates.compute_flops + 1 / rates.attend_bytes_per_s
    others = max(rho / rates.link_bytes_per_s, compute)
    fraction = min(1 / ((1 - rho) + rates.device_bytes_per_s * others), 1.0)
    return fraction if fraction * (1 - rho) >= LEAST_GAIN else 0.0
