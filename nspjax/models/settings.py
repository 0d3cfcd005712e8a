"""Reading config.json strictly: a setting that nspjax does not have is an error that names it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nspjax.errors import CheckpointError, UnsupportedModelError
from nspjax.models.config import Activation, LinearRopeScaling, Llama3RopeScaling

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_REQUIRED = object()


@dataclasses.dataclass(frozen=True)
class Settings:
    """A JSON object and where it stands, for messages.

    Every reader raises CheckpointError for a missing key or a value of the wrong type or range. A
    key that is null counts as absent, as in transformers, except where a reader says otherwise.
    """

    values: Mapping[str, Any]
    where: str

    def integer(self, key: str, default: Any = _REQUIRED, *, minimum: int = 1) -> int:
        """An integer of at least `minimum`."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self._wrong(key, value, f"an integer of at least {minimum}")
        return value

    def number(self, key: str, default: Any = _REQUIRED, *, above: float = 0.0) -> float:
        """A number greater than `above`."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > above:
            raise self._wrong(key, value, f"a number above {above:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: Any = _REQUIRED) -> str:
        """A string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def activation(self, key: str, default: str) -> Activation:
        """The name of an activation.

        Raises:
          UnsupportedModelError: one that nspjax does not have.
        """
        name = self.text(key, default)
        if name not in ACTIVATIONS:
            raise self.unsupported(key, ", ".join(ACTIVATIONS))
        return ACTIVATIONS[name]

    def window_tokens(self, key: str, default: int | None) -> int | None:
        """A sliding window; null means none, an absent key the default."""
        if key in self.values and self.values[key] is None:
            return None
        return None if default is None and key not in self.values else self.integer(key, default)

    def rope(
        self, max_position_tokens: int, default_theta: float = 10_000.0
    ) -> tuple[float, LinearRopeScaling | Llama3RopeScaling | None]:
        """Theta and scaling, from `rope_parameters` or from `rope_theta` and `rope_scaling`.

        Raises:
          UnsupportedModelError: a kind of scaling that nspjax does not have.
        """
        key = "rope_scaling" if self.values.get("rope_scaling") else "rope_parameters"
        value = self.values.get(key) or {}
        if not isinstance(value, Mapping):
            raise self._wrong(key, value, "an object or null")
        if any(isinstance(part, Mapping) for part in value.values()):
            raise self.unsupported(key, "one rotation for all layers")
        theta = self.number("rope_theta", default_theta)
        inner = Settings(value, f"{key} in {self.where}")
        theta = inner.number("rope_theta", theta)
        for settings in (self, inner):
            settings.only("partial_rotary_factor", 1.0)
        kind = "rope_type" if value.get("rope_type") is not None else "type"
        match inner.text(kind, "default"):
            case "default":
                return theta, None
            case "linear":
                return theta, LinearRopeScaling(inner.number("factor"))
            case "llama3":
                original = "original_max_position_embeddings"
                return theta, Llama3RopeScaling(
                    factor=inner.number("factor"),
                    low_freq_factor=inner.number("low_freq_factor"),
                    high_freq_factor=inner.number("high_freq_factor"),
                    # beside the object it counts more, as in transformers
                    original_max_position_tokens=self.integer(
                        original, inner.integer(original, max_position_tokens)
                    ),
                )
            case _:
                raise inner.unsupported(kind, "default, linear, llama3")

    def only(self, key: str, supported: Any) -> None:
        """Refuse any value but one; an absent key has it.

        Raises:
          UnsupportedModelError: another value.
        """
        if self.values.get(key) not in (None, supported):
            raise self.unsupported(key, repr(supported))

    def unsupported(self, key: str, supported: str) -> UnsupportedModelError:
        """The error for a setting that nspjax does not have."""
        return UnsupportedModelError(
            f"{self.where} sets {key} to {self.values.get(key)!r}, which nspjax does not have; "
            f"it has: {supported}"
        )

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise CheckpointError(f"{self.where} has no {key}")
        return default

    def _wrong(self, key: str, value: object, wanted: str) -> CheckpointError:
        return CheckpointError(f"{key} in {self.where} must be {wanted}, got {value!r}")
