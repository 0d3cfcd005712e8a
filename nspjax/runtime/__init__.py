"""Stores, the handles to what they hold, and the engine's registration with XLA."""

from nspjax.runtime.handle import HANDLE_INTEGERS as HANDLE_INTEGERS
from nspjax.runtime.handle import StoredKVCache as StoredKVCache
from nspjax.runtime.rate_limit import RateLimit as RateLimit
from nspjax.runtime.stats import DeviceInfo as DeviceInfo
from nspjax.runtime.stats import StoreStats as StoreStats
from nspjax.runtime.store import Store as Store
from nspjax.runtime.stored_array import StoredArray as StoredArray
from nspjax.runtime.stored_weight import StoredWeight as StoredWeight
from nspjax.runtime.targets import register_targets as register_targets
