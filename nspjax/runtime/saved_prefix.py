"""A row's first tokens, of all layers, to a file and back: between the engine and the format."""

from __future__ import annotations

import contextlib
import operator
import os
import reprlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nspjax.dtypes import BY_NAME
from nspjax.errors import InvalidArgumentError
from nspjax.runtime.handle import StoredKVCache
from nspjax.runtime.plain_file import as_path
from nspjax.runtime.prefix_file import (
    PrefixHeader,
    check_same,
    chunks,
    new_prefix_file,
    open_prefix_file,
)


def save_prefix(
    engine: Any,
    path: str | os.PathLike[str],
    caches: Sequence[StoredKVCache],
    handles: list[tuple[int, int]],
    row: int,
    n_tokens: int | None,
    model: str,
) -> None:
    """What Store.save_prefix does; handles: the number and version of each cache."""
    _check_distinct(handles)
    row = _integer("row", row)
    length = _row_length(caches, row)
    n_tokens = length if n_tokens is None else _integer("n_tokens", n_tokens)
    if not 0 < n_tokens <= length:
        raise InvalidArgumentError(
            f"save_prefix of {n_tokens} tokens: row {row} has {length}, and 1 is the least"
        )
    header = _header(engine, handles, model, n_tokens)
    with new_prefix_file(as_path(path), header) as file:
        for chunk in chunks(header):
            cache, version = handles[chunk.layer]
            if chunk.begin < chunk.end:
                file.add(engine.export_tiles(cache, version, row, chunk.begin, chunk.end))
            else:
                begin = header.n_tiles * header.tile_tokens
                file.add(np.stack(engine.read(cache, row, begin, n_tokens)))
                engine.export_tiles(cache, version, row, 0, 0)  # stale, if the row was changed


def load_prefix(
    engine: Any,
    path: str | os.PathLike[str],
    caches: Sequence[StoredKVCache],
    handles: list[tuple[int, int]],
    row: int,
    model: str,
) -> tuple[list[StoredKVCache], int]:
    """What Store.load_prefix does; handles: the number and version of each cache."""
    _check_distinct(handles)
    row = _integer("row", row)
    _row_length(caches, row)
    path = as_path(path)
    with open_prefix_file(path) as file:
        header = file.header
        check_same(path, header, _header(engine, handles, model, header.n_tokens))
        if header.n_tokens > caches[0].capacity_tokens:
            raise InvalidArgumentError(
                f"the prefix in {path} has {header.n_tokens} tokens: the caches have a "
                f"capacity_tokens of {caches[0].capacity_tokens}"
            )
        tails: dict[int, np.ndarray] = {}
        with _emptied_on_failure(engine, handles, row):
            for chunk, data in file.chunks():
                if chunk.begin < chunk.end:
                    engine.import_tiles(*handles[chunk.layer], row, chunk.begin, data)
                else:
                    tails[chunk.layer] = data
            versions = []
            for layer, handle in enumerate(handles):
                if header.n_tiles == 0:
                    engine.import_tiles(*handle, row, 0, np.empty(0, np.uint8))
                versions.append(_append_tail(engine, handle, row, header, tails.get(layer)))
    loaded = []
    for cache, (cache_id, _), version in zip(caches, handles, versions, strict=True):
        lengths = np.array(cache.lengths)
        lengths[row] = header.n_tokens
        loaded.append(cache.with_handles(engine.cache_handles(cache_id, version), lengths))
    return loaded, header.n_tokens


def _append_tail(
    engine: Any, handle: tuple[int, int], row: int, header: PrefixHeader, tail: np.ndarray | None
) -> int:
    """Nothing else has to be changed for the row to be whole. The cache's new version."""
    element = np.float32 if BY_NAME[header.dtype].bits == 32 else np.uint16
    if tail is None:
        tail = np.empty(0, element)
    k, v = tail.view(element).reshape(2, 1, *header.tail_shape[1:])
    start = header.n_tiles * header.tile_tokens
    where = (np.array([n], np.int32) for n in (row, start, header.tail_shape[1]))
    return engine.append(*handle, k, v, *where)


@contextlib.contextmanager
def _emptied_on_failure(engine: Any, handles: list[tuple[int, int]], row: int) -> Iterator[None]:
    """A row that is not whole is empty: the old handles, which stay good, cannot attend over it."""
    try:
        yield
    except BaseException:
        for handle in handles:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                engine.import_tiles(*handle, row, 0, np.empty(0, np.uint8))
        raise


def _check_distinct(handles: list[tuple[int, int]]) -> None:
    if not handles:
        raise InvalidArgumentError("a prefix needs the caches of all layers, got none")
    if len({cache for cache, _ in handles}) < len(handles):
        raise InvalidArgumentError("the same cache is given for two layers")


def _integer(name: str, value: Any) -> int:
    """NumPy's integers too, which no JSON takes; a bool would index, but is no number of a row."""
    try:
        if not isinstance(value, bool | np.bool_):
            return operator.index(value)
    except TypeError:
        pass
    raise InvalidArgumentError(f"{name} must be an integer, got {reprlib.repr(value)}")


def _row_length(caches: Sequence[StoredKVCache], row: int) -> int:
    """The row's length, which is that of all layers."""
    for layer, cache in enumerate(caches):
        if not 0 <= row < cache.batch:
            raise InvalidArgumentError(
                f"no row {row}: the cache of layer {layer} has rows 0 to {cache.batch - 1}"
            )
    return int(min(int(np.asarray(cache.lengths)[row]) for cache in caches))


def _header(engine: Any, handles: list[tuple[int, int]], model: str, n_tokens: int) -> PrefixHeader:
    if not isinstance(model, str) or not model:
        raise InvalidArgumentError(
            f"model is {model!r}: say in a text what the keys and values come from, for example "
            '"name@revision"'
        )
    layouts = [engine.tile_layout(cache) for cache, _ in handles]
    for layer, layout in enumerate(layouts):
        for name, value in layout.items():
            if value != layouts[0][name]:
                raise InvalidArgumentError(
                    f"the caches of a prefix must be alike: {name} of layer {layer} is {value!r}, "
                    f"of layer 0 {layouts[0][name]!r}"
                )
    layout = dict(layouts[0])
    return PrefixHeader(
        model=model,
        n_layers=len(handles),
        tile_layout=layout.pop("fingerprint"),
        n_tokens=n_tokens,
        **layout,
    )
