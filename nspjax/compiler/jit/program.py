"""A program of a near_storage function: for one combination of argument types."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax import Array, core, export
from jax.sharding import SingleDeviceSharding

from nspjax.errors import InvalidArgumentError, engine_errors
from nspjax.ops.cache import KVCache
from nspjax.ops.transforms import without_transforms
from nspjax.runtime import StoredArray, StoredKVCache


@dataclasses.dataclass(frozen=True)
class Program:
    """What the passes left, and what XLA made of it for each device."""

    exported: export.Exported
    templates: tuple[Any, ...]
    """one a result: a KVCache of avals where the result is a cache, a StoredResult where it is an
    array of one, else an aval"""
    tree: Any
    _compiled: dict[SingleDeviceSharding, Any] = dataclasses.field(default_factory=dict)

    def run(self, leaves: Sequence[Any]) -> Any:
        """The results for concrete arguments, when they are there.

        Raises:
          what `nspjax.errors.engine_errors` and `device_of` do, and InvalidArgumentError where an
            argument was donated before, or jax.set_mesh is on with several devices.
        """
        device = device_of(leaves)
        _check_mesh()
        call = self.compiled(device)
        with engine_errors():
            try:
                # waiting here costs nothing that overlaps: a step's work is the engine's
                return self.unflatten(jax.block_until_ready(call(*leaves)))
            except RuntimeError as error:
                if not any(isinstance(leaf, Array) and leaf.is_deleted() for leaf in leaves):
                    raise
                raise InvalidArgumentError(
                    "an argument of a near_storage function was donated to an earlier call, or "
                    "deleted: go on with what that call returned"
                ) from error

    def trace(self, leaves: Sequence[Any]) -> Any:
        """The call as a part of a program that is being traced."""
        for leaf in leaves:
            if isinstance(leaf, core.Tracer) and _n_devices(jax.typeof(leaf).sharding.mesh) > 1:
                raise _several_devices(leaf, "sharded over a mesh")
        _check_mesh()
        call = without_transforms(
            self.exported.call,
            "a near_storage function",
            "a cache's rows are the batch, and several caches are used one after the other",
        )
        return self.unflatten(call(*leaves))

    def compiled(self, device: SingleDeviceSharding) -> Any:
        """The program on a device. Not jax.jit's, which compiles twice: for the first caches, and
        for those that a call returns, which are committed to their device."""
        if device not in self._compiled:
            call = jax.jit(self.exported.call, in_shardings=device)
            with without_mesh():
                self._compiled[device] = call.lower(*self.exported.in_avals).compile()
            _return_compiler_memory()
        return self._compiled[device]

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """The results as the function gives them, with what is stored for caches."""
        rest = iter(leaves)

        def value(item: Any) -> Any:
            if isinstance(item, KVCache):
                return StoredKVCache(next(rest), next(rest), next(rest), item.k.shape, item.k.dtype)
            if isinstance(item, StoredResult):
                return StoredArray(next(rest), item.shape, item.dtype)
            return next(rest)

        return jax.tree.unflatten(self.tree, list(map(value, self.templates)))


@dataclasses.dataclass(frozen=True)
class StoredResult:
    """A result that was an array and is a handle."""

    shape: tuple[int, ...]
    dtype: Any


def program(exported: export.Exported, results: Any) -> Program:
    """Of a program after all passes, and of what the function returns, of avals."""
    leaves, result_tree = jax.tree.flatten(results)
    after = map(_template, leaves, exported.out_avals)
    templates, tree = jax.tree.flatten(
        jax.tree.unflatten(result_tree, after), is_leaf=lambda value: isinstance(value, KVCache)
    )
    return Program(exported, tuple(templates), tree)


def without_mesh() -> AbstractContextManager[Any]:
    """What jax.set_mesh says is not for a program of one device: its shardings would be in it."""
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))


def device_of(values: Sequence[Any]) -> SingleDeviceSharding:
    """The device that jax.jit would run on: what is committed decides.

    Raises:
      InvalidArgumentError: several.
    """
    arrays = [value for value in values if isinstance(value, Array)]
    shardings = {array.sharding for array in arrays if array.committed}
    devices: set[Any] = set()
    for sharding in shardings:
        devices |= sharding.device_set
    if len(devices) == 1:
        return SingleDeviceSharding(devices.pop())
    if devices:
        for array in arrays:
            if array.committed and len(array.sharding.device_set) > 1:
                how = "replicated" if array.sharding.is_fully_replicated else "sharded"
                raise _several_devices(
                    array, f"{how} over {len(array.sharding.device_set)} devices"
                )
        raise InvalidArgumentError(
            "the arguments of a near_storage function lie on several devices: "
            f"{', '.join(sorted(map(str, devices)))}; put all on one with jax.device_put"
        )
    for array in arrays:
        return SingleDeviceSharding(next(iter(array.sharding.device_set)))
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    named = default is None or isinstance(default, str)
    return SingleDeviceSharding(jax.devices(default)[0] if named else default)


def _several_devices(array: Any, how: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"a near_storage function runs on one device, but an argument, {array.dtype} "
        f"{list(array.shape)}, is {how}: jax.device_put(x, jax.devices()[0]) puts it on one"
    )


def _check_mesh() -> None:
    mesh = jax.sharding.get_abstract_mesh()
    if _n_devices(mesh) > 1:
        raise InvalidArgumentError(
            "a near_storage function runs on one device, but jax.set_mesh is on, with the mesh "
            f"{dict(mesh.shape)}: call it outside of jax.set_mesh"
        )


def _n_devices(mesh: Any) -> int:
    return 1 if mesh.empty else mesh.size


def _template(before: core.ShapedArray, after: core.ShapedArray) -> Any:
    same = (before.shape, before.dtype) == (after.shape, after.dtype)
    return before if same else StoredResult(before.shape, before.dtype)


def _return_compiler_memory() -> None:
    """XLA frees some 100 MB after a compilation, which the process would keep: as much as a small
    machine has for its caches."""
    from nspjax import _engine

    _engine.trim_heap()
