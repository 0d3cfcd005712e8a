"""What a pass declares of itself, beside its name and its options."""

from __future__ import annotations

import dataclasses
import typing

from nspjax.compiler.nsp import Stage


@dataclasses.dataclass(frozen=True)
class Properties:
    """A pass declares one by an attribute of that name, of its class or made of its options; one
    that declares nothing has these."""

    stage: Stage | None = None
    """how far it brings a module; None: it can be wherever the passes before it left it"""
    after: tuple[str, ...] = ()
    """names of passes that must come before it, where a pipeline has them"""
    needs_rates: bool = False
    """it plans with the machine's rates, `machine.rates.rates_of(module)`"""
    keeps_x: bool = False
    """rows may have X in place of K and V: a cache alone does not hold them"""
    needs_sketches: bool = False
    """attention reads a part of V: caches must be made with `sketch=True`"""
    hauls: bool = False
    """attention is computed at the compute device, over all K and V of its rows"""
    interval_tokens: int | None = None
    """tokens of a row are written in groups of so many, which the caches' tiles should fit"""

    @staticmethod
    def of(step: typing.Any) -> Properties:
        fields = dataclasses.fields(Properties)
        declared: dict[str, typing.Any] = {
            item.name: getattr(step, item.name, item.default) for item in fields
        }
        return Properties(**declared)
