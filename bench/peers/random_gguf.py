"""A GGUF file of a Llama with random weights, for llama.cpp; runs in the peers' environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

CONTEXT_TOKENS = 1 << 20
"""What the file promises; llama.cpp warns beyond it. No weight depends on it."""


def write_random_gguf(path: Path, shape: dict[str, Any], weights: str) -> None:
    """shape: as peer.Shape; weights: "f16" or "bf16". There is no vocabulary in it, only its
    size."""
    e, d = shape["hidden_size"], shape["head_dim"]
    mlp, kv = shape["intermediate_size"], shape["n_kv_heads"] * d
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(e)
    writer.add_block_count(shape["n_layers"])
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(shape["n_heads"])
    writer.add_head_count_kv(shape["n_kv_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(d)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(shape["vocab_size"])
    writer.add_tokenizer_model("no_vocab")

    torch.manual_seed(0)

    def matrix(name: str, rows: int, columns: int) -> None:
        values = torch.randn(rows, columns) / columns**0.5
        if weights == "f16":
            writer.add_tensor(name, values.half().numpy())
        else:
            bits = values.bfloat16().view(torch.uint8).numpy()
            writer.add_tensor(name, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(e, np.float32))

    matrix("token_embd.weight", shape["vocab_size"], e)
    matrix("output.weight", shape["vocab_size"], e)
    norm("output_norm.weight")
    for layer in range(shape["n_layers"]):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm.weight")
        norm(f"{block}.ffn_norm.weight")
        matrix(f"{block}.attn_q.weight", e, e)
        matrix(f"{block}.attn_k.weight", kv, e)
        matrix(f"{block}.attn_v.weight", kv, e)
        matrix(f"{block}.attn_output.weight", e, e)
        matrix(f"{block}.ffn_gate.weight", mlp, e)
        matrix(f"{block}.ffn_up.weight", mlp, e)
        matrix(f"{block}.ffn_down.weight", e, mlp)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
