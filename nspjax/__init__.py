"""nspjax: near-storage LLM inference in JAX.

Write the model in Flax with an ordinary KV cache; a compiler pipeline moves that cache to storage
and the attention next to it. Names are imported on first use, so that `import nspjax` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nspjax.compiler import Pipeline as Pipeline
    from nspjax.compiler import near_storage as near_storage
    from nspjax.generate import LLM as LLM
    from nspjax.generate import BeamSearchParams as BeamSearchParams
    from nspjax.generate import SamplingParams as SamplingParams
    from nspjax.generate import StructuredOutputsParams as StructuredOutputsParams
    from nspjax.ops import KVCache as KVCache
    from nspjax.ops import cached_attention as cached_attention
    from nspjax.ops import project_kv as project_kv
    from nspjax.runtime import RateLimit as RateLimit
    from nspjax.runtime import Store as Store
    from nspjax.runtime import StoredArray as StoredArray
    from nspjax.runtime import StoredKVCache as StoredKVCache
    from nspjax.runtime import StoredWeight as StoredWeight
    from nspjax.runtime.step_trace import trace as trace

_PUBLIC = {
    "BeamSearchParams": "nspjax.generate",
    "KVCache": "nspjax.ops",
    "LLM": "nspjax.generate",
    "Pipeline": "nspjax.compiler",
    "RateLimit": "nspjax.runtime",
    "SamplingParams": "nspjax.generate",
    "Store": "nspjax.runtime",
    "StoredArray": "nspjax.runtime",
    "StoredKVCache": "nspjax.runtime",
    "StoredWeight": "nspjax.runtime",
    "StructuredOutputsParams": "nspjax.generate",
    "cached_attention": "nspjax.ops",
    "near_storage": "nspjax.compiler",
    "project_kv": "nspjax.ops",
    "trace": "nspjax.runtime.step_trace",
}

__version__ = "0.1.0"
__all__ = ["__version__", *_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'nspjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
