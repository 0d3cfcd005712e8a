"""Which tensor of a GGUF file fills which weight: llama.cpp names them alike in all families."""

from __future__ import annotations

import re

from nspjax.models.weight_table import Table, Target

_BLOCK = "blk.{layer}."
_LAYER = "layers.{layer}."
_GATE_UP = f"{_LAYER}mlp.gate_up"
ROPE_FACTORS = "rope_freqs.weight"
HEAD = "output.weight"
EMBEDDING = "token_embd.weight"

TABLE: Table = {
    EMBEDDING: Target("embedding"),
    "output_norm.weight": Target("final_norm.scale"),
    HEAD: Target("head"),
    f"{_BLOCK}attn_norm.weight": Target(f"{_LAYER}attention_norm.scale"),
    f"{_BLOCK}ffn_norm.weight": Target(f"{_LAYER}mlp_norm.scale"),
    f"{_BLOCK}attn_q.weight": Target(f"{_LAYER}attention.q.w", True),
    f"{_BLOCK}attn_k.weight": Target(f"{_LAYER}attention.k.w", True),
    f"{_BLOCK}attn_v.weight": Target(f"{_LAYER}attention.v.w", True),
    f"{_BLOCK}attn_output.weight": Target(f"{_LAYER}attention.out.w", True),
    f"{_BLOCK}attn_q.bias": Target(f"{_LAYER}attention.q.b"),
    f"{_BLOCK}attn_k.bias": Target(f"{_LAYER}attention.k.b"),
    f"{_BLOCK}attn_v.bias": Target(f"{_LAYER}attention.v.b"),
    f"{_BLOCK}attn_output.bias": Target(f"{_LAYER}attention.out.b"),
    f"{_BLOCK}attn_q_norm.weight": Target(f"{_LAYER}attention.q_norm.scale"),
    f"{_BLOCK}attn_k_norm.weight": Target(f"{_LAYER}attention.k_norm.scale"),
    f"{_BLOCK}ffn_gate.weight": Target(f"{_LAYER}mlp.gate.w", True),
    f"{_BLOCK}ffn_up.weight": Target(f"{_LAYER}mlp.up.w", True),
    f"{_BLOCK}ffn_down.weight": Target(f"{_LAYER}mlp.down.w", True),
    f"{_BLOCK}ffn_gate.bias": Target(f"{_LAYER}mlp.gate.b"),
    f"{_BLOCK}ffn_up.bias": Target(f"{_LAYER}mlp.up.b"),
    f"{_BLOCK}ffn_down.bias": Target(f"{_LAYER}mlp.down.b"),
    # a mixture of experts: all of a layer in one tensor
    f"{_BLOCK}ffn_gate_inp.weight": Target(f"{_LAYER}mlp.router", True),
    f"{_BLOCK}ffn_gate_exps.weight": Target(_GATE_UP, True, part=(0, 2)),
    f"{_BLOCK}ffn_up_exps.weight": Target(_GATE_UP, True, part=(1, 2)),
    f"{_BLOCK}ffn_down_exps.weight": Target(f"{_LAYER}mlp.down", True),
}

INTERLEAVED = re.compile(r"\.attn_(q|k)\.(weight|bias)$")
"""Where llama.cpp's converter changes the order of rows, in Llama and its kin alone."""

NO_WEIGHTS = re.compile(f"^{re.escape(ROPE_FACTORS)}$")
