"""The families of models that nspjax has, one file each."""

from nspjax.models.families import llama, mistral, mixtral, opt, qwen2, qwen3
from nspjax.models.families.family import Family as Family

FAMILIES = tuple(module.FAMILY for module in (llama, mistral, mixtral, opt, qwen2, qwen3))
