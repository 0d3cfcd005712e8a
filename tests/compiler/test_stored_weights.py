"""StoredWeights as arguments of `near_storage` functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from nspjax import Store, StoredWeight, near_storage
from nspjax.compiler import Pipeline, mlir
from nspjax.errors import InvalidArgumentError, PipelineError, StoreClosedError
from nspjax.runtime.stored_weight import resident_weights


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path, host_memory="16MiB") as opened:
        yield opened


def normal(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "uint32", "bool"])
def test_any_array(store, dtype):
    array = (normal((3, 5)) * 10).astype(dtype)
    weight = store.put_weight(array)
    assert (weight.shape, weight.dtype) == (array.shape, array.dtype)
    back = near_storage(lambda w: w, store=store)(weight)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_scalars_and_numpy_views(store):
    same = near_storage(lambda w: w, store=store)
    assert same(store.put_weight(jnp.float32(2.5))) == 2.5
    view = np.arange(12.0, dtype=np.float32).reshape(3, 4).T
    np.testing.assert_array_equal(same(store.put_weight(view)), view)


@pytest.mark.parametrize("values", [jnp.ones(4, "int4"), jax.random.key(0), np.array(["a"])])
def test_what_is_no_whole_bytes_is_refused(store, values):
    with pytest.raises(InvalidArgumentError, match="cannot be stored"):
        store.put_weight(values)


def test_loops_branches_calls_and_an_outer_jit(store):
    """Every way in which a weight reaches its users."""

    @jax.jit
    def inner(w, x):
        return jnp.tanh(x @ w.T)

    def fn(tree, x):
        x = lax.fori_loop(0, 3, lambda _, x: inner(tree["a"], x), x)
        x = lax.cond(x.sum() > 0, lambda x: x @ tree["b"], lambda x: inner(tree["a"], x), x)
        x = lax.scan(lambda x, w: (x @ w, x.sum()), x, tree["stacked"])[0]
        return x + tree["bias"], tree["b"]

    tree = {
        "a": normal((8, 8), 1),
        "b": normal((8, 8), 2),
        "bias": normal((8,), 3),
        "stacked": normal((3, 8, 8), 4),
    }
    stored = jax.tree.map(store.put_weight, tree)
    expected = jax.jit(fn)(tree, normal((2, 8)))
    near = near_storage(fn, store=store)
    for call in (near, jax.jit(near)):
        for got, want in zip(call(stored, normal((2, 8))), expected, strict=True):
            np.testing.assert_array_equal(got, want)
    mixed = {**tree, "a": stored["a"]}
    np.testing.assert_array_equal(near(mixed, normal((2, 8)))[0], expected[0])


def test_other_weights_of_the_same_shape_need_no_new_program(store):
    near = near_storage(lambda w: w + 1, store=store)
    for value in (1.0, 2.0):
        assert near(store.put_weight(jnp.full(3, value))).tolist() == [value + 1] * 3
    assert len(near._programs) == 1
    assert near(jnp.zeros(3)).tolist() == [1] * 3
    assert len(near._programs) == 2, "an array is another program"


def test_a_pipeline_may_place_the_pass_itself(store):
    names = []
    for text in ("offload-kv,lower-to-ffi", "offload-kv,offload-weights{keep=2},lower-to-ffi"):
        near = near_storage(lambda w: w, store=store, pipeline=text)
        near(store.put_weight(jnp.ones(2)))
        names.append(near.exported(store.put_weight(jnp.ones(2))).mlir_module())
    assert all("nspjax.load" in text for text in names)
    with pytest.raises(PipelineError, match="lower-to-ffi"):
        near_storage(lambda w: w, store=store, pipeline="offload-kv")(store.put_weight(jnp.ones(2)))


def test_dropped_and_closed(store):
    near = near_storage(lambda w: w, store=store)
    weight = store.put_weight(jnp.ones(2))
    store.drop_weight(weight)
    with pytest.raises(StoreClosedError, match="no weight 0"):
        near(weight)
    weight = store.put_weight(jnp.ones(2))
    store.close()
    with pytest.raises(StoreClosedError):
        near(weight)


def test_which_weights_stay():
    assert resident_weights([5, 1, 1, 5], 100) == [True] * 4
    assert resident_weights([5, 1, 1, 5], 0) == [False] * 4
    assert resident_weights([5, 0, 1, 5], 1) == [False, True, True, False]
    assert resident_weights([5, 1, 5, 5, 5, 9], 11) == [True, True, False, True, False, False]
    assert resident_weights([], 7) == []


def test_offload_weights_keeps_the_rest_as_it_is(store):
    tree = {"w": normal((64, 64)), "b": normal((64,)), "key": jax.random.key(0), "n": 3}
    placed = store.offload_weights(tree, resident="1KiB")
    assert isinstance(placed["w"], StoredWeight)
    assert placed["b"] is tree["b"]
    assert placed["key"] is tree["key"]
    assert placed["n"] == 3
    assert store.stats().weight_bytes_stored == tree["w"].nbytes


def test_the_pass_leaves_no_mark():
    module = mlir.parse(
        "func.func public @main(%x: tensor<2xf32> {nspjax.stored_weight}) -> tensor<2xf32> "
        "{ return %x : tensor<2xf32> }"
    )
    assert len(mlir.weight_arguments(module)) == 1
    module = Pipeline.parse("offload-weights").run(module)
    assert mlir.weight_arguments(module) == []
    assert "nsp.load" in str(module)
