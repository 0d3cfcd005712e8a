"""Cached attention in portable JAX, marked so that a compiler pass can find it."""

from nspjax.ops.attention import CACHED_ATTENTION as CACHED_ATTENTION
from nspjax.ops.attention import cached_attention as cached_attention
from nspjax.ops.blockwise import blockwise_attention as blockwise_attention
from nspjax.ops.blockwise import merge_partials as merge_partials
from nspjax.ops.cache import KVCache as KVCache
from nspjax.ops.projection import PROJECT_KV as PROJECT_KV
from nspjax.ops.projection import project_kv as project_kv
from nspjax.ops.rows import TAKE_ROWS as TAKE_ROWS
