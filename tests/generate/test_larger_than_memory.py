"""A model whose weights are larger than the memory that it takes."""

import json
import subprocess
import sys

import numpy as np
import pytest

WIDTH, MIDDLE, LAYERS, VOCAB = 1024, 4096, 10, 256
HEADS = 8

PROGRAM = r"""
import json, re, sys
import jax, nspjax

def peak_bytes():
    # not ru_maxrss, which begins with the peak of the process that started this one
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])

model, directory, resident = sys.argv[1:]
jax.numpy.zeros(1).block_until_ready()
before = peak_bytes()
sizes = {"max_num_seqs": 2, "max_model_len": 64}
with (
    nspjax.Store(directory, host_memory="64MiB") as store,
    nspjax.LLM(model, store=store, weights_resident=resident, **sizes) as llm,
):
    loaded = peak_bytes() - before
    params = nspjax.SamplingParams(temperature=0, max_tokens=4)
    outputs = llm.generate([[1, 2, 3], [4] * 20], params)
    stats = store.stats()
print(json.dumps({
    "loaded": loaded,
    "peak": peak_bytes() - before,
    "tokens": [output.outputs[0].token_ids for output in outputs],
    "stored": stats.weight_bytes_stored,
    "read": stats.weight_bytes_read,
}))
"""


def write_checkpoint(folder):
    """Random float32 weights, a shard a layer; returns their bytes."""
    from safetensors.numpy import save_file

    folder.mkdir()
    draw = np.random.default_rng(0)

    def normal(n_out, n_in):
        return draw.standard_normal((n_out, n_in), np.float32) * np.float32(n_in**-0.5)

    weight_map, n_bytes = {}, 0

    def save(shard, weights):
        nonlocal n_bytes
        save_file(weights, folder / shard)
        weight_map.update(dict.fromkeys(weights, shard))
        n_bytes += sum(weight.nbytes for weight in weights.values())

    ends = {name: normal(VOCAB, WIDTH) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    save("ends.safetensors", ends | {"model.norm.weight": np.ones(WIDTH, np.float32)})
    for i in range(LAYERS):
        layer = {f"self_attn.{name}_proj": normal(WIDTH, WIDTH) for name in "qkvo"}
        layer |= {f"mlp.{name}_proj": normal(MIDDLE, WIDTH) for name in ("gate", "up")}
        layer["mlp.down_proj"] = normal(WIDTH, MIDDLE)
        layer |= {
            name: np.ones(WIDTH, np.float32)
            for name in ("input_layernorm", "post_attention_layernorm")
        }
        named = {f"model.layers.{i}.{name}.weight": weight for name, weight in layer.items()}
        save(f"{i}.safetensors", named)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": WIDTH,
        "intermediate_size": MIDDLE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": VOCAB,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return n_bytes


def run(model, directory, resident):
    directory.mkdir()
    command = [sys.executable, "-c", PROGRAM, str(model), str(directory), resident]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_weights_are_never_in_memory_together(tmp_path):
    n_bytes = write_checkpoint(tmp_path / "model")
    assert n_bytes > 600e6
    all_resident = run(tmp_path / "model", tmp_path / "one", "1GiB")
    assert all_resident["stored"] == 0
    assert all_resident["peak"] > n_bytes
    offloaded = run(tmp_path / "model", tmp_path / "two", "64MiB")
    assert offloaded["tokens"] == all_resident["tokens"]
    assert offloaded["stored"] > n_bytes - (64 << 20) - (16 << 20)
    assert offloaded["read"] >= 4 * offloaded["stored"]
    assert offloaded["loaded"] < 0.4 * n_bytes
    assert offloaded["peak"] < 0.75 * n_bytes, "of this, about 0.2 are the compiler's"
    assert all_resident["peak"] - offloaded["peak"] > 0.5 * n_bytes
