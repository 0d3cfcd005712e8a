"""Which tensor of a checkpoint fills which weight of a `Decoder`.

A family has one table {name in the checkpoint: Target(path in the decoder, layout)}. `{layer}` and
`{expert}` stand for numbers: a tensor is looked up by its name with the numbers taken out, and a
spelling is filled in when a missing one has to be named.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nspjax.errors import CheckpointError, UnsupportedModelError
from nspjax.models.config import ModelConfig
from nspjax.models.json_file import shown
from nspjax.models.stored_tensor import StoredTensor

MOST_MISSING = 10_000
"""Names of missing tensors are not made beyond these: config.json may ask for any number."""


@dataclasses.dataclass(frozen=True)
class Target:
    """The weight that a tensor fills, and how it lies there.

    path: of the weight in the decoder, dotted.
    transposed: the last two axes are exchanged: [out, in] in the file, [in, out] here.
    part: (i, n): it is the i-th of n equal parts along the last axis of the weight.
    A name with `{expert}` fills that index of the weight's first axis.
    """

    path: str
    transposed: bool = False
    part: tuple[int, int] = (0, 1)


Table = Mapping[str, Target]


@dataclasses.dataclass(frozen=True)
class StoredWeights:
    """What the checkpoint at `path` holds, and where it goes.

    ignored: names of tensors that are no weights. described_by: what messages call the place that
    the configuration is from; doubt: what they ask where the two do not fit.
    """

    path: Path
    config: ModelConfig
    tensors: Mapping[str, StoredTensor]
    table: Table
    ignored: re.Pattern[str]
    described_by: str
    doubt: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A stored tensor and the region of a weight that it fills."""

    tensor: StoredTensor
    region: tuple[Any, ...]
    transposed: bool

    def read(self, dtype: np.dtype) -> np.ndarray:
        """The tensor's values as they lie in the weight (a view of what was read). dtype: the
        weight's, for `StoredTensor.read_as`."""
        return self._turned(self.tensor.read_as(dtype))

    def of_weight(self, weight: np.ndarray) -> np.ndarray:
        """The part of the weight that it fills, with the tensor's axes (a view)."""
        return self._turned(weight[self.region]).reshape(self.tensor.shape)

    def _turned(self, values: np.ndarray) -> np.ndarray:
        return values.swapaxes(-1, -2) if self.transposed else values


Plan = dict[str, list[Source]]
"""Weight -> its sources, which fill it completely and once."""


def plan_weights(stored: StoredWeights, weights: Mapping[str, tuple[int, ...]]) -> Plan:
    """Match all stored tensors with all weights, {dotted path: shape}.

    Raises:
      CheckpointError: a tensor is missing, surplus or misshapen; names it.
      UnsupportedModelError: a tensor is quantised.
    """
    table = stored.table
    spellings_of = {_PLACEHOLDER.sub("{}", spelling): spelling for spelling in table}
    plan: Plan = {weight: [] for weight in weights}
    surplus, spellings = [], set()
    for name, tensor in stored.tensors.items():
        if stored.ignored.search(name):
            continue
        spelling, numbers = _look_up(name, spellings_of)
        weight = table[spelling].path.format(**numbers) if spelling else ""
        if weight not in weights:
            surplus.append(name)
            continue
        spellings.add(spelling)
        source = _source(stored, tensor, table[spelling], weights[weight], numbers.get("expert"))
        plan[weight].append(source)
    _check_complete(stored, weights, plan, surplus, spellings)
    return plan


_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_NUMBER = re.compile(r"(?<=\.)(?:0|[1-9][0-9]{0,8})(?=\.)")


def _look_up(name: str, spellings_of: Mapping[str, str]) -> tuple[str, dict[str, int]]:
    """The table's spelling of a tensor's name and the numbers in it; "" where there is none."""
    spelling = spellings_of.get(_NUMBER.sub("{}", name), "")
    keys, numbers = _PLACEHOLDER.findall(spelling), _NUMBER.findall(name)
    if len(keys) != len(numbers):
        return "", {}
    return spelling, {key: int(number) for key, number in zip(keys, numbers, strict=True)}


def _pattern(place: str) -> re.Pattern[str]:
    """The regular expression of a table's place."""
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(place)))


def _source(
    stored: StoredWeights,
    tensor: StoredTensor,
    target: Target,
    weight_shape: tuple[int, ...],
    expert: int | None,
) -> Source:
    if tensor.dtype not in tensor.readable:
        raise UnsupportedModelError(
            f"{tensor.name} in {tensor.shard} has dtype {tensor.dtype}: quantised checkpoints are "
            f"not supported, only {', '.join(tensor.readable)}"
        )
    i, n = target.part
    size = weight_shape[-1] // n
    region = (Ellipsis, slice(i * size, (i + 1) * size))
    shape = (*weight_shape[:-1], size)
    if expert is not None:
        if expert >= weight_shape[0]:
            raise CheckpointError(
                f"the checkpoint has a surplus tensor {tensor.name}: "
                f"{stored.described_by} says {weight_shape[0]} experts"
            )
        region, shape = (expert, *region), shape[1:]
    if target.transposed:
        shape = (*shape[:-2], shape[-1], shape[-2])
    if tensor.shape != shape:
        raise CheckpointError(
            f"{tensor.name} in {tensor.shard} has shape {list(tensor.shape)}, but "
            f"{stored.described_by} makes it {list(shape)}"
        )
    return Source(tensor, region, target.transposed)


def _check_complete(
    stored: StoredWeights,
    weights: Mapping[str, tuple[int, ...]],
    plan: Plan,
    surplus: list[str],
    spellings: set[str],
) -> None:
    missing: list[str] = []
    for weight, sources in plan.items():
        names = [source.tensor.name for source in sources]
        filled = sum(math.prod(source.tensor.shape) for source in sources)
        size = math.prod(weights[weight])
        if filled > size:
            raise CheckpointError(
                f"{', '.join(map(shown, names))} are the same weight: the checkpoint has it twice"
            )
        if filled < size and len(missing) < MOST_MISSING:
            wanted = _names(stored.table, weight, weights[weight], spellings)
            missing += [name for name in wanted if name not in names]
    faults = [
        f"{len(names)}{' or more' if len(names) >= MOST_MISSING else ''} {kind} "
        f"tensor{'s' if len(names) > 1 else ''} ({_some(names)})"
        for kind, names in (("missing", missing), ("surplus", surplus))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"the checkpoint does not fit {stored.described_by}: {' and '.join(faults)}. "
            f"{stored.doubt}"
        )


def _names(table: Table, weight: str, shape: tuple[int, ...], spellings: set[str]) -> list[str]:
    """The tensors that fill a weight, in the spelling that the checkpoint uses, or the first."""
    alternatives: dict[str, list[str]] = {}
    numbers: dict[str, str] = {}
    for spelling, target in table.items():
        if found := _pattern(target.path).fullmatch(weight):
            numbers = found.groupdict()
            in_parts = target.part != (0, 1)
            alternatives.setdefault("parts" if in_parts else spelling, []).append(spelling)
    used = max(alternatives.values(), key=lambda names: len(spellings.intersection(names)))
    return [
        spelling.format(**numbers, expert=expert)
        for spelling in used
        for expert in (range(shape[0]) if "{expert}" in spelling else [0])
    ]


def _some(names: list[str], at_most: int = 5) -> str:
    rest = len(names) - at_most
    return ", ".join(name if len(name) < 200 else shown(name) for name in names[:at_most]) + (
        f" and {rest} more" if rest > 0 else ""
    )
