"""How fast a machine is, as an attribute of a module: what passes and tools plan with."""

from __future__ import annotations

import dataclasses

from nspjax.compiler import mlir


@dataclasses.dataclass(frozen=True)
class Rates:
    """Of all devices of a store together, of the link to them, and of the compute device."""

    device_bytes_per_s: float
    link_bytes_per_s: float
    compute_flops: float
    """operations a second"""


def set_rates(module: mlir.Module, rates: Rates) -> None:
    for name, value in dataclasses.asdict(rates).items():
        attribute = mlir.attribute(float(value), module.context)
        module.operation.attributes[f"nspjax.{name}"] = attribute


def rates_of(module: mlir.Module) -> Rates | None:
    """The rates that `set_rates` wrote, None if there are none."""
    given = module.operation.attributes
    names = [field.name for field in dataclasses.fields(Rates)]
    if any(f"nspjax.{name}" not in given for name in names):
        return None
    return Rates(*(float(mlir.number(given[f"nspjax.{name}"])) for name in names))
