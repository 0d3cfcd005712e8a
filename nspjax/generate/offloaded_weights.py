"""The weights of a model that lie in a store instead of in memory."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx

from nspjax.errors import StoreClosedError
from nspjax.models import Decoder, Offload, load_decoder

if TYPE_CHECKING:
    from nspjax.runtime import Store, StoredWeight


class OffloadedWeights:
    """Puts all but `resident_bytes` of a model's weights into a store, and drops them at the end."""

    def __init__(self, store: Store, resident_bytes: int):
        self._store = store
        self._resident_bytes = resident_bytes
        self._weights: list[StoredWeight] = []

    def load(self, model: Decoder | str | Path, dtype: str) -> Decoder:
        """The model with StoredWeights: a checkpoint's go to the store one by one as they are read.

        Raises:
          StoreFullError: the store has too little room for them.
        """
        from nspjax.runtime.stored_weight import offload, resident_weights

        def stays(n_bytes: Any) -> list[bool]:
            return resident_weights(n_bytes, self._resident_bytes)

        try:
            if not isinstance(model, str | Path):
                graph, state = nnx.split(model)
                return nnx.merge(graph, offload(state, self._resident_bytes, self._put))
            return load_decoder(model, dtype=dtype, offload=Offload(stays, self._put))
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Give their room back."""
        weights, self._weights = self._weights, []
        with contextlib.suppress(StoreClosedError):  # then their room is back already
            for weight in weights:
                self._store.drop_weight(weight)

    def _put(self, values: np.ndarray | jax.Array) -> StoredWeight:
        self._weights.append(self._store.put_weight(values))
        return self._weights[-1]
