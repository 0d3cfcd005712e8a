"""A function of the model with its programs, and when one is being compiled."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    from nspjax.compiler import Pipeline
    from nspjax.runtime import Store

Compiling = Callable[[], AbstractContextManager[Any]]
"""A context for the time in which a program is compiled."""


class CompiledCall:
    """fn(weights, caches, batch), compiled for caches in memory, or in the store.

    A program is compiled when a batch of its type comes for the first time: weights and caches are
    always of the same types.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        store: Store | None,
        pipeline: Pipeline | None,
        compiling: Compiling,
    ) -> None:
        self._compiling = compiling
        self._programs: dict[Any, Callable[..., Any]] = {}
        self._in_store = store is not None
        if store is None:
            self._function: Any = jax.jit(fn, donate_argnames="caches")
        else:
            from nspjax.compiler import DEFAULT_PIPELINE, near_storage

            self._function = near_storage(fn, store=store, pipeline=pipeline or DEFAULT_PIPELINE)

    def __call__(self, weights: Any, caches: Any, batch: Any) -> Any:
        leaves, tree = jax.tree.flatten(batch)
        key = (tree, tuple(map(jax.typeof, leaves)))
        if key not in self._programs:
            with self._compiling():
                program = self._function.lower(weights, caches, batch).compile()
            # a near_storage function has the program from now on, and keeps no arguments
            self._programs[key] = self._function if self._in_store else program
        return self._programs[key](weights, caches, batch)
