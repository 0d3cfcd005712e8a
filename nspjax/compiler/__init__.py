"""StableHLO passes that move KV caches to storage, and the function transform built on them."""

from nspjax.compiler.driver.pipeline import Pass as Pass
from nspjax.compiler.driver.pipeline import Pipeline as Pipeline
from nspjax.compiler.jit.near_storage import DEFAULT_PIPELINE as DEFAULT_PIPELINE
from nspjax.compiler.jit.near_storage import NearStorage as NearStorage
from nspjax.compiler.jit.near_storage import near_storage as near_storage
from nspjax.compiler.passes import pass_names as pass_names
from nspjax.compiler.passes import register_pass as register_pass
