"""What a saved prefix says about itself, and whether that can be true."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from typing import Any

import orjson

from nspjax import _engine
from nspjax.dtypes import BY_NAME, DTYPES
from nspjax.errors import InvalidArgumentError, NspjaxError

FORMAT = 1
MOST_HEADER_BYTES = 1 << 20
_MOST_CHUNK_BYTES = 2**32 - 1

_CHOICES = {
    "dtype": [dtype.name for dtype in DTYPES if dtype.appended],
    "kv_dtype": [dtype.name for dtype in DTYPES],
}
_RANGES = {  # as the engine has them
    "n_layers": (1, 1 << 16),
    "n_kv_heads": (1, 1 << 12),
    "head_dim": (1, 1 << 12),
    "tile_tokens": (1, 1 << 10),
    "tile_layout": (0, 2**32 - 1),
    "head_bytes": (1, _MOST_CHUNK_BYTES),
    "n_tokens": (1, 1 << 30),
}


@dataclasses.dataclass(frozen=True)
class PrefixHeader:
    """What must be the same where a prefix is loaded; and, last, how long it is."""

    model: str
    n_layers: int
    n_kv_heads: int
    head_dim: int
    dtype: str
    kv_dtype: str
    tile_tokens: int
    tile_layout: int
    """fingerprint of the order inside a tile"""
    head_bytes: int
    """of one head in one tile"""
    n_tokens: int

    @property
    def n_tiles(self) -> int:
        return self.n_tokens // self.tile_tokens

    @property
    def tile_bytes(self) -> int:
        return self.n_kv_heads * self.head_bytes

    @property
    def tail_shape(self) -> tuple[int, int, int, int]:
        return 2, self.n_tokens % self.tile_tokens, self.n_kv_heads, self.head_dim

    @property
    def tail_bytes(self) -> int:
        return math.prod(self.tail_shape) * BY_NAME[self.dtype].bits // 8


class HeaderError(ValueError):
    """A header that cannot be true: names the field, and what it has."""


def header_text(header: PrefixHeader) -> bytes:
    """The header's JSON.

    Raises:
      InvalidArgumentError: a file cannot have it.
    """
    try:
        text = orjson.dumps({"format": FORMAT, **dataclasses.asdict(header)})
    except TypeError as error:  # a lone surrogate
        raise InvalidArgumentError(
            f"model is {header.model!r}, which is no text: {error}"
        ) from None
    if len(text) > MOST_HEADER_BYTES:
        raise InvalidArgumentError(
            f"model has {len(header.model)} characters: say it shorter, or give a hash of it"
        )
    try:
        _check_sizes(header)
    except HeaderError as error:
        raise InvalidArgumentError(f"caches like these cannot be saved: {error}") from None
    return text


def parse_header(text: bytes) -> PrefixHeader:
    """The header in a file's bytes. A right checksum says only that they are as they
    were written: each field is checked by itself, and against the others.

    Raises:
      HeaderError: what is wrong.
      InvalidArgumentError: it is of another format.
    """
    values = _json_object(text)
    found = values.pop("format", None)
    if type(found) is not int:
        raise HeaderError(f"its format is {reprlib.repr(found)}, not a number")
    if found != FORMAT:
        raise InvalidArgumentError(
            f"of format {reprlib.repr(found)}, this nspjax reads format {FORMAT}: prefill the "
            "prompt again"
        )
    names = [field.name for field in dataclasses.fields(PrefixHeader)]
    for name in names:
        if name not in values:
            raise HeaderError(f"it has no {name}")
    for name in values:
        if name not in names:
            raise HeaderError(f"it has a field {reprlib.repr(name)} that no prefix has")
    if not isinstance(values["model"], str) or not values["model"]:
        raise HeaderError(f"its model is {reprlib.repr(values['model'])}, not a text")
    for name, choices in _CHOICES.items():
        if not isinstance(values[name], str) or values[name] not in choices:
            raise HeaderError(
                f"its {name} is {reprlib.repr(values[name])}, not one of {', '.join(choices)}"
            )
    for name, (least, most) in _RANGES.items():
        value = values[name]
        if type(value) is not int or not least <= value <= most:  # a bool is no number of layers
            raise HeaderError(f"its {name} is {reprlib.repr(value)}, not {least} to {most}")
    header = PrefixHeader(**values)
    _check_sizes(header)
    return header


def _check_sizes(header: PrefixHeader) -> None:
    try:
        head_bytes = _engine.head_tile_bytes(header.kv_dtype, header.head_dim, header.tile_tokens)
    except NspjaxError as error:
        raise HeaderError(f"its tiles cannot be: {error}") from error
    if header.head_bytes != head_bytes:
        raise HeaderError(f"its head_bytes is {header.head_bytes}, not {head_bytes}")
    most = max(header.tile_bytes, header.tail_bytes)
    if most > _MOST_CHUNK_BYTES:
        raise HeaderError(f"a tile of all its heads has {most} bytes, over {_MOST_CHUNK_BYTES}")


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        values = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"it is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise HeaderError(f"it is {reprlib.repr(values)}, not an object")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise HeaderError("it has a field twice")
    return values


def _no_number(name: str) -> Any:
    raise HeaderError(f"it has {name}")
