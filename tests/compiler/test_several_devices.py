"""A near_storage function and several devices, in a process that has them."""

import os
import subprocess
import sys

SEVERAL_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from nspjax import Store, cached_attention, near_storage
from nspjax.errors import InvalidArgumentError

devices = jax.devices()
assert len(devices) == 4
step = lambda x, cache: cached_attention(x, x, x, cache)
x = np.ones((4, 1, 2, 8), np.float32)


def refused(message, run):
    try:
        run()
    except InvalidArgumentError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)


with Store("memory:", host_memory="32MiB") as store:
    near = near_storage(step, store=store)
    new = lambda: store.kv_cache(
        batch=4, capacity_tokens=32, n_kv_heads=2, head_dim=8, dtype="float32")
    mesh, one = jax.make_mesh((4,), ("b",)), Mesh(np.array(devices[2:3]), ("b",))
    for spec, how in ((P(), "replicated over 4"), (P("b"), "sharded over 4")):
        put = jax.device_put(x, NamedSharding(mesh, spec))
        refused(how, lambda: near(put, new()))
    everywhere = jax.device_put(new(), NamedSharding(mesh, P()))
    refused("replicated over 4", lambda: near(x, everywhere))
    a, b = (jax.device_put(x, d) for d in devices[:2])
    fn = lambda a, b, cache: step(a + b, cache)
    refused("lie on several devices", lambda: near_storage(fn, store=store)(a, b, new()))
    out, _ = near(jax.device_put(x, NamedSharding(one, P("b"))), new())
    assert out.devices() == {devices[2]}, out.devices()
    np.testing.assert_allclose(out, 1)
    with jax.default_device(devices[1]):
        out, cache = near(x, new())
        out, cache = near(jnp.ones(x.shape), cache)
    assert out.devices() == {devices[1]}, out.devices()
    explicit = jax.make_mesh((4,), ("b",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(explicit):
        put = jax.device_put(x, NamedSharding(explicit, P("b")))
        refused("sharded over", lambda: near(put, new()))
        refused("sharded over", lambda: jax.jit(near)(put, new()))
    for mesh in (explicit, jax.make_mesh((4,), ("b",), axis_types=(AxisType.Auto,))):
        first, cache = near_storage(step, store=store), new()
        with jax.set_mesh(mesh):
            refused("outside of jax.set_mesh", lambda: first(x, cache))
            refused("outside of jax.set_mesh", lambda: jax.jit(first)(x, cache))
    alone = jax.make_mesh((1,), ("b",), axis_types=(AxisType.Explicit,), devices=devices[:1])
    with jax.set_mesh(alone):
        first = near_storage(step, store=store)  # with no program from before the mesh
        out, cache = first(jax.device_put(x, NamedSharding(alone, P("b"))), new())
        np.testing.assert_allclose(out, 1)
        out, cache = jax.jit(first)(x, cache)
        np.testing.assert_allclose(out, 1)
"""


def test_several_devices(tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run(
        [sys.executable, "-c", SEVERAL_DEVICES], env=environment, cwd=tmp_path, check=True
    )
