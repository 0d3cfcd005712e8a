"""`--speculative JSON`, as vLLM's --speculative-config has it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nspjax.errors import InvalidArgumentError

if TYPE_CHECKING:
    from nspjax.generate.speculation.settings import NgramSpeculation


def speculation_of(text: str | None) -> NgramSpeculation | None:
    """What the option says; None where it is not given.

    Raises:
      InvalidArgumentError: it is no JSON, or says what there is not.
    """
    if text is None:
        return None
    from nspjax.generate.speculation.settings import NgramSpeculation

    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(
            f"--speculative is no JSON ({error}): give "
            '\'{"method": "ngram", "num_speculative_tokens": 8}\''
        ) from None
    return NgramSpeculation.of(given)
