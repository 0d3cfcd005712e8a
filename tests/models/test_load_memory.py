"""Loading needs little more memory than the decoder itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoint
from safetensors.numpy import load_file, save_file

LAYERS, E, F, V, KV = 16, 512, 1024, 2048, 256
PROGRAM = r"""
import re, sys
import jax
from nspjax.models import load_decoder

def peak_bytes():
    # not ru_maxrss, which begins with the peak of the process that started this one
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])

jax.numpy.zeros(1).block_until_ready()
before = peak_bytes()
decoder = load_decoder(sys.argv[1], dtype="float32")
print(peak_bytes() - before)
"""


def write(directory: Path) -> int:
    """A checkpoint of about 140 MB, a shard a layer; returns the bytes of its weights."""
    sizes = {tiny_checkpoint.E: E, tiny_checkpoint.F: F, tiny_checkpoint.KV: KV}
    shapes = [
        {
            f"model.layers.{i}.{name}": tuple(sizes[n] for n in shape)
            for name, shape in tiny_checkpoint.LAYER.items()
        }
        for i in range(LAYERS)
    ]
    ends = {
        "model.norm.weight": (E,),
        "model.embed_tokens.weight": (V, E),
        "lm_head.weight": (V, E),
    }
    weight_map, n_bytes = {}, 0
    for i, shard in enumerate([*shapes, ends]):
        weights = {name: np.full(shape, i, np.float32) for name, shape in shard.items()}
        save_file(weights, directory / f"{i}.safetensors")
        weight_map.update(dict.fromkeys(weights, f"{i}.safetensors"))
        n_bytes += sum(weight.nbytes for weight in weights.values())
    tiny_checkpoint.write_index(directory, weight_map)
    tiny_checkpoint.write_config(
        directory,
        vocab_size=V,
        hidden_size=E,
        intermediate_size=F,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    return n_bytes


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "F32", "Q4_0"])
def test_peak_memory_of_loading(tmp_path: Path, form: str) -> None:
    n_bytes = write(tmp_path)
    checkpoint = tmp_path if form == "safetensors" else as_gguf(tmp_path, form)
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM, checkpoint], capture_output=True, text=True, check=True
    )
    peak = int(json.loads(out.stdout))
    assert n_bytes * 0.9 < peak < n_bytes * 1.25


def as_gguf(directory: Path, form: str) -> Path:
    """The checkpoint as a GGUF file."""
    gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
    from gguf_files import write_gguf

    shards = [load_file(shard) for shard in sorted(directory.glob("*.safetensors"))]
    save_file({n: w for shard in shards for n, w in shard.items()}, directory / "model.safetensors")
    write_gguf(directory / "x.gguf", directory, gguf.GGMLQuantizationType[form])
    return directory / "x.gguf"
