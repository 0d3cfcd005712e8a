"""For how many rows X is kept: the general rule, and where it is none."""

import dataclasses

import pytest

from nspjax import Store
from nspjax.compiler import Pipeline
from nspjax.compiler.machine.rates import Rates
from nspjax.compiler.passes.x_cache import XCache
from nspjax.compiler.x_cache.fraction import best_fraction
from nspjax.errors import PipelineError

GPU_FLOPS = 300e12
MHA = {"hidden_size": 4096, "n_kv_heads": 32, "head_dim": 128, "element_bytes": 2}


def times_s(fraction, rates, *, hidden_size, n_kv_heads, head_dim, element_bytes):
    """Of a GB of K and V: devices, link, recomputing."""
    rho = hidden_size / (2 * n_kv_heads * head_dim)
    return (
        1e9 * (1 - fraction * (1 - rho)) / rates.device_bytes_per_s,
        1e9 * fraction * rho / rates.link_bytes_per_s,
        1e9 * fraction * 2 * hidden_size / element_bytes / rates.compute_flops,
    )


def test_the_paper():
    """Devices three times as fast as the link: half of the rows, 2 B_link / (B_device + B_link)."""
    assert best_fraction(Rates(48e9, 16e9, 1e30), **MHA) == pytest.approx(0.5)
    assert best_fraction(Rates(24e9, 16e9, 1e30), **MHA) == pytest.approx(2 * 16 / (24 + 16))


@pytest.mark.parametrize("device", [3e9, 12e9, 48e9])
@pytest.mark.parametrize("link", [4e9, 16e9, 64e9])
@pytest.mark.parametrize("flops", [30e12, GPU_FLOPS])
def test_no_other_fraction_is_faster(device, link, flops):
    rates = Rates(device, link, flops)
    fraction = best_fraction(rates, **MHA)
    assert 0 <= fraction <= 1
    if fraction:
        best = max(times_s(fraction, rates, **MHA))
        assert all(best <= max(times_s(i / 100, rates, **MHA)) * (1 + 1e-9) for i in range(101))


def test_none_where_it_does_not_pay():
    rates = Rates(48e9, 16e9, GPU_FLOPS)
    grouped = MHA | {"n_kv_heads": 8}  # X is twice as large as K and V
    assert best_fraction(rates, **grouped) == 0
    cpu_flops = 200e9
    assert best_fraction(Rates(3e9, 20e9, cpu_flops), **MHA) == 0
    assert best_fraction(Rates(3e9, 20e9, 2e12), **MHA) == 0  # all cores of a large one


def test_none_on_measured_rates_of_a_cpu():
    """The same cores would recompute and attend, however small the model is."""
    small = {"hidden_size": 8, "n_kv_heads": 2, "head_dim": 4, "element_bytes": 4}
    with Store("memory:") as store:
        assert best_fraction(store.rates, **small) == 0
        apart = dataclasses.replace(
            store.rates, processors_apart=True, compute_flops=1e12, attend_bytes_per_s=1e12
        )
        assert best_fraction(apart, **small) > 0


def test_attention_at_the_compute_device_counts():
    fast = Rates(1e9, 64e9, 1e30)
    assert best_fraction(dataclasses.replace(fast, attend_bytes_per_s=4e9), **MHA) == 1
    assert best_fraction(dataclasses.replace(fast, attend_bytes_per_s=1e9), **MHA) == 1 / 1.5
    assert best_fraction(dataclasses.replace(fast, attend_bytes_per_s=0.2e9), **MHA) == 0


def test_all_rows_at_most():
    assert best_fraction(Rates(1e9, 64e9, 1e30), **MHA) == 1


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


@pytest.mark.parametrize("text", ["x-cache{chunk-tokens=0}", "interleave{groups=0}"])
def test_none_of_something_is_refused(text):
    with pytest.raises(PipelineError, match="1 or more"):
        Pipeline.parse(text)
