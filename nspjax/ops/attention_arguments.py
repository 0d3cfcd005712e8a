"""What `cached_attention` refuses before it traces anything."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import Array, core

from nspjax.errors import InvalidArgumentError
from nspjax.ops.cache import KVCache

_LONGEST = 2**31 - 1  # no row has more tokens
_FLOATS = ("float32", "bfloat16", "float16")


def check_arguments(
    q: Array,
    k: Array,
    v: Array,
    cache: KVCache,
    rows: Array | np.ndarray | None,
    n_new: Array | np.ndarray | None,
) -> None:
    """Refuse operands that do not fit together, by shape and dtype.

    Raises:
      InvalidArgumentError: says which, what was got, and what is needed.
    """
    if not isinstance(cache, KVCache):
        raise InvalidArgumentError(
            f"cached_attention needs a KVCache, got {type(cache).__name__}; a cache that lives in "
            "a Store works only as an argument of a function given to nspjax.near_storage, not "
            "closed over by it"
        )
    _check_cache(cache)
    for name, array in (("q", q), ("k", k), ("v", v)):
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise InvalidArgumentError(
                f"cached_attention needs arrays, {name} is a {type(array).__name__}"
            )
    if q.ndim != 4 or k.shape != v.shape or k.ndim != 4 or q.shape[:2] != k.shape[:2]:
        raise InvalidArgumentError(
            "cached_attention needs q [B, T, Hq, D] and k, v [B, T, Hkv, D], got "
            f"q {q.shape}, k {k.shape}, v {v.shape}"
        )
    if 0 in q.shape or 0 in k.shape:
        raise InvalidArgumentError(
            f"cached_attention needs at least one row, token, head and channel, got q {q.shape}, "
            f"k {k.shape}" + (": T = 0" if q.shape[1] == 0 else "")
        )
    if k.shape[2:] != cache.k.shape[2:] or q.shape[3] != k.shape[3] or q.shape[2] % k.shape[2]:
        raise InvalidArgumentError(
            f"heads do not fit: q {q.shape}, k {k.shape}, cache {cache.k.shape} (the cache and k "
            "need the same Hkv and D, and Hq must be a multiple of Hkv)"
        )
    if k.dtype != cache.k.dtype or v.dtype != cache.k.dtype:
        raise InvalidArgumentError(
            f"k, v are {k.dtype}, {v.dtype} but the cache is {cache.k.dtype}: cast them first"
        )
    if q.dtype.name not in _FLOATS:
        raise InvalidArgumentError(f"q is {q.dtype}: cast it to one of {', '.join(_FLOATS)}")
    batch, n_tokens = q.shape[:2]
    for name, values in (("rows", rows), ("n_new", n_new)):
        if values is not None and values.shape != (batch,):
            raise InvalidArgumentError(
                f"{name} has shape {values.shape} for a batch of {batch}: give one for each row"
            )
    if rows is None and batch != cache.batch:
        raise InvalidArgumentError(
            f"a batch of {batch} rows with a cache of {cache.batch}: say which with rows="
        )
    if batch > cache.batch:
        raise InvalidArgumentError(
            f"a batch of {batch} rows with a cache of {cache.batch}: rows must be distinct"
        )
    if n_new is None and n_tokens > cache.capacity_tokens:
        raise InvalidArgumentError(
            f"{n_tokens} tokens do not fit into rows of {cache.capacity_tokens}: make the cache "
            "with a larger capacity_tokens"
        )


def scale_setting(value: float) -> float:
    """The scale as the mark has it.

    Raises:
      InvalidArgumentError: it is no finite number, or traced; so for the other settings.
    """
    return _number("scale", value)


def softcap_setting(value: float) -> float:
    """The softcap as the mark has it, above 0."""
    number = _number("softcap", value)
    if number <= 0:
        raise InvalidArgumentError(f"softcap is {value!r}: it must be above 0, or None for none")
    return number


def window_setting(value: int) -> int:
    """The window as the mark has it, at least 1."""
    number = _number("window", value)
    if number < 1 or number != int(number):
        raise InvalidArgumentError(
            f"window is {value!r}: it must be a whole number from 1 on, or None for none"
        )
    return min(int(number), _LONGEST)


def _number(name: str, value: float) -> float:
    if isinstance(value, core.Tracer):
        raise InvalidArgumentError(
            f"{name} of cached_attention is traced: it is part of the program, so give a Python "
            "number, or make it static (static_argnames)"
        )
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool | np.bool_ | str | bytes) or not math.isfinite(number):
        raise InvalidArgumentError(f"{name} of cached_attention must be a number, got {value!r}")
    return number


def _check_cache(cache: KVCache) -> None:
    k, v, lengths = cache.k, cache.v, cache.lengths
    if k.ndim != 4 or (k.shape, k.dtype) != (v.shape, v.dtype) or 0 in k.shape:
        raise InvalidArgumentError(
            "a KVCache needs k and v [S, C, Hkv, D] of one dtype, got "
            f"{k.dtype} {k.shape} and {v.dtype} {v.shape}; caches cannot be stacked over layers: "
            "keep a list, one a layer"
        )
    if jnp.dtype(k.dtype).name not in _FLOATS:
        raise InvalidArgumentError(f"a KVCache is of {', '.join(_FLOATS)}, got {k.dtype}")
    if jnp.shape(lengths) != k.shape[:1]:
        raise InvalidArgumentError(
            f"a KVCache of {k.shape[0]} rows needs lengths [{k.shape[0]}], got "
            f"{list(jnp.shape(lengths))}"
        )
