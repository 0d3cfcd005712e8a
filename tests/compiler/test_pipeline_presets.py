"""Names of pipelines, options that are checked when they are read, and what `auto` decides."""

import functools

import jax
import jax.numpy as jnp
import pytest

from nspjax import KVCache, Store, cached_attention, near_storage
from nspjax.compiler import Pipeline, mlir
from nspjax.compiler.driver.presets import PRESETS
from nspjax.compiler.jit.marked_module import marked_module
from nspjax.compiler.machine.rates import Rates, rates_of, set_rates
from nspjax.compiler.passes import auto_interleave
from nspjax.compiler.passes.auto_interleave import AutoInterleave
from nspjax.compiler.passes.delay_writeback import DelayWriteback, Placement
from nspjax.compiler.passes.prefetch import Order, Prefetch
from nspjax.errors import PipelineError
from nspjax.runtime import RateLimit
from nspjax.runtime.rates import measure_rates


@pytest.mark.parametrize("name", ["ans", "ans+writeback"])
def test_a_preset_is_a_pipeline(name):
    pipeline = Pipeline.parse(name)
    assert pipeline == Pipeline.parse(PRESETS[name])
    assert Pipeline.parse(str(pipeline)) == pipeline


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ans+writebck", r"presets?: baseline, ans, ans\+writeback, hilos, auto"),
        ("anns", r"there is no pass 'anns'.*presets: baseline, ans,"),
        ("offload-kv,ans", "'ans' is a whole pipeline"),
        ("delay-writeback{placement=late}", "one of anywhere, outside-scan, step-end, got 'late'"),
        ("prefetch{order=deep}", "one of forward, backward, got 'deep'"),
    ],
)
def test_bad_names_and_values_are_refused(text, message):
    with pytest.raises(PipelineError, match=message):
        Pipeline.parse(text)


def test_options_to_text_and_back():
    passes = (
        DelayWriteback(4, Placement.STEP_END),
        DelayWriteback(),
        Prefetch(2, 4096, Order.BACKWARD),
    )
    text = "delay-writeback{interval=4 placement=step-end},delay-writeback,"
    text += "prefetch{distance=2 bytes=4096 order=backward}"
    assert str(Pipeline(passes)) == text
    assert Pipeline.parse(text).passes == passes


# ---- rates --------------------------------------------------------------------------------------


def test_rates_travel_with_a_module():
    module = mlir.parse("module {}")
    assert rates_of(module) is None
    set_rates(module, Rates(3e9, 8e9, 1e12))
    assert rates_of(module) == Rates(3e9, 8e9, 1e12)
    assert "write" not in str(module), "what is not known is not said"
    every = Rates(3e9, 8e9, 1e12, 2e10, False, 1e9, 3e10, 2**20)
    set_rates(module, every)
    assert rates_of(mlir.parse(str(module))) == every


def test_rates_are_those_of_the_limit_or_measured(tmp_path):
    limit = RateLimit(device_read="2GB/s", link="8GB/s")
    with Store("memory:", "memory:", host_memory="16MiB", rate_limit=limit) as store:
        assert store.rates is store.rates, "measured once"
        assert store.rates.device_bytes_per_s == 4e9
        assert store.rates.link_bytes_per_s == 8e9
        assert store.rates.write_bytes_per_s is None
        assert store.rates.read_ahead_bytes == store.stats().staging_bytes > 0
    limit = RateLimit(device_read="2GB/s", device_write="1GB/s")
    with Store("memory:", "memory:", host_memory="16MiB", rate_limit=limit) as store:
        assert store.rates.write_bytes_per_s == 2e9
    with Store(tmp_path, host_memory="16MiB") as store:
        rates = measure_rates(store)
        assert min(rates.device_bytes_per_s, rates.link_bytes_per_s, rates.compute_flops) > 1e6


def test_a_module_has_rates_where_a_pass_asks(monkeypatch):
    seen = []
    monkeypatch.setattr(
        AutoInterleave, "run", lambda _, module: seen.append(rates_of(module)) or module
    )
    with Store("memory:", host_memory="16MiB") as store:
        store.rates = Rates(1.0, 2.0, 3.0)
        for pipeline in ("offload-kv,auto-interleave,lower-to-ffi", "offload-kv,lower-to-ffi"):
            near_storage(jax.numpy.tanh, store=store, pipeline=pipeline)(jnp.ones(2))
    assert seen == [Rates(1.0, 2.0, 3.0)]


