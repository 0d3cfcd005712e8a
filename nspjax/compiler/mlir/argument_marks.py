"""Marks on the arguments of main: which are caches, which are weights in a store."""

from __future__ import annotations

from collections.abc import Sequence

from jax.extend.mlir import ir

from nspjax.compiler.mlir.reading import Attribute, Module, Operation, Value, function

CACHE_ARGUMENT = "nspjax.kv_cache"
"""Attribute of those arguments of main that are a cache, whether a mark uses them or not."""
WEIGHT_ARGUMENT = "nspjax.stored_weight"
"""Attribute of those arguments of main that are weights in a store."""


def mark_cache_arguments(module: Module, indices: Sequence[int]) -> None:
    """Put CACHE_ARGUMENT on these arguments of main, and on no others."""
    _mark_arguments(module, CACHE_ARGUMENT, indices)


def cache_arguments(module: Module) -> list[Value]:
    """The arguments of main that have CACHE_ARGUMENT."""
    return _marked_arguments(module, CACHE_ARGUMENT)


def mark_weight_arguments(module: Module, indices: Sequence[int]) -> None:
    """Put WEIGHT_ARGUMENT on these arguments of main, and on no others."""
    _mark_arguments(module, WEIGHT_ARGUMENT, indices)


def weight_arguments(module: Module) -> list[Value]:
    """The arguments of main that have WEIGHT_ARGUMENT."""
    return _marked_arguments(module, WEIGHT_ARGUMENT)


def _mark_arguments(module: Module, mark: str, indices: Sequence[int]) -> None:
    main = function(module, "main")
    changed = _argument_attributes(main)
    wanted = set(indices)
    with module.context:
        for index, attributes in enumerate(changed):
            attributes.pop(mark, None)
            if index in wanted:
                attributes[mark] = ir.UnitAttr.get()
        main.attributes["arg_attrs"] = ir.ArrayAttr.get(list(map(ir.DictAttr.get, changed)))


def _marked_arguments(module: Module, mark: str) -> list[Value]:
    main = function(module, "main")
    arguments = main.regions[0].blocks[0].arguments
    given = _argument_attributes(main)
    return [a for a, attributes in zip(arguments, given, strict=True) if mark in attributes]


def _argument_attributes(fn: Operation) -> list[dict[str, Attribute]]:
    if "arg_attrs" not in fn.attributes:
        return [{} for _ in fn.regions[0].blocks[0].arguments]
    given = ir.ArrayAttr(fn.attributes["arg_attrs"])
    return [{item.name: item.attr for item in ir.DictAttr(attrs)} for attrs in given]
