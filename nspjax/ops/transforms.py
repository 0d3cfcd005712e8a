"""Functions that JAX may compile, and refuses by name to differentiate or to batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import jax

from nspjax.errors import InvalidArgumentError


def without_transforms(fn: Callable[..., Any], name: str, instead: str) -> Callable[..., Any]:
    """`fn` as a function of arrays for which grad, jvp and vmap raise InvalidArgumentError.

    name: what the user called; instead: what to do where vmap was wanted.
    """
    batched = jax.custom_batching.custom_vmap(fn)
    plain = jax.custom_jvp(batched)

    def no_batches(*_: Any) -> NoReturn:
        raise InvalidArgumentError(f"{name} has no vmap: {instead}")

    def no_derivative(*_: Any) -> NoReturn:
        raise InvalidArgumentError(
            f"{name} has no derivative: a KV cache is for inference; keep it outside jax.grad, "
            "jax.jvp and the like, or put lax.stop_gradient around what goes into it"
        )

    batched.def_vmap(no_batches)
    plain.defjvp(no_derivative)
    return plain
