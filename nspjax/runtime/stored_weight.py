"""What stands for a weight that lies in a store, and which weights do."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from nspjax.errors import InvalidArgumentError

_PART_OF_A_BYTE = ("int2", "uint2", "int4", "uint4", "float4")
"""XLA packs them, NumPy does not."""


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("handle",), meta_fields=("shape", "dtype")
)
@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """An array in a Store: pass it to a `near_storage` function where it expects the array.

    It never changes, and may be used any number of times. handle: int32 [4].
    """

    handle: jax.Array
    shape: tuple[int, ...]
    dtype: np.dtype

    def __jax_array__(self) -> NoReturn:
        raise InvalidArgumentError(
            "a StoredWeight stands for a weight in a store, and has no elements here: give it, as "
            "an argument and not closed over, to a near_storage function"
        )

    def spec(self) -> jax.ShapeDtypeStruct:
        """The array that this one stands for, as shape and dtype."""
        return jax.ShapeDtypeStruct(self.shape, self.dtype)


def weight_bytes(values: jax.Array | np.ndarray) -> np.ndarray:
    """An array's elements as they lie in XLA's buffers, uint8 (a view where that is possible).

    Raises:
      InvalidArgumentError: elements of less than a byte, or that are no numbers.
    """
    if isinstance(values, jax.Array) and jnp.issubdtype(values.dtype, jax.dtypes.extended):
        raise InvalidArgumentError(f"a weight of {values.dtype} cannot be stored: only numbers can")
    array = np.ascontiguousarray(values)
    if array.dtype.kind in "OUS" or array.dtype.name.startswith(_PART_OF_A_BYTE):
        raise InvalidArgumentError(f"a weight of {array.dtype} cannot be stored: only whole bytes")
    return array.reshape(-1).view(np.uint8)


def resident_weights(n_bytes: Sequence[int], budget_bytes: int) -> list[bool]:
    """Which of a model's weights, given by their sizes in the order of its layers, stay in memory.

    The smallest first: norms and biases cost a call each and hardly any room. Every step reads all
    of the others once, whichever they are, so of the size for which there is not room enough those
    stay that are spread evenly over the layers: then each layer's compute hides as much reading.
    """
    resident = [False] * len(n_bytes)
    room = budget_bytes
    for size in sorted(set(n_bytes)):
        alike = [i for i, n in enumerate(n_bytes) if n == size]
        fit = len(alike) if size == 0 else min(len(alike), room // size)
        for n in range(fit):
            resident[alike[n * len(alike) // fit]] = True
        room -= fit * size
        if fit < len(alike):
            break
    return resident


def offload(tree: Any, resident_bytes: int, put: Callable[[jax.Array], StoredWeight]) -> Any:
    """The tree with those of its arrays as StoredWeights that `resident_weights` does not keep."""
    leaves, structure = jax.tree.flatten(tree)
    stays = resident_weights(list(map(_n_bytes, leaves)), resident_bytes)
    placed = [leaf if stay else put(leaf) for leaf, stay in zip(leaves, stays, strict=True)]
    return jax.tree.unflatten(structure, placed)


def _n_bytes(leaf: Any) -> int:
    """0 for what is no array of numbers: it stays."""
    is_array = isinstance(leaf, jax.Array | np.ndarray)
    if not is_array or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return 0
    return leaf.size * leaf.dtype.itemsize
