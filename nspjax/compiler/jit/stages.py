"""A near_storage function before it runs, in the stages that jax.jit has."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from nspjax.compiler.jit.arguments import CallArguments
from nspjax.compiler.jit.program import Program, device_of
from nspjax.errors import InvalidArgumentError


@dataclasses.dataclass(frozen=True)
class _Stage:
    program: Program
    arguments: CallArguments

    @property
    def out_info(self) -> Any:
        """The results as shapes and dtypes; of a cache, those of its handles and lengths."""
        return self.program.unflatten(list(map(_info, self.program.exported.out_avals)))


@dataclasses.dataclass(frozen=True)
class Traced(_Stage):
    """What `NearStorage.trace` gives."""

    def lower(self) -> Lowered:
        return Lowered(self.program, self.arguments)


@dataclasses.dataclass(frozen=True)
class Lowered(_Stage):
    """What `NearStorage.lower` gives: the program after all passes."""

    def as_text(self) -> str:
        """StableHLO, with the engine's calls."""
        return self.program.exported.mlir_module()

    def compile(self) -> Compiled:
        return Compiled(self.program, self.arguments)


@dataclasses.dataclass(frozen=True)
class Compiled(_Stage):
    """What `Lowered.compile` gives: call it without the static arguments."""

    def __post_init__(self) -> None:
        self._executable()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = CallArguments.of(self.arguments.store, args, kwargs)
        if given.key != self.arguments.key:
            raise InvalidArgumentError(
                "the arguments are not of the types and the structure that the program was "
                "compiled for: call the near_storage function itself, which has a program for each"
            )
        return self.program.run(given.leaves)

    def as_text(self) -> str:
        """XLA's program."""
        return self._executable().as_text()

    def cost_analysis(self) -> Any:
        return self._executable().cost_analysis()

    def memory_analysis(self) -> Any:
        return self._executable().memory_analysis()

    def _executable(self) -> Any:
        return self.program.compiled(device_of(self.arguments.leaves))


def _info(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)
