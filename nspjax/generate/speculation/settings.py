"""What `LLM(speculative=...)` says, in vLLM's names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nspjax.errors import InvalidArgumentError, RequestError
from nspjax.generate.sampling import checks

METHOD = "ngram"
MOST_SPECULATIVE_TOKENS = 32


@dataclasses.dataclass(frozen=True)
class NgramSpeculation:
    """Proposals by lookup: what followed the answer's last tokens where they stood before, in the
    prompt or in the answer.

    num_speculative_tokens: proposed at a time, at most.
    prompt_lookup_max, prompt_lookup_min: how many last tokens are looked up; the most that are
      found count.
    """

    num_speculative_tokens: int
    prompt_lookup_max: int = 4
    prompt_lookup_min: int = 2

    def __post_init__(self) -> None:
        for name, most in (
            ("num_speculative_tokens", MOST_SPECULATIVE_TOKENS),
            ("prompt_lookup_max", MOST_SPECULATIVE_TOKENS),
            ("prompt_lookup_min", self.prompt_lookup_max),
        ):
            try:
                checks.integer(name, getattr(self, name), 1, most)
            except RequestError as error:
                raise InvalidArgumentError(f"speculative: {error}") from None

    @staticmethod
    def of(given: object) -> NgramSpeculation:
        """From {"method": "ngram", "num_speculative_tokens": 5, ...}.

        prompt_lookup_min is by default 2, or prompt_lookup_max where that is less.

        Raises:
          InvalidArgumentError: another method, a setting that there is not, or a wrong value.
        """
        if isinstance(given, NgramSpeculation):
            return given
        if not isinstance(given, Mapping) or given.get("method") != METHOD:
            raise InvalidArgumentError(
                f"speculative must be a mapping with the method {METHOD!r}, the only one there is: "
                f'{{"method": "ngram", "num_speculative_tokens": 5}}; got {given!r}'
            )
        settings: dict[str, Any] = {str(k): v for k, v in given.items() if k != "method"}
        known = [field.name for field in dataclasses.fields(NgramSpeculation)]
        if unknown := sorted(set(settings) - set(known)):
            raise InvalidArgumentError(
                f"speculative has no setting {unknown[0]!r}: it has method, {', '.join(known)}"
            )
        if "num_speculative_tokens" not in settings:
            raise InvalidArgumentError(
                "speculative needs num_speculative_tokens: how many tokens are proposed at a time"
            )
        most = settings.get("prompt_lookup_max")
        if "prompt_lookup_min" not in settings and isinstance(most, int):
            settings["prompt_lookup_min"] = min(NgramSpeculation.prompt_lookup_min, most)
        return NgramSpeculation(**settings)
