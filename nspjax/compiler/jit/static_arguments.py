"""Which arguments of a function are part of its program, by number and by name, as jax.jit's."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from nspjax.errors import InvalidArgumentError


@dataclasses.dataclass(frozen=True)
class StaticArguments:
    """Numbers of positional arguments, and names of keyword ones."""

    numbers: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()

    @staticmethod
    def of(
        fn: Callable[..., Any],
        numbers: int | Iterable[int] | None,
        names: str | Iterable[str] | None,
    ) -> StaticArguments:
        """Those of `fn`; one that can be given either way counts in both.

        Raises:
          InvalidArgumentError: `fn` has no such argument.
        """
        given = {numbers} if isinstance(numbers, int) else set(numbers or ())
        named = {names} if isinstance(names, str) else set(names or ())
        if not given and not named:
            return StaticArguments()
        kinds = inspect.Parameter
        parameters = inspect.signature(fn).parameters.values()
        by_place = [
            p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
        ]
        by_name = {p.name for p in parameters if p.kind in _BY_NAME}
        any_place = any(p.kind is kinds.VAR_POSITIONAL for p in parameters)
        any_name = any(p.kind is kinds.VAR_KEYWORD for p in parameters)
        n = len(by_place)
        found = {number + n if number < 0 and not any_place else number for number in given}
        if any(number < 0 or (number >= n and not any_place) for number in found):
            raise InvalidArgumentError(
                f"static_argnums is {sorted(given)}, but the function has {n} positional arguments"
            )
        if not any_name and (unknown := named - by_name):
            raise InvalidArgumentError(
                f"static_argnames has {', '.join(sorted(unknown))}, which the function has not: "
                f"it has {', '.join(sorted(by_name))}"
            )
        also_named = {by_place[i].name for i in found if i < n and by_place[i].name in by_name}
        also_numbered = {i for i, p in enumerate(by_place) if p.name in named}
        return StaticArguments(frozenset(found | also_numbered), frozenset(named | also_named))

    def split(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], StaticValues]:
        """The other arguments, and the values of those that are static."""
        if not self.numbers and not self.names:
            return tuple(args), dict(kwargs), _NONE
        at = {i: value for i, value in enumerate(args) if i in self.numbers}
        named = {name: value for name, value in kwargs.items() if name in self.names}
        values = StaticValues(tuple(at.items()), tuple(sorted(named.items())))
        values.check_hashable()
        rest = tuple(value for i, value in enumerate(args) if i not in at)
        return rest, {k: v for k, v in kwargs.items() if k not in named}, values


@dataclasses.dataclass(frozen=True)
class StaticValues:
    """The static arguments of one call."""

    by_number: tuple[tuple[int, Any], ...] = ()
    by_name: tuple[tuple[str, Any], ...] = ()

    @property
    def key(self) -> Any:
        """Equal where the program is the same: 1, 1.0 and True are not."""
        return tuple((at, type(value), value) for at, value in (*self.by_number, *self.by_name))

    def bound(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` of the other arguments."""
        if not self.by_number and not self.by_name:
            return fn

        @functools.wraps(fn)
        def of_the_rest(*args: Any, **kwargs: Any) -> Any:
            all_args = list(args)
            for number, value in self.by_number:  # in order
                all_args.insert(number, value)
            return fn(*all_args, **kwargs, **dict(self.by_name))

        return of_the_rest

    def check_hashable(self) -> None:
        for at, value in (*self.by_number, *self.by_name):
            try:
                hash(value)
            except TypeError:
                raise InvalidArgumentError(
                    f"the static argument {at!r} is a {type(value).__name__}, which cannot be "
                    "hashed, and a program is kept for each value: give a hashable one (a tuple, a "
                    "frozen dataclass), or do not name it static"
                ) from None


_NONE = StaticValues()
_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
