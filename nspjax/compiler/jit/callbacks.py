"""Calls back into Python, which a program that is exported cannot make."""

from __future__ import annotations

from collections.abc import Iterator

from jax.extend import core, source_info_util

from nspjax.errors import CompilerError

_CALLBACKS = ("debug_print", "debug_callback", "pure_callback", "io_callback")


def refuse_callbacks(jaxpr: core.ClosedJaxpr) -> None:
    """Raises CompilerError, with the source line, where there is one in a function's program."""
    for equation in _equations(jaxpr.jaxpr):
        name = equation.primitive.name
        if name in _CALLBACKS:
            raise CompilerError(
                f"a near_storage function calls back into Python: {name} at "
                f"{source_info_util.summarize(equation.source_info)}; leave jax.debug.print, "
                "jax.debug.callback, jax.pure_callback and io_callback out of it, return what they "
                "should see, or run the function in memory to debug it"
            )


def _equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from _equations(inner)
