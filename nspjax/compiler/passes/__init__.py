"""The passes, found by the name they have in a pipeline string."""

from __future__ import annotations

import importlib
from typing import Any, TypeVar

from nspjax.errors import PipelineError

_OURS = {
    "offload-kv": "nspjax.compiler.passes.offload_kv:OffloadKV",
    "offload-weights": "nspjax.compiler.passes.offload_weights:OffloadWeights",
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
    return sorted([*_OURS, *_users])


def registered_pass(name: str) -> Any:
    """The class of the pass `name`.

    Raises:
      PipelineError: there is none.
    """
    if name in _users:
        return _users[name]
    if name not in _OURS:
        raise PipelineError(f"there is no pass {name!r}; there are: {', '.join(pass_names())}")
    module, cls = _OURS[name].split(":")
    return getattr(importlib.import_module(module), cls)
