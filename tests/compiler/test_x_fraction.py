"""For how many rows X is kept: the general rule, and where it is none."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import pytest

from nspjax import Store
from nspjax.compiler import Pipeline, mlir
from nspjax.compiler.machine.rates import Rates, set_rates
from nspjax.compiler.passes.x_cache import XCache
from nspjax.compiler.x_cache.fraction import (
    LEAST_GAIN,
    LayerSizes,
    auto_share,
    best_rows,
    rows_with_x,
)
from nspjax.errors import PipelineError

GPU_FLOPS = 300e12
MHA = LayerSizes(n_rows=120, hidden_size=4096, n_kv_heads=32, head_dim=128, element_bytes=2)


def step_s(n_x_rows, rates, layer):
    """The slowest of devices, link and recomputing, for a GB of K and V, by papers.md's rule."""
    share, rho = (
        n_x_rows / layer.n_rows,
        layer.hidden_size / (2 * layer.n_kv_heads * layer.head_dim),
    )
    return max(
        1e9 * (1 - share * (1 - rho)) / rates.device_bytes_per_s,
        1e9 * share * rho / rates.link_bytes_per_s,
        1e9 * share * 2 * layer.hidden_size / layer.element_bytes / rates.compute_flops,
    )


@pytest.mark.parametrize("device_per_link", [1, 1.5, 2, 3, 5, 8])
def test_the_limit_is_that_of_hilos(device_per_link):
    """2 B_link / (B_device + B_link) (arXiv 2502.09921), where computing costs nothing."""
    limit = 2 / (device_per_link + 1)
    rows = best_rows(MHA, Rates(device_per_link * 16e9, 16e9, 1e30))
    assert abs(rows - limit * MHA.n_rows) <= 1
    assert device_per_link != 3 or rows == MHA.n_rows / 2, "the paper's own machine"


@pytest.mark.parametrize("device", [3e9, 12e9, 48e9])
@pytest.mark.parametrize("link", [4e9, 16e9, 64e9])
@pytest.mark.parametrize("flops", [30e12, GPU_FLOPS])
def test_no_other_number_of_rows_is_faster(device, link, flops):
    rates = Rates(device, link, flops)
    seconds = [step_s(n, rates, MHA) for n in range(MHA.n_rows + 1)]
    rows = best_rows(MHA, rates)
    pays = min(seconds) <= (1 - LEAST_GAIN) * seconds[0]
    assert seconds[rows] == pytest.approx(min(seconds) if pays else seconds[0])
    assert pays == (rows > 0)


def test_none_where_it_does_not_pay():
    rates = Rates(48e9, 16e9, GPU_FLOPS)
    grouped = dataclasses.replace(MHA, n_kv_heads=8)  # X is twice as large as K and V
    assert best_rows(grouped, rates) == 0
    cpu_flops = 200e9
    assert best_rows(MHA, Rates(3e9, 20e9, cpu_flops)) == 0
    assert best_rows(MHA, Rates(3e9, 20e9, 2e12)) == 0  # all cores of a large one


def test_none_on_measured_rates_of_a_cpu():
    """The same cores would recompute and attend, however small the model is."""
    small = LayerSizes(n_rows=16, hidden_size=8, n_kv_heads=2, head_dim=4, element_bytes=4)
    with Store("memory:") as store:
        assert best_rows(small, store.rates) == 0
        apart = dataclasses.replace(
            store.rates, processors_apart=True, compute_flops=1e12, attend_bytes_per_s=1e12
        )
        assert best_rows(small, apart) > 0


def test_attention_at_the_compute_device_counts():
    fast = Rates(1e9, 64e9, 1e30)
    for attend, share in ((4e9, 1), (1e9, 1 / 1.5), (0.2e9, 0)):
        rates = dataclasses.replace(fast, attend_bytes_per_s=attend)
        assert best_rows(MHA, rates) == share * MHA.n_rows


def test_all_rows_at_most():
    assert best_rows(MHA, Rates(1e9, 64e9, 1e30)) == MHA.n_rows


@pytest.mark.parametrize("program", ["decode", "prefill"])
@pytest.mark.parametrize(("device_per_link", "n_x_rows"), [(3, 2), (1, 4)])
def test_all_programs_of_a_cache_come_to_the_same(program, device_per_link, n_x_rows):
    path = Path(__file__).parent / f"filecheck/x_cache_{program}.mlir"
    module = Pipeline.parse("offload-kv").run(mlir.parse(path.read_text()))
    assert auto_share(module) == 0, "rates are not known"
    set_rates(module, Rates(device_per_link * 16e9, 16e9, 1e30))
    assert auto_share(module) == Fraction(n_x_rows, 4)
    text = str(Pipeline.parse("x-cache").run(module))
    assert f"nsp.for_x_rows_{4 - n_x_rows}" in text


def test_a_share_of_rows():
    """One that was chosen is exact; one that was given is rounded."""
    assert [rows_with_x(Fraction(n, 49), 49) for n in range(50)] == list(range(50))
    assert [rows_with_x(share, 3) for share in (0.0, 0.5, 0.6, 1.0)] == [0, 2, 2, 3]


@pytest.mark.parametrize("text", ["x-cache", "x-cache{fraction=0.5}", "x-cache{fraction=0}"])
def test_options_are_read_back(text):
    assert str(Pipeline.parse(text)) == text
    assert Pipeline.parse(str(Pipeline.parse(text))) == Pipeline.parse(text)


def test_a_number_may_be_given():
    assert XCache(fraction=0.5) == Pipeline.parse("x-cache{fraction=0.5}").passes[0]


@pytest.mark.parametrize("options", ["fraction=1.5", "fraction=half", "fraction=nan"])
def test_other_fractions_are_refused(options):
    with pytest.raises(PipelineError, match="auto or a number from 0 to 1"):
        Pipeline.parse(f"x-cache{{{options}}}")
