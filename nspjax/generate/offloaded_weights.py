"""The weights of a model that lie in a store instead of in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import nnx

from nspjax.byte_size import parse_bytes
from nspjax.errors import InvalidArgumentError, StoreClosedError
from nspjax.models import Decoder, ModelConfig, Offload, load_decoder

if TYPE_CHECKING:
    from nspjax.runtime import Store, StoredWeight


class OffloadedWeights:
    """Puts all but `resident` of a model's weights into a store, and drops them at the end.

    resident: bytes, or text such as "4GiB"; None: all weights stay in memory.

    Raises:
      InvalidArgumentError: there is no store for the others.
    """

    def __init__(self, store: Store | None, resident: str | int | None):
        if resident is not None and store is None:
            raise InvalidArgumentError(
                f"weights_resident={resident!r}: the other weights lie in a store: give store="
            )
        self._store = store
        self._resident_bytes = None if resident is None else parse_bytes(resident, least=0)
        self._weights: list[StoredWeight] = []

    def load(self, directory: Path, config: ModelConfig, dtype: str) -> Decoder:
        """A checkpoint's decoder; its weights go to the store one by one as they are read. config:
        the checkpoint's.

        Raises:
          StoreFullError: the store has too little room for them.
        """
        if self._resident_bytes is None:
            return load_decoder(directory, dtype=dtype, config=config)
        offload = Offload(self._stays, self._put)
        with self._or_drop():
            return load_decoder(directory, dtype=dtype, offload=offload, config=config)

    def replace(self, model: Decoder) -> Decoder:
        """A decoder like this one, with StoredWeights.

        Raises:
          StoreFullError: the store has too little room for them.
        """
        if self._resident_bytes is None:
            return model
        from nspjax.runtime.stored_weight import offload

        graph, state = nnx.split(model)
        with self._or_drop():
            return nnx.merge(graph, offload(state, self._resident_bytes, self._put))

    def drop(self) -> None:
        """Give their room back."""
        weights, self._weights = self._weights, []
        with contextlib.suppress(StoreClosedError):  # which gave their room back
            for weight in weights:
                assert self._store is not None
                self._store.drop_weight(weight)

    @contextlib.contextmanager
    def _or_drop(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.drop()
            raise

    def _stays(self, n_bytes: Sequence[int]) -> list[bool]:
        from nspjax.runtime.stored_weight import resident_weights

        return resident_weights(n_bytes, self._resident_bytes or 0)

    def _put(self, values: np.ndarray | jax.Array) -> StoredWeight:
        assert self._store is not None
        self._weights.append(self._store.put_weight(values))
        return self._weights[-1]
