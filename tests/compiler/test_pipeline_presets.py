"""Names of pipelines, options that are checked when they are read, and what `auto` decides."""

import jax
import jax.numpy as jnp
import pytest
from little_programs import LittleProgram

from nspjax import Store, near_storage
from nspjax.compiler import Pipeline, mlir
from nspjax.compiler.driver.presets import PRESETS
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
        ("delay-writeback{interval=0}", "at least 1 token, got 0"),
        ("prefetch{order=deep}", "one of forward, backward, got 'deep'"),
        ("prefetch{distance=0}", "at least 1, got 0"),
        ("prefetch{bytes=-1}", "must not be negative, got -1"),
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


def interleaved(module, rates, monkeypatch):
    """Whether auto-interleave runs interleave, which is not what is tested here."""
    asked = []

    class Fake:
        def __init__(self, groups):
            asked.append(groups)

        def run(self, module):
            return module

    monkeypatch.setattr(auto_interleave, "registered_pass", lambda _: Fake)
    if rates is not None:
        set_rates(module, rates)
    AutoInterleave().run(module)
    return asked == [2]


LAYER_BYTES = 2 * 16 / 2 * 2 * 2 * 8 * 4  # rows, half of the capacity, K and V, heads, size, f32
LAYER_FLOPS = 2 * 2 * 32 * 32


def decode_step(n_tokens=1):
    """Two layers, and one matmul [2, 32] x [32, 32] a layer beside them."""
    program = LittleProgram(2, n_tokens, 1, loop=False, parallel=False)
    module = Pipeline.parse("offload-kv").run(mlir.parse(program.text()))
    block = mlir.function(module, "main").regions[0].blocks[0]
    build = mlir.Builder(mlir.terminator(block))
    x = build.op("test.value", [], [mlir.tensor_type((2, 32), "f32", module.context)])
    w = build.op("test.value", [], [mlir.tensor_type((32, 32), "f32", module.context)])
    for _ in range(2):
        x = build.op("stablehlo.dot_general", [*x, *w], [x[0].type])
    return module


@pytest.mark.parametrize(
    ("compute_per_device", "n_tokens", "pays"),
    [
        (1.0, 1, True),
        (0.3, 1, True),
        (3.0, 1, True),
        (0.2, 1, False),
        (5.0, 1, False),
        (1, 3, False),
    ],
)
def test_interleave_where_neither_side_waits_for_long(
    compute_per_device, n_tokens, pays, monkeypatch
):
    rates = Rates(LAYER_BYTES, 1.0, LAYER_FLOPS / compute_per_device)
    assert interleaved(decode_step(n_tokens), rates, monkeypatch) is pays


def test_without_rates_nothing_is_interleaved(monkeypatch):
    assert not interleaved(decode_step(), None, monkeypatch)
