"""What answers were made with: OpenAI's `system_fingerprint`, as readable text.

    nspjax=0.1.0 jaxlib=0.10.2 kernel=avx512 dtype=auto kv_dtype=int8 max_num_seqs=16 …

Answers may differ where one of its values does, so a resumed job must have the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

_BEGIN = "nspjax="


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Settings by name, in the order in which they are written. A value has no spaces."""

    settings: Mapping[str, str]

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.settings.items())

    @staticmethod
    def parse(text: object) -> Fingerprint | None:
        """The fingerprint that `text` is; None for others', and where there is none."""
        if not isinstance(text, str) or not text.startswith(_BEGIN):
            return None
        parts = (part.partition("=") for part in text.split())
        return Fingerprint({name: value for name, _, value in parts})

    def differences(self, other: Fingerprint) -> dict[str, tuple[str, str]]:
        """name -> this one's value and the other's, of those settings that differ."""
        names = self.settings.keys() | other.settings.keys()
        pairs = {
            name: (self.settings.get(name, "none"), other.settings.get(name, "none"))
            for name in sorted(names)
        }
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def fingerprint(settings: Mapping[str, object] | None = None) -> Fingerprint:
    """The fingerprint of answers that this version makes on this machine under these settings."""
    from importlib.metadata import version

    from nspjax import __version__
    from nspjax._engine import available_kernels

    made_by = {
        "nspjax": __version__,
        "jaxlib": version("jaxlib"),
        "kernel": available_kernels()[0],
    }
    given = {name: "".join(str(value).split()) for name, value in (settings or {}).items()}
    return Fingerprint(made_by | given)