# ---- auto ---------------------------------------------------------------------------------------

N_LAYERS, ROWS, CAPACITY, HIDDEN = 8, 4, 64, 32
LAYER_BYTES = ROWS * CAPACITY / 2 * 2 * HIDDEN * 4  # half full, K and V, f32
LAYER_FLOPS = 2 * ROWS * HIDDEN * HIDDEN
WEIGHT_BYTES = HIDDEN * HIDDEN * 4


def decode_step(n_tokens=1, *, joins=False):
    return mlir.parse(decode_text(n_tokens, joins))


@functools.cache
def decode_text(n_tokens, joins):
    """One product [rows, 32] x [32, 32] a layer, between one attention and the next. joins: every
    row needs the others' before the next layer."""

    def step(x, weights, caches):
        for layer, (weight, cache) in enumerate(zip(weights, caches, strict=True)):
            heads = x.reshape(ROWS, n_tokens, 2, HIDDEN // 2)
            out, caches[layer] = cached_attention(heads, heads, heads, cache)
            x = jnp.tanh(out.reshape(x.shape) @ weight)
            x = jnp.roll(jnp.cumsum(x, 0), 1, 0) if joins else x
        return x, caches

    x = jnp.zeros((ROWS, n_tokens, HIDDEN))
    weights = [jnp.zeros((HIDDEN, HIDDEN))] * N_LAYERS
    caches = [KVCache.zeros(ROWS, CAPACITY, 2, HIDDEN // 2, jnp.float32)] * N_LAYERS
    module = marked_module(step, (x, weights, caches)).module
    return str(Pipeline.parse("offload-kv,split-attention").run(module))


def interleaved(module, rates):
    before = str(module).count("nsp.attend_start")
    set_rates(module, rates)
    found = AutoInterleave().run(module)
    if found is not module:
        assert str(found).count("nsp.attend_start") == 2 * before
        assert str(module).count("nsp.attend_start") == before
    return found is not module


def rates(compute_per_device, **more):
    """What a layer computes, over what is read for it; nothing else takes time."""
    given = {"read_ahead_bytes": 0.0, **more}
    return Rates(LAYER_BYTES, 1e15, LAYER_FLOPS / compute_per_device, **given)


@pytest.mark.parametrize(
    ("compute_per_device", "pays"),
    [(1.0, True), (0.3, True), (3.0, True), (0.1, False), (10.0, False)],
)
def test_interleave_where_neither_side_waits_for_long(compute_per_device, pays):
    assert interleaved(decode_step(), rates(compute_per_device)) is pays


def test_interleave_is_for_decode_steps_of_several_rows():
    assert not interleaved(decode_step(n_tokens=3), rates(1.0))
    assert not interleaved(decode_step(), None), "nothing is known"


@pytest.mark.parametrize(
    ("more", "pays"),
    [
        # the next layer is read while this one computes, with one group as with two
        ({"read_ahead_bytes": LAYER_BYTES}, False),
        ({"read_ahead_bytes": LAYER_BYTES / 10}, True),
        # each group reads the weights: products would take as long again
        ({"memory_bytes_per_s": WEIGHT_BYTES}, False),
        ({"memory_bytes_per_s": 10 * WEIGHT_BYTES}, True),
        # the processors that attend are those that compute
        ({"processors_apart": False, "memory_bytes_per_s": LAYER_BYTES}, False),
        ({"processors_apart": False, "memory_bytes_per_s": 10 * LAYER_BYTES}, True),
    ],
)
def test_what_two_groups_do_not_hide(more, pays):
    """On a machine on which a layer computes as long as it reads."""
    assert interleaved(decode_step(), rates(1.0, **more)) is pays


def test_groups_that_wait_for_each_other():
    """Each lane is busy half of the time, and two groups change nothing about that."""
    assert interleaved(decode_step(), rates(1.0))
    assert not interleaved(decode_step(joins=True), rates(1.0))


def test_interleave_only_builds_what_may_pay(monkeypatch):
    """Where one lane is busy nearly all the time, no other order is looked at."""
    asked = []
    monkeypatch.setattr(auto_interleave, "registered_pass", asked.append)
    assert not interleaved(decode_step(), rates(0.01))
    assert not asked
