"""What an operation of the dialect is: its operands, results, attributes, effect, cost and target.

`nsp/ops.py` has the operations. One that is made here, or checked, is refused by name where
something is missing, unknown or of another type.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nspjax.compiler import mlir
from nspjax.compiler.nsp.traffic import Cost
from nspjax.errors import CompilerError

if TYPE_CHECKING:
    from nspjax.compiler.nsp.execution import Step

HANDLE_K, HANDLE_V = "handle_k", "handle_v"
CACHE_SHAPE, CACHE_DTYPE = "cache_shape", "cache_dtype"

ANY: tuple[str, ...] = ()
"""Elements of any type."""
OF_CACHE = ("the cache's",)
"""Elements of the type that the cache has."""


class Effect(enum.Enum):
    """What an operation does to the cache whose handle it has."""

    NONE = enum.auto()
    """it has no cache"""
    CHANGES = enum.auto()
    """it uses the handle up and gives that of the next version"""
    READS = enum.auto()
    """it uses the handle up and gives one as good: reads and changes are in one order"""
    LOOKS = enum.auto()
    """it does not use the handle up; where it gives `done`, it must come before what makes
    the handle stale"""


class Stage(enum.IntEnum):
    """How far the passes have brought a module."""

    RAISED = 1
    """every cached attention that can be one is a mark"""
    OFFLOADED = 2
    """caches are handles, attention is an operation of the dialect"""
    SCHEDULED = 3
    """it is said when things happen"""
    LOWERED = 4
    """the engine's calls are left, and no operation of the dialect"""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The type of an operand or a result.

    axes: a letter for each. The same letter is the same size in all of an operation, S, H and D
    are the rows and heads of its cache and the heads' size, a digit is that size; None: anything.
    turned_by: the attribute, a bool, that says that the axes are in the other order.
    """

    name: str
    axes: str | None
    elements: tuple[str, ...] = ("i32",)
    turned_by: str | None = None


@dataclasses.dataclass(frozen=True)
class Attribute:
    """A number, text or row of numbers that an operation has.

    default: None where it must be given. axis: the letter of the axis of which it is the size.
    for_engine: whether the engine's call gets it; the others are for passes and tools.
    """

    name: str
    type: type
    default: bool | int | float | None = None
    axis: str | None = None
    for_engine: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
    """One operation. After its own operands it may have others, of any type, which are not read:
    they say what must have happened before."""

    name: str
    operands: tuple[Tensor, ...]
    results: tuple[Tensor, ...]
    attributes: tuple[Attribute, ...] = ()
    effect: Effect = Effect.NONE
    since: Stage | None = None
    """the first stage in which a module may hold it; None: any"""
    is_lowered: bool = True
    """whether the engine has a call for it; the others have an expansion in `lowering/`"""
    costs: Callable[[Step, int | None], Cost] = lambda *_: Cost()
    """what one execution of it moves and computes: a rule of `nsp/traffic.py`"""

    @property
    def target(self) -> str | None:
        """The engine's call; None where there is none."""
        return self.name.replace("nsp.", "nspjax.", 1) if self.is_lowered else None

    @property
    def has_cache(self) -> bool:
        return self.effect is not Effect.NONE

    @property
    def gives_handle(self) -> bool:
        return self.effect in (Effect.CHANGES, Effect.READS)

    @property
    def is_ordered(self) -> bool:
        """Whether it gives `done`, for what must come after it."""
        return any(item.name == "done" for item in self.results)

    def operand_index(self, name: str) -> int:
        return _index(self, self.operands, name)

    def result_index(self, name: str) -> int:
        return _index(self, self.results, name)

    def attribute(self, name: str) -> Attribute:
        return self.attributes[_index(self, self.attributes, name)]

    def build(
        self,
        builder: mlir.Builder,
        *,
        handle: Sequence[mlir.Value] | None = None,
        after: Iterable[mlir.Value] = (),
        types: Mapping[str, mlir.Type] | None = None,
        **given: Any,
    ) -> mlir.Operation:
        """Make one: operands and attributes are given by name.

        handle: of K and of V, where it has a cache. after: what must have happened before. types:
        of the results that do not follow from the rest.

        Raises:
          CompilerError: something is missing, unknown, or of another type.
        """
        if handle is not None:
            given[HANDLE_K], given[HANDLE_V] = handle
        names = {item.name for item in (*self.operands, *self.attributes)}
        if unknown := sorted(set(given) - names):
            raise self._error(f"has no operand and no attribute {unknown[0]!r}")
        if missing := [item.name for item in self.operands if item.name not in given]:
            raise self._error(f"is made without its operand {missing[0]!r}")
        operands = [given[item.name] for item in self.operands]
        for item, value in zip(self.operands, operands, strict=True):
            if not isinstance(value, mlir.Value):
                raise self._error(f"has {item.name!r} as an operand, a value, got {value!r}")
        values = {item.name: self._value_of(item, given.get(item.name)) for item in self.attributes}
        sizes = self._sizes(values)
        self._check_types(self.operands, [v.type for v in operands], values, sizes)
        kinds = self._result_types(values, sizes, types or {}, builder.anchor)
        self._check_types(self.results, kinds, values, sizes)
        context = builder.anchor.context
        attributes = {name: mlir.attribute(value, context) for name, value in values.items()}
        results = builder.op(self.name, [*operands, *after], kinds, attributes)
        return mlir.maker(results[0])

    def check(self, op: mlir.Operation) -> None:
        """Refuse an operation of a module that `build` would not have made.

        Raises:
          CompilerError: says which, and where.
        """
        names = [name for name in mlir.attribute_names(op) if "." not in name]
        if unknown := sorted(set(names) - {item.name for item in self.attributes}):
            raise self._error(f"has no attribute {unknown[0]!r}", op)
        if len(op.operands) < len(self.operands) or len(op.results) != len(self.results):
            raise self._error(
                f"has the operands {_names(self.operands)} and the results {_names(self.results)}, "
                f"got {len(op.operands)} and {len(op.results)}",
                op,
            )
        values = {
            item.name: self._value_of(item, mlir.python_value(op.attributes[item.name]), op)
            if item.name in names
            else self._value_of(item, None, op)
            for item in self.attributes
        }
        sizes = self._sizes(values)
        for items, found in ((self.operands, op.operands), (self.results, op.results)):
            kinds = [value.type for value in list(found)[: len(items)]]
            self._check_types(items, kinds, values, sizes, op)

    def _value_of(self, item: Attribute, value: Any, place: mlir.Operation | None = None) -> Any:
        value = item.default if value is None else value
        if value is None:
            raise self._error(f"is without its attribute {item.name!r}", place)
        if type(value) is not item.type:
            wanted = f"a {item.type.__name__}"
            raise self._error(f"has {item.name!r} as an attribute, {wanted}, got {value!r}", place)
        if item.name == CACHE_SHAPE and len(value) != 4:
            raise self._error(f"has {CACHE_SHAPE} [S, C, Hkv, D], got {list(value)}", place)
        return value

    def _sizes(self, values: Mapping[str, Any]) -> dict[str, int]:
        """Of axes, as far as attributes say."""
        sizes = {item.axis: values[item.name] for item in self.attributes if item.axis is not None}
        if CACHE_SHAPE in values:
            sizes |= dict(zip("SHD", (values[CACHE_SHAPE][i] for i in (0, 2, 3)), strict=True))
        return sizes

    def _check_types(
        self,
        items: Sequence[Tensor],
        kinds: Sequence[mlir.Type],
        values: Mapping[str, Any],
        sizes: dict[str, int],
        place: mlir.Operation | None = None,
    ) -> None:
        """Also notes the sizes of axes that are met first."""
        for item, kind in zip(items, kinds, strict=True):
            if not mlir.is_tensor_type(kind):
                raise self._error(f"has {item.name!r}, a tensor, got {kind}", place)
            shape, element = mlir.tensor_of_type(kind)
            axes = _axes(item, values)
            if axes is not None:
                fits = len(shape) == len(axes)
                for axis, size in zip(axes, shape, strict=False):
                    fits = fits and size == (
                        int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
                    )
                if not fits:
                    raise self._error(f"has {item.name!r} {_text(axes, sizes)}, got {kind}", place)
            elements = _elements(item, values)
            if elements and element not in elements:
                wanted = " or ".join(elements)
                raise self._error(f"has {item.name!r} of {wanted}, got {kind}", place)

    def _result_types(
        self,
        values: Mapping[str, Any],
        sizes: Mapping[str, int],
        types: Mapping[str, mlir.Type],
        anchor: mlir.Operation,
    ) -> list[mlir.Type]:
        kinds = []
        for item in self.results:
            axes, elements = item.axes, _elements(item, values)
            if item.name in types:
                kinds.append(types[item.name])
                continue
            known = axes is not None and all(a.isdigit() or a in sizes for a in axes)
            if axes is None or not known or len(elements) != 1:
                raise self._error(f"is made without the type of its result {item.name!r}")
            shape = [int(axis) if axis.isdigit() else sizes[axis] for axis in axes]
            kinds.append(mlir.tensor_type(shape, elements[0], anchor.context))
        return kinds

    def _error(self, what: str, place: mlir.Operation | None = None) -> CompilerError:
        where = "" if place is None else f" at {mlir.source_line(place)}"
        return CompilerError(f"{self.name}{where} {what}")


def _axes(item: Tensor, values: Mapping[str, Any]) -> str | None:
    turned = item.turned_by is not None and values[item.turned_by]
    return item.axes[::-1] if turned and item.axes is not None else item.axes


def _elements(item: Tensor, values: Mapping[str, Any]) -> tuple[str, ...]:
    return (values[CACHE_DTYPE],) if item.elements is OF_CACHE else item.elements


def _names(items: Sequence[Tensor]) -> str:
    return ", ".join(item.name for item in items)


def _text(axes: str, sizes: Mapping[str, int]) -> str:
    """[B = 2, T, 4]"""
    known = [f"{axis} = {sizes[axis]}" if axis in sizes else axis for axis in axes]
    return f"[{', '.join(known)}]"


def _index(op: Op, items: Sequence[Tensor] | Sequence[Attribute], name: str) -> int:
    for index, item in enumerate(items):
        if item.name == name:
            return index
    raise CompilerError(f"{op.name} has no {name!r}; it has {', '.join(i.name for i in items)}")
