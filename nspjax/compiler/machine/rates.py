"""A machine's rates as attributes of a module, for passes that weigh one thing against another."""

from __future__ import annotations

import dataclasses

from nspjax.compiler import mlir
from nspjax.runtime.rates import Rates as Rates

_PREFIX = "nspjax."
_FIELDS = dataclasses.fields(Rates)


def set_rates(module: mlir.Module, rates: Rates | None) -> None:
    """Say how fast the hardware is that the module will run on; None says nothing, and what is not
    known is left out."""
    if rates is None:
        return
    for field in _FIELDS:
        value = getattr(rates, field.name)
        if value is not None:
            attribute = mlir.attribute(float(value), module.context)
            module.operation.attributes[_PREFIX + field.name] = attribute


def rates_of(module: mlir.Module) -> Rates | None:
    """What `set_rates` said, None if nobody has."""
    attributes = module.operation.attributes
    given = {
        field.name: float(mlir.number(attributes[_PREFIX + field.name]))
        for field in _FIELDS
        if _PREFIX + field.name in attributes
    }
    if any(f.name not in given for f in _FIELDS if f.default is dataclasses.MISSING):
        return None
    apart = bool(given.pop("processors_apart", True))
    return Rates(**given, processors_apart=apart)
