"""How the KV cache of an `LLM` is kept: its element type, and how much of it is written at once."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax.typing import DTypeLike

from nspjax.dtypes import APPENDED, STORED_ONLY
from nspjax.errors import InvalidArgumentError


@dataclasses.dataclass(frozen=True)
class KVFormat:
    """The caches' types. None: the weights' type, the store's choice.

    appended: what the model appends; float types are this one, everywhere.
    stored: what a store makes of full tiles, where that is another type.
    """

    appended: str | None = None
    stored: str | None = None
    interval_tokens: int | None = None

    @staticmethod
    def checked(
        kv_dtype: DTypeLike | None, interval_tokens: int | None, *, in_store: bool
    ) -> KVFormat:
        """The format that was asked for. What only the engine knows, `Store.kv_caches` refuses.

        Raises:
          InvalidArgumentError: no such type, or one that needs a store.
        """
        if interval_tokens is not None and not in_store:
            raise InvalidArgumentError(
                f"interval_tokens={interval_tokens} is how a store writes: it needs store="
            )
        if kv_dtype is None:
            return KVFormat(interval_tokens=interval_tokens)
        name = _name(kv_dtype)
        if name in APPENDED:
            return KVFormat(appended=name, interval_tokens=interval_tokens)
        if name not in STORED_ONLY:
            raise InvalidArgumentError(
                f"a KV cache cannot be {name}: choose one of {', '.join(APPENDED + STORED_ONLY)}"
            )
        if not in_store:
            raise InvalidArgumentError(
                f"kv_dtype={name!r} is a store's: give store=, or choose one of "
                f"{', '.join(APPENDED)}"
            )
        return KVFormat(stored=name, interval_tokens=interval_tokens)


def _name(dtype: DTypeLike) -> str:
    try:
        return jnp.dtype(dtype).name
    except TypeError:
        return str(dtype)
