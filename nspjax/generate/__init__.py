"""Text generation in batches: `LLM`, its settings and its results."""

from nspjax.generate.llm import LLM as LLM
from nspjax.generate.outputs import CompletionOutput as CompletionOutput
from nspjax.generate.outputs import GenerationStats as GenerationStats
from nspjax.generate.outputs import Request as Request
from nspjax.generate.outputs import RequestOutput as RequestOutput
from nspjax.generate.sampling_params import SamplingParams as SamplingParams
