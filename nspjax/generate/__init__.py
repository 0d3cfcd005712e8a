"""Text generation in batches: `LLM`, its settings and its results."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nspjax.generate.beams.records import BeamSearchOutput as BeamSearchOutput
from nspjax.generate.beams.records import BeamSearchParams as BeamSearchParams
from nspjax.generate.beams.records import BeamSearchSequence as BeamSearchSequence
from nspjax.generate.outputs import CompletionOutput as CompletionOutput
from nspjax.generate.outputs import GenerationStats as GenerationStats
from nspjax.generate.outputs import Logprob as Logprob
from nspjax.generate.outputs import Request as Request
from nspjax.generate.outputs import RequestOutput as RequestOutput
from nspjax.generate.sampling_params import SamplingParams as SamplingParams
from nspjax.generate.structured import StructuredOutputsParams as StructuredOutputsParams

if TYPE_CHECKING:
    from nspjax.generate.llm import LLM as LLM


def __getattr__(name: str) -> Any:
    # late, so that a batch job's files are checked before JAX is imported
    if name == "LLM":
        return importlib.import_module("nspjax.generate.llm").LLM
    raise AttributeError(f"module 'nspjax.generate' has no attribute {name!r}")
