"""What Python has as what the engine takes: dtypes by their short names, arrays by their bits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from nspjax.dtypes import APPENDED, DTYPES, STORED_ONLY
from nspjax.errors import InvalidArgumentError
from nspjax.runtime.rate_limit import RateLimit


def engine_dtype(dtype: DTypeLike) -> str:
    """The engine's name of a dtype that is appended.

    Raises:
      InvalidArgumentError: it has none.
    """
    return _name_of(dtype, APPENDED)


def engine_kv_dtype(dtype: DTypeLike | None) -> str:
    """The engine's name of a dtype that tiles are stored in; None is "", as appended.

    Raises:
      InvalidArgumentError: it has none.
    """
    if dtype is None:
        return ""
    return _name_of(dtype, APPENDED + STORED_ONLY)


def _name_of(dtype: DTypeLike, choices: tuple[str, ...]) -> str:
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in choices:
        raise InvalidArgumentError(
            f"a KV cache cannot be {name}: choose one of {', '.join(choices)}"
        )
    return next(dtype.name for dtype in DTYPES if dtype.numpy == name)


def engine_rates(limit: RateLimit | None) -> dict[str, Any]:
    """The engine's arguments for simulated rates."""
    if limit is None:
        return {}
    names = ("read_bytes_per_s", "write_bytes_per_s", "link_bytes_per_s", "kv_over_link")
    return {name: getattr(limit, name) for name in names}


def raw_elements(values: jax.Array) -> np.ndarray:
    """The elements as the engine takes them: 16-bit floats travel as uint16."""
    array = np.ascontiguousarray(values)
    return array if array.dtype == np.float32 else array.view(np.uint16)
