"""Measured rates as attributes of a module, for passes that weigh one thing against another."""

from __future__ import annotations

import dataclasses

from nspjax.compiler import mlir
from nspjax.runtime.rates import Rates as Rates

_PREFIX = "nspjax."
_NAMES = tuple(field.name for field in dataclasses.fields(Rates))


def set_rates(module: mlir.Module, rates: Rates | None) -> None:
    """Say how fast the hardware is that the module will run on; None says nothing."""
    if rates is None:
        return
    for name in _NAMES:
        value = mlir.attribute(float(getattr(rates, name)), module.context)
        module.operation.attributes[_PREFIX + name] = value


def rates_of(module: mlir.Module) -> Rates | None:
    """What `set_rates` said, None if nobody has."""
    attributes = module.operation.attributes
    if any(_PREFIX + name not in attributes for name in _NAMES):
        return None
    values = [float(mlir.number(attributes[_PREFIX + name])) for name in _NAMES]
    device, link, compute, attend, apart = values
    return Rates(device, link, compute, attend, processors_apart=bool(apart))
