"""The passes, found by the name they have in a pipeline string.

Ours come first, then those given to `register_pass`, then the entry points of installed packages in
the group `nspjax.passes`, which are imported when they are asked for:

    [project.entry-points."nspjax.passes"]
    deepest-first = "my_package.passes:DeepestFirst"
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
from collections.abc import Sequence
from typing import Any, TypeVar

from nspjax.errors import PipelineError

ENTRY_POINTS = "nspjax.passes"

_OURS = {
    "raise-attention": "nspjax.compiler.passes.raise_attention:RaiseAttention",
    "offload-kv": "nspjax.compiler.passes.offload_kv:OffloadKV",
    "sparsify": "nspjax.compiler.passes.sparsify:Sparsify",
    "haul-kv": "nspjax.compiler.passes.haul_kv:HaulKV",
    "x-cache": "nspjax.compiler.passes.x_cache:XCache",
    "split-attention": "nspjax.compiler.passes.split_attention:SplitAttention",
    "interleave": "nspjax.compiler.passes.interleave:InterleaveBatch",
    "auto-interleave": "nspjax.compiler.passes.auto_interleave:AutoInterleave",
    "delay-writeback": "nspjax.compiler.passes.delay_writeback:DelayWriteback",
    "offload-weights": "nspjax.compiler.passes.offload_weights:OffloadWeights",
    "prefetch": "nspjax.compiler.passes.prefetch:Prefetch",
    "host-dot": "nspjax.compiler.passes.host_dot:HostDot",
    "verify-schedule": "nspjax.compiler.passes.verify_schedule:VerifySchedule",
    "lower-to-ffi": "nspjax.compiler.passes.lower_to_ffi:LowerToFFI",
}
_users: dict[str, Any] = {}

PassClass = TypeVar("PassClass", bound=type)


def register_pass(cls: PassClass) -> PassClass:
    """Class decorator: make a pass of your own known to `Pipeline.parse` under its `name`.

    Raises:
      PipelineError: the name is taken.
    """
    name = cls.name  # pyright: ignore[reportAttributeAccessIssue]
    if name in _OURS or name in _users:
        raise PipelineError(f"a pass named {name!r} exists already: choose another name")
    _users[name] = cls
    return cls


def pass_names() -> list[str]:
    """Of all that can be asked for, whether it can be imported or not."""
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return sorted({*_OURS, *_users, *points.names})


def our_passes() -> list[Any]:
    """The classes of the passes of this package, in the order in which a pipeline has them."""
    return [registered_pass(name) for name in _OURS]


def registered_pass(name: str) -> Any:
    """The class of the pass `name`.

    Raises:
      PipelineError: there is none, or the package that has it cannot give it.
    """
    if name in _OURS:
        module, cls = _OURS[name].split(":")
        return getattr(importlib.import_module(module), cls)
    if name in _users:
        return _users[name]
    points = importlib.metadata.entry_points(group=ENTRY_POINTS, name=name)
    if not points:
        raise PipelineError(f"there is no pass {name!r}; there are: {', '.join(pass_names())}")
    return _loaded(name, tuple(points))


def _loaded(name: str, points: Sequence[importlib.metadata.EntryPoint]) -> Any:
    owners = " and ".join(sorted({point.dist.name if point.dist else "?" for point in points}))
    if len(points) > 1:
        raise PipelineError(f"{owners} both have a pass {name!r}: uninstall one of them")
    point = points[0]
    try:
        cls = point.load()
    except Exception as error:  # whatever a package raises when it is imported
        raise PipelineError(
            f"the pass {name!r} of {owners} cannot be loaded from {point.value}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not dataclasses.is_dataclass(cls) or getattr(cls, "name", None) != name:
        raise PipelineError(
            f"{point.value} of {owners} is no pass {name!r}: it must be a dataclass whose name is "
            f"{name!r}"
        )
    return cls
