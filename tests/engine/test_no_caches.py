"""What is no cache or weight of a store is refused by the store's methods, and named."""

import jax.numpy as jnp
import numpy as np
import pytest

from nspjax import KVCache, Store
from nspjax.errors import InvalidArgumentError

SIZES = {"batch": 2, "capacity_tokens": 32, "n_kv_heads": 2, "head_dim": 16}
ARRAY = jnp.zeros((2, 32, 2, 16))
METHODS = {
    "fetch": lambda store, it: store.fetch(it),
    "share_prefix": lambda store, it: store.share_prefix(it, 0, [1], 0),
    "fill_synthetic": lambda store, it: store.fill_synthetic(it, 1),
    "current": lambda store, it: store.current(it),
    "check_row": lambda store, it: store.check_row(it, 0),
    "drop": lambda store, it: store.drop(it),
    "check_owns": lambda store, it: store.check_owns(it),
    "save_prefix": lambda store, it: store.save_prefix("there", [it], 0, model="m"),
    "load_prefix": lambda store, it: store.load_prefix("there", [it], 0, model="m"),
    "save_prefix, alone": lambda store, it: store.save_prefix("there", it, 0, model="m"),
    "load_prefix, alone": lambda store, it: store.load_prefix("there", it, 0, model="m"),
    "put": lambda store, it: store.put(it),
    "kv_pair": lambda store, it: store.kv_pair(ARRAY, it),
    "drop_weight": lambda store, it: store.drop_weight(it),
}


@pytest.fixture
def store():
    with Store("memory:", host_memory="16MiB") as opened:
        yield opened


@pytest.mark.parametrize("method", METHODS)
def test_what_it_is_stands_in_the_message(store, method):
    for it in (None, 3, "cache", object):
        with pytest.raises(InvalidArgumentError, match=r", got |no weight in a store: ") as error:
            METHODS[method](store, it)
        assert repr(it) in str(error.value) or "'c'" in str(error.value)


@pytest.mark.parametrize("method", [*METHODS][:9])
def test_a_cache_in_memory_is_none_of_the_stores(store, method):
    with pytest.raises(InvalidArgumentError, match="got KVCache"):
        METHODS[method](store, KVCache(ARRAY, ARRAY, jnp.zeros(2, jnp.int32)))


@pytest.mark.parametrize("method", ["fetch", "share_prefix", "current", "save_prefix"])
def test_one_array_of_a_pair_is_no_cache(store, method):
    k, _ = store.kv_pair(ARRAY, ARRAY)
    with pytest.raises(InvalidArgumentError, match="got StoredArray"):
        METHODS[method](store, k)


@pytest.mark.parametrize("method", ["put", "kv_pair", "drop_weight"])
def test_a_stored_cache_is_not_everything(store, method):
    cache = store.kv_cache(**SIZES)
    with pytest.raises(InvalidArgumentError, match="StoredKVCache"):
        METHODS[method](store, cache)


def test_a_list_is_no_array(store):
    with pytest.raises(InvalidArgumentError, match=r"put_weight takes an array, got \[1, 2\]"):
        store.put_weight([1, 2])
    assert store.put_weight(np.arange(4, dtype=np.int32)).shape == (4,)


def test_one_cache_is_made_as_several_are(store):
    one, (other,) = store.kv_cache(**SIZES), store.kv_caches(1, **SIZES)
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
    with pytest.raises(TypeError, match="colour"):
        store.kv_cache(**SIZES, colour="red")
    with pytest.raises(TypeError, match="head_dim"):
        store.kv_cache(batch=2, capacity_tokens=32, n_kv_heads=2)
