"""The arguments of one call of a near_storage function: checked and flat."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array, core

from nspjax.compiler.jit.marked_module import spec
from nspjax.errors import InvalidArgumentError
from nspjax.ops.cache import KVCache
from nspjax.runtime import Store, StoredArray, StoredKVCache, StoredWeight
from nspjax.runtime.handle import check_handle

_CACHES = (StoredKVCache, StoredArray)
_STORED = (*_CACHES, StoredWeight)


@dataclasses.dataclass(frozen=True)
class CallArguments:
    """One call's arguments, without those that are static."""

    store: Store
    values: list[Any]
    """arrays, numbers, and what stands for arrays in the store"""
    tree: Any
    leaves: list[Any]
    """what the program gets: a handle, or two and the lengths, of what is stored"""

    @staticmethod
    def of(store: Store, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CallArguments:
        """Raises InvalidArgumentError where one cannot be an argument."""
        values, tree = jax.tree.flatten((tuple(args), dict(kwargs)), is_leaf=_is_ours)
        for value in values:
            if isinstance(value, KVCache):
                raise InvalidArgumentError(
                    "a near_storage function got an in-memory KVCache: make its cache with "
                    "Store.kv_cache, or copy this one with Store.put"
                )
            if isinstance(value, _STORED):
                _check_stored(store, value)
        return CallArguments(store, values, tree, jax.tree.leaves(values))

    @property
    def key(self) -> Any:
        """Equal where one program serves.

        Raises:
          InvalidArgumentError: something that is no array, or a structure that cannot be compared.
        """
        key = (self.tree, tuple(map(_kind, self.values)))
        try:
            hash(key)
        except TypeError as error:
            raise InvalidArgumentError(
                f"the structure of the arguments cannot be hashed ({error}), and a program is kept "
                "for each: give pytrees whose static fields are hashable"
            ) from None
        return key

    def specs(self) -> tuple[Any, Any]:
        """args and kwargs as shapes and dtypes, with KVCaches for those that are stored."""
        return jax.tree.unflatten(self.tree, map(_spec, self.values))

    def weight_leaves(self) -> list[int]:
        """Which leaves of `specs` are stored weights."""
        found, at = [], 0
        for value in self.values:
            if isinstance(value, StoredWeight):
                found.append(at)
            at += len(jax.tree.leaves(_spec(value)))
        return found

    def are_traced(self) -> bool:
        return any(isinstance(leaf, core.Tracer) for leaf in self.leaves)


def _check_stored(store: Store, value: StoredKVCache | StoredArray | StoredWeight) -> None:
    handles = (value.k, value.v) if isinstance(value, StoredKVCache) else (value.handle,)
    for handle in handles:
        check_handle(handle)
    if isinstance(value, StoredKVCache):
        lengths = value.lengths
        what = (getattr(lengths, "shape", None), getattr(lengths, "dtype", None))
        if what != ((value.batch,), np.int32):
            got = f"{what[1]} {list(what[0])}" if what[0] is not None else repr(lengths)[:80]
            raise InvalidArgumentError(
                f"the lengths of a stored cache of {value.batch} rows are int32 [{value.batch}], "
                f"got {got}: set them with with_lengths"
            )
    if all(isinstance(handle, Array) and not isinstance(handle, core.Tracer) for handle in handles):
        store.check_owns(value)


def _is_ours(value: Any) -> bool:
    return isinstance(value, (KVCache, *_STORED))


def _spec(value: Any) -> Any:
    return value.spec() if isinstance(value, _STORED) else spec(value)


def _kind(value: Any) -> Any:
    if isinstance(value, _STORED):
        return (type(value), value.shape, value.dtype)
    if isinstance(value, Array):
        aval = value.aval
    elif isinstance(value, jax.ShapeDtypeStruct):
        aval = value
    else:
        try:
            aval = jax.typeof(value)
        except TypeError:
            raise InvalidArgumentError(
                f"a near_storage function got a {type(value).__name__} as an argument, "
                f"{repr(value)[:80]}, which is no array and no number: if it says what to compute, "
                "name it in static_argnums or static_argnames"
            ) from None
    return (aval.shape, aval.dtype, getattr(aval, "weak_type", False))
