"""Reading config.json strictly: a setting that nspjax does not have is an error that names it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from nspjax.errors import CheckpointError, UnsupportedModelError
from nspjax.models.config import Activation, LinearRopeScaling, Llama3RopeScaling
from nspjax.models.json_file import shown

MOST_SIZE = 2**31 - 1
MOST_LAYERS = 10_000
MOST_EXPERTS = 10_000
LEAST_NUMBER, MOST_NUMBER = 1e-30, 1e30
"""Numbers, and what is computed of them, are float32."""

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

    def integer(
        self, key: str, default: Any = _REQUIRED, *, minimum: int = 1, maximum: int = MOST_SIZE
    ) -> int:
        """An integer from `minimum` to `maximum`."""
        value = self._get(key, default)
        if type(value) is not int or value < minimum:
            raise self._wrong(key, value, f"an integer of at least {minimum}")
        if value > maximum:
            raise self._wrong(key, value, f"at most {maximum}")
        return value

    def integer_or_null(self, key: str, absent: int | None, null: int) -> int:
        """An integer; what an absent key means, None for the same as null; and what null does."""
        absent = null if absent is None or key in self.values else absent
        return self.integer(key, absent)

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        """A finite number above 0, of a size that float32 has room for."""
        value = self._get(key, default)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise self._wrong(key, value, "a finite number above 0")
        if not LEAST_NUMBER <= value <= MOST_NUMBER:
            raise self._wrong(key, value, f"from {LEAST_NUMBER:g} to {MOST_NUMBER:g}")
        return float(value)

    def layers(self) -> int:
        """How many layers there are."""
        return self.integer("num_hidden_layers", maximum=MOST_LAYERS)

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
        scaling, parameters = (self._object(key) for key in ("rope_scaling", "rope_parameters"))
        key, value = ("rope_scaling", scaling) if scaling else ("rope_parameters", parameters)
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
                low, high = inner.number("low_freq_factor"), inner.number("high_freq_factor")
                if high <= low:
                    raise inner._wrong("high_freq_factor", high, f"above low_freq_factor, {low}")
                return theta, Llama3RopeScaling(
                    factor=inner.number("factor"),
                    low_freq_factor=low,
                    high_freq_factor=high,
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
            f"{self.where} sets {key} to {shown(self.values.get(key))}, which nspjax does not "
            f"have; it has: {supported}"
        )

    def _object(self, key: str) -> Mapping[str, Any]:
        value = self._get(key, {})
        if not isinstance(value, Mapping):
            raise self._wrong(key, value, "an object or null")
        return value

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise CheckpointError(f"{self.where} has no {key}")
        return default

    def _wrong(self, key: str, value: object, wanted: str) -> CheckpointError:
        return CheckpointError(f"{key} in {self.where} must be {wanted}, got {shown(value)}")
