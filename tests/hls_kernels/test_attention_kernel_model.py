"""The cycle model against the kernel's sources and against what the C simulation counts."""

import re
from pathlib import Path

import numpy as np
import pytest
from kernel_run import KV_TYPES, make_tiles, run

from nspjax.sim.attention_kernel import Memory, Operators, Run, Structure, resources, simulate
from nspjax.sim.attention_kernel.resources import Device, block_rams
from nspjax.sim.attention_kernel.table import report

KERNEL = Path(__file__).parents[2] / "hls_kernels"
STRUCTURE = Structure()


def source(name):
    return (KERNEL / "attention" / name).read_text()


def constant(name):
    text = source("structure.h") + source("interface.h")
    return int(re.search(rf"constexpr int {name} = (\d+);", text)[1])


def intervals(name):
    return [int(x) for x in re.findall(r"pragma HLS pipeline II = (\d+)", source(name))]


def test_constants_are_those_of_the_sources():
    default_group = int(re.search(r"define NSPJAX_KERNEL_GROUP (\d+)", source("structure.h"))[1])
    assert default_group == STRUCTURE.group
    assert constant("kBeatWords") == STRUCTURE.beat_words
    assert constant("kBlockTokens") == STRUCTURE.block_tokens
    assert constant("kMostQueries") == STRUCTURE.most_queries
    assert constant("kMostHeadDim") == STRUCTURE.most_head_dim
    assert constant("kLeastSlots") == STRUCTURE.least_slots
    assert constant("kStrands") == STRUCTURE.strands
    assert constant("kKBlocks") == STRUCTURE.k_blocks
    assert constant("kVBlocks") == STRUCTURE.v_blocks


def test_intervals_and_bursts_are_those_of_the_pragmas():
    assert intervals("scores.h") == [1, 1, STRUCTURE.compute_interval]
    assert intervals("values.h") == [STRUCTURE.compute_interval, 1]
    softmax = STRUCTURE.softmax_interval
    assert intervals("softmax.h") == [softmax, 1, softmax, STRUCTURE.strands]
    port = re.search(r"port=kv .*?operands", source("attention.cpp"), re.DOTALL)[0]
    assert f"max_read_burst_length={STRUCTURE.burst_beats} " in port
    assert f"num_read_outstanding={STRUCTURE.outstanding_bursts} " in port


def test_distances_that_the_pragmas_promise_are_kept_and_long_enough():
    """An addition is done when its sum is needed again."""
    for name in ("scores.h", "values.h"):
        assert re.findall(r"distance = (\d+)", source(name)) == [str(STRUCTURE.least_slots)]
    assert re.findall(r"distance = (\d+)", source("softmax.h")) == [str(STRUCTURE.strands)]
    add = Operators().add
    assert STRUCTURE.least_slots * STRUCTURE.compute_interval > add
    assert STRUCTURE.strands * STRUCTURE.softmax_interval > add


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize(
    ("tile_tokens", "head_dim", "n_queries", "n_tokens"),
    [(16, 16, 1, 40), (32, 48, 5, 33), (64, 64, 4, 1000), (128, 128, 8, 129), (512, 256, 9, 700)],
)
def test_counts_are_those_of_the_c_simulation(kv_type, tile_tokens, head_dim, n_queries, n_tokens):
    rng = np.random.default_rng(0)
    heads = 2
    tiles = make_tiles(rng, kv_type, heads, n_tokens, head_dim, tile_tokens)
    q = rng.standard_normal((heads, n_queries, head_dim), np.float32)
    counted = run(tiles, q, np.array([[0, n_tokens]] * n_queries), 1.0)
    model = simulate(Run(n_tokens, n_queries, heads, head_dim, kv_type, tile_tokens))
    assert model.beats_read == counted.beats_read
    assert model.score_slots == counted.score_slots
    assert model.value_slots == counted.value_slots


def test_memory_is_the_limit_of_floats_and_arithmetic_of_codes():
    assert simulate(Run(32_768, kv_type="f16")).bottleneck == "read"
    assert simulate(Run(32_768, kv_type="int8")).bottleneck in ("keys", "values")
    slow = Memory(peak_bytes_per_s=3e9)
    assert simulate(Run(32_768, kv_type="int8"), memory=slow).bottleneck == "read"


def test_time_grows_with_tokens_heads_and_packs():
    one = simulate(Run(32_768, n_queries=4)).total
    assert simulate(Run(65_536, n_queries=4)).total == pytest.approx(2 * one, rel=0.01)
    assert simulate(Run(32_768, n_queries=4, n_heads=3)).total == pytest.approx(3 * one, rel=0.01)
    assert simulate(Run(32_768, n_queries=3)).total == pytest.approx(one, rel=0.01)
    assert simulate(Run(32_768, n_queries=5)).total > 1.7 * one


def test_bad_runs():
    with pytest.raises(ValueError, match="kv_type"):
        Run(1, kv_type="fp8")
    with pytest.raises(ValueError, match="at least 1"):
        Run(0)


def test_memories():
    assert block_rams(512, 1024) == 15  # 15 of 36 bits x 1024
    assert block_rams(72, 512) == 1


def test_the_recipe_fits_and_names_what_the_kernel_has():
    """Compute units x DSPs within what the shell leaves; the ports are the kernel's arguments."""
    ports = re.findall(r"interface mode=m_axi port=(\w+)", source("attention.cpp"))
    for units, group in ((1, 4), (2, 2)):
        config = (KERNEL / "vitis" / f"connectivity_{units}.cfg").read_text()
        names = [f"nspjax_attention_{i + 1}" for i in range(units)]
        assert f"nk=nspjax_attention:{units}:{'.'.join(names)}\n" in config
        connected = re.findall(r"sp=(\w+)\.(\w+):bank0", config)
        assert connected == [(name, port) for name in names for port in ports]
        assert units * resources(Structure(group=group)).dsps <= Device().user_dsps
    makefile = (KERNEL / "vitis" / "Makefile").read_text()
    assert "GROUP ?= 4\nUNITS ?= 1\n" in makefile


def test_the_readme_has_the_table():
    readme = (KERNEL / "README.md").read_text()
    for table in report().split("\n\n"):
        assert table in readme, "put in what python -m nspjax.sim.attention_kernel prints"
